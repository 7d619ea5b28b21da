"""`plan` and `verify`: the cost of a build, and the state of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen import given
from labelgen.errors import ConfigError
from labelgen.pipeline.building import checked
from labelgen.pipeline.inputs import recipe_of
from labelgen.progress import Listener, listener_of, silent
from labelgen.stages.plan.runtimes import with_auto
from labelgen.store.manifest import load_manifest
from labelgen.store.remote.address import is_address
from labelgen.teachers.objects.sealed_objects import sealed_objects

if TYPE_CHECKING:
    from labelgen.stages.estimate.cost import CostPlan
    from labelgen.store.verify.findings import Report


def plan(
    data: Any,
    *,
    teachers: Mapping[str, Any] | None = None,
    root: str | PathLike[str] = "",
    columns: Mapping[str, Any] | None = None,
    photos: str | PathLike[str] = "",
    splits: Sequence[str] = (),
    limit: int = 0,
    k: int = 0,
    relations: Sequence[str] = (),
    kinds: Sequence[str] = (),
    workers: int = 0,
    memory: str = "",
    device: str = "",
    overrides: Sequence[str] = (),
    calibrate: bool = True,
    progress: Listener | None = None,
) -> CostPlan:
    """Estimate the cost of a build by stage: rows, bytes, seconds (from a short calibration on this machine), memory.

    Reads the data set's metadata and loads the teachers; writes nothing (data in memory goes through a folder that is
    deleted again). Arguments as for `build`.
    """
    from labelgen.stages.estimate.cost import estimate

    inputs = recipe_of(
        data,
        "",
        teachers=teachers,
        columns=columns,
        photos=fspath(photos),
        overrides=overrides,
        root=root,
        splits=splits,
        limit=limit,
        k=k,
        relations=relations,
        kinds=kinds,
        workers=workers,
        memory=memory,
        device=device,
    )
    with inputs as (config, _):
        return estimate(with_auto(checked(config)), calibrate=calibrate, progress=listener_of(progress))


def verify(
    path: str | PathLike[str],
    *,
    deep: bool = False,
    sample: int = 64,
    seed: int = 0,
    data_root: str = "",
    teachers: Mapping[str, Any] | None = None,
    progress: Listener = silent,
) -> Report:
    """Check a sealed store: every byte against the manifest, and the tables and arrays against each other.

    Args:
        path: its folder, or the address of a store at a distance: it is copied into a folder that is deleted again.
        deep: also search `sample` images again by brute force (equal bits), and embed a sample again where the
            teacher and the data are available (within a tolerance).
        seed: of the sample.
        data_root: folder of the data set, if it was moved since the build.
        teachers: the objects that the store was made with, by alias; without them their rows are not embedded again.
    """
    from labelgen.store.verify.store import verify as verify_files

    if is_address(path):
        if deep:
            raise ConfigError("deep=True needs the store on this machine", todo="copy it first: labelgen pull")
        from labelgen.store.remote.check import verify_remote

        return verify_remote(fspath(path), progress=progress)
    shallow = verify_files(Path(path), progress=progress)
    if not deep or not shallow.ok:
        return shallow
    from labelgen.stages.recheck.recheck import verify_deep

    with given.giving(sealed_objects([load_manifest(Path(path)).teacher_specs], teachers)):
        found = verify_deep(Path(path), sample=sample, seed=seed, data_root=data_root)
    return replace(shallow, problems=(*shallow.problems, *found.problems), notes=(*shallow.notes, *found.notes))
