"""Runtimes of the teachers of a recipe: `auto` is resolved once, and what it was resolved to is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from labelgen.config import BuildConfig
from labelgen.specs import Spec
from labelgen.stages.running import lock
from labelgen.store.manifest import Manifest

AUTO = "auto"


def spec_of_runtime(spec: Spec, runtime: str) -> Spec:
    """The spec with a runtime; that of torch is not written, so that specs of older stores mean what they meant."""
    arguments = {name: value for name, value in spec.arguments.items() if name != "runtime"}
    return Spec.of(spec.name, **arguments, **({} if runtime == "torch" else {"runtime": runtime}))


def as_written(config: BuildConfig, root: Path, sealed: Manifest | None, *, fresh: bool) -> BuildConfig:
    """The config with `auto` replaced by what the store or the unfinished work in a folder has for the same teacher.

    A teacher that neither has keeps `auto`: the build that describes it resolves it.

    Args:
        fresh: what is in the folder is removed, and says nothing.
    """
    teachers = {
        alias: spec_of_runtime(spec, "torch") if spec.arguments.get("runtime") == "torch" else spec
        for alias, spec in config.teachers.items()
    }
    if not fresh and any(spec.arguments.get("runtime") == AUTO for spec in teachers.values()):
        pending = lock.read_pending(root) or {}
        found: Mapping[str, str] = {
            **(sealed.recipe["teachers"] if sealed is not None else {}),
            **pending.get("recipe", {}).get("teachers", {}),
        }
        for alias, spec in teachers.items():
            if spec.arguments.get("runtime") == AUTO and alias in found:
                there = Spec.parse(found[alias])
                if spec_of_runtime(there, AUTO) == spec:
                    teachers[alias] = there
    return replace(config, teachers=teachers)


def runtimes_of(config: BuildConfig) -> frozenset[str]:
    """The libraries beside torch that run the teachers of a recipe."""
    return frozenset(str(spec.arguments.get("runtime")) for spec in config.teachers.values()) & {"openvino"}
