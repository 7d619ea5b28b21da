"""Checks of the names and arguments of a recipe, before anything is read."""

from __future__ import annotations

from labelgen import registry
from labelgen.config import BuildConfig, SearchConfig
from labelgen.errors import ConfigError
from labelgen.specs import Spec
from labelgen.stages.plan.derive import check_sources


def check_names(config: BuildConfig) -> None:
    """Refuse unknown data sets, teachers and engines and misspelt arguments before anything is read."""
    dataset = registry.load("dataset", config.dataset.name)
    registry.check_arguments("dataset", config.dataset.spec, dataset, ("root",))
    for spec in config.teachers.values():
        registry.check_arguments("teacher", spec, registry.load("teacher", spec.name), ("device",))
    check_sources(config.teachers)
    _check_engines(config.search)


def _check_engines(search: SearchConfig) -> None:
    """Refuse an approximate engine as the exact one, and the other way round."""
    exact = Spec.parse(search.engine)
    registry.check_name("engine", exact.name)
    if search.engine != SearchConfig.engine:  # to load the usual one takes as long as to load torch
        registry.check_arguments("engine", exact, registry.load("engine", exact.name), ("device",))
        if _is_approximate(exact.name):
            raise ConfigError(
                f"the engine {search.engine!r} is approximate: it may miss neighbours",
                found=f"--engine {search.engine}",
                expected="an exact engine",
                todo=f"use --approximate {search.engine!r}: its lists are then marked, with their measured recall",
            )
    if search.approximate:
        spec = Spec.parse(search.approximate)
        if not _is_approximate(spec.name):
            raise ConfigError(
                f"the engine {spec.name!r} is exact", found=f"--approximate {spec}", todo=f"use --engine {spec.name}"
            )
        registry.create("engine", spec, device="cpu")  # refuses arguments that are out of range


def _is_approximate(engine: str) -> bool:
    return bool(getattr(registry.load("engine", engine), "approximate", False))
