"""Runtimes of the teachers of a recipe: `auto` is resolved once, and what it was resolved to is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from labelgen import registry
from labelgen.config import BuildConfig
from labelgen.specs import Spec
from labelgen.stages.running import lock
from labelgen.store.manifest import Manifest

AUTO = "auto"


def spec_of_runtime(spec: Spec, runtime: str) -> Spec:
    """The spec with a runtime; that of torch is not written, so that specs of older stores mean what they meant."""
    plain = spec.without("runtime")
    return plain if runtime == "torch" else Spec.of(plain.name, **plain.arguments, runtime=runtime)


def as_written(config: BuildConfig, root: Path, sealed: Manifest | None, *, fresh: bool) -> BuildConfig:
    """The config with the runtimes that the store or the unfinished work in a folder has for the same teachers.

    A teacher that neither has, and whose spec names no runtime, gets `auto`: the build that describes it resolves it.

    Args:
        fresh: what is in the folder is removed, and says nothing.
    """
    pending = {} if fresh else lock.read_pending(root) or {}
    found: Mapping[str, str] = {
        **(sealed.recipe["teachers"] if sealed is not None and not fresh else {}),
        **pending.get("recipe", {}).get("teachers", {}),
    }
    teachers = dict[str, Spec]()
    for alias, spec in with_auto(config).teachers.items():
        there = Spec.parse(found[alias]) if alias in found else spec
        same = spec.arguments.get("runtime") == AUTO and spec_of_runtime(there, AUTO) == spec
        teachers[alias] = there if same else spec
    return replace(config, teachers=teachers)


def with_auto(config: BuildConfig) -> BuildConfig:
    """The config with `auto` where the spec of a teacher that takes a runtime names none."""
    return replace(config, teachers={alias: _completed(spec) for alias, spec in config.teachers.items()})


def _completed(spec: Spec) -> Spec:
    """A spec as it is written: `auto` for none, none for torch. Objects have the runtime that their caller chose."""
    runtime = spec.arguments.get("runtime")
    if runtime is not None:
        return spec_of_runtime(spec, str(runtime))
    return (
        spec_of_runtime(spec, AUTO)
        if spec.name != "object" and registry.takes("teacher", spec.name, "runtime")
        else spec
    )


def runtimes_of(config: BuildConfig) -> frozenset[str]:
    """The libraries beside torch that run the teachers of a recipe."""
    return frozenset(str(spec.arguments.get("runtime")) for spec in config.teachers.values()) & {"openvino"}
