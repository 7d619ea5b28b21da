"""Trained teachers of a recipe: the teachers that each is made of, checked by name, then resolved to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from labelgen import registry
from labelgen.errors import ConfigError
from labelgen.specs import Spec
from labelgen.stages.model.facts import TeacherFacts
from labelgen.stages.running import worker
from labelgen.teachers.base import info_of
from labelgen.teachers.trained import Shape, TrainedTeacher


def check_sources(teachers: Mapping[str, Spec]) -> None:
    """Refuse trained teachers whose sources are not among the teachers, before anything is read.

    Raises:
        UnknownNameError: no teacher has the alias; offers near ones.
        ConfigError: a teacher is made of itself, directly or through others.
    """
    infos = {alias: info_of(registry.load("teacher", spec.name)) for alias, spec in teachers.items()}
    made_of = {
        alias: registry.create("teacher", teachers[alias], device="cpu").sources
        for alias, info in sorted(infos.items())
        if info is not None and info.trained
    }
    for alias, sources in made_of.items():
        others = [name for name in teachers if name != alias]
        for source in sources:
            if source not in teachers:
                raise registry.unknown(f"teacher for {alias!r} to be made of, with the alias", source, others)
    _order(made_of)


def derived(teachers: Sequence[TeacherFacts]) -> list[TeacherFacts]:
    """The same teachers, in their order; trained ones with modalities, length of rows and derivation.

    Raises:
        ConfigError: a source lacks the rows that a teacher needs, or as `check_sources`.
    """
    known = {facts.alias: facts for facts in teachers if facts.kind != "trained"}
    trained = {facts.alias: facts for facts in teachers if facts.kind == "trained"}
    for alias in _order({alias: facts.sources for alias, facts in trained.items()}):
        if alias in known:
            continue
        facts = trained[alias]
        teacher: TrainedTeacher = worker.teacher_on(facts.spec, "cpu")
        derivation = teacher.derive({name: Shape(item.modalities, item.dim) for name, item in known.items()})
        sides = frozenset(derivation.rows)
        known[alias] = replace(facts, derivation=derivation, modalities=sides, dim=derivation.dim)
    return [known[facts.alias] for facts in teachers]


def _order(made_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Aliases such that every teacher comes after those that it is made of."""
    try:
        return list(TopologicalSorter(made_of).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(
            "a teacher cannot be made of its own rows", found=circle, expected="sources that do not lead back to it"
        ) from error
