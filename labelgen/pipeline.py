"""Functions for the command line and Python users: `resolve`, `build`, `add`, `append`, `plan`, `status`, `verify`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen import config as configs
from labelgen import registry, resources
from labelgen.config import BuildConfig
from labelgen.errors import ConfigError, StoreError, StoreMismatchError
from labelgen.progress import Listener, silent
from labelgen.stages.build import Build
from labelgen.stages.ingest.compare import compare_sources
from labelgen.stages.ingest.corpus_source import known_already, read_appended
from labelgen.stages.ingest.ingest import refuse_missing_root
from labelgen.stages.plan.change import Change, merged, removed, resolve_drop
from labelgen.stages.plan.check_names import check_names
from labelgen.stages.report import BuildReport, report_of
from labelgen.stages.running import cleanup, lock
from labelgen.stages.running.inventory import refuse_foreign
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.status import Status, status
from labelgen.stages.seal import seal
from labelgen.store import layout
from labelgen.store.manifest import Manifest, load_manifest

if TYPE_CHECKING:
    from labelgen.stages.estimate.cost import CostPlan
    from labelgen.store.verify.store import Report


__all__ = [
    "BuildReport",
    "CostPlan",
    "Status",
    "add",
    "append",
    "build",
    "check_names",
    "plan",
    "resolve",
    "status",
    "verify",
]


def resolve(*, recipe: str = "", dataset: str = "", overrides: Sequence[str] = ()) -> BuildConfig:
    """A build config from a recipe (name or path), a data set, and `table.field=value` texts, in this order.

    A data set without a recipe takes the shipped recipe of its name, else the embedded teachers. Names of data sets,
    teachers and engines are checked by `build` and `plan`.

    Raises:
        ConfigError: unknown tables or fields (near names are offered), wrong values.
    """
    if not recipe and not dataset:
        raise ConfigError("nothing to build", todo="name a data set (--dataset demo) or a recipe (--recipe my.toml)")
    data: dict[str, Any] = {}
    if recipe:
        data = configs.read_recipe(recipe)
        configs.refuse_address(data)
    elif dataset in resources.recipe_names():
        data = configs.read_recipe(dataset)
    if dataset:
        data = {**data, "dataset": {**data.get("dataset", {}), "name": dataset}}
    return configs.from_dict(configs.override(data, overrides))


def _checked(config: BuildConfig) -> BuildConfig:
    """The config with the digest of its patch, which is part of the recipe's identity.

    Raises:
        UnknownNameError, SpecError: see `check_names`.
        DatasetError: the patch cannot be read or contradicts itself.
        ConfigError: a digest is given, and the file has another one, or there is no file.
    """
    check_names(config)
    dataset = config.dataset
    if not dataset.patch and not dataset.patch_digest:
        return config
    if dataset.patch and dataset.patch_digest and not Path(dataset.patch).expanduser().is_file():
        return config  # a change of a sealed store may not need it; reading the data set again would fail
    if not dataset.patch:
        raise ConfigError("dataset.patch_digest without a patch", todo="name the file with --patch")
    from labelgen.patches.patch import read

    digest = read(dataset.patch).digest
    if dataset.patch_digest not in ("", digest):
        raise ConfigError(
            f"the patch {dataset.patch} was changed",
            found=f"digest {digest}",
            expected=dataset.patch_digest,
            todo="build another store with it: the rows of a sealed store do not change",
        )
    return replace(config, dataset=replace(dataset, patch_digest=digest))


def build(
    config: BuildConfig,
    out: str | Path,
    *,
    progress: Listener = silent,
    fresh: bool = False,
    discard: bool = False,
    update: bool = False,
    drop: Sequence[str] = (),
    allow_other_machine: bool = False,
) -> BuildReport:
    """Build a sealed store in the folder `out`, or resume the unfinished build there.

    Args:
        config: see `resolve`.
        out: folder of the store; made if it does not exist.
        progress: called with every `Event`.
        fresh: remove everything that was built in `out`, sealed or not, once the data set is read and the teachers are
            loaded.
        discard: remove the unfinished work in `out`; sealed files stay.
        update: add to a sealed store what `config` has beyond it: relations, a larger k, further teachers. Sealed files
            stay, but for lists that a longer one of the same kind replaces.
        drop: with `update`: teachers (by alias) and lists (`t2t`, `t2t.text`, `t2t.text.k64`) to remove.
        allow_other_machine: resume work that was begun on another machine class or library set.

    Raises:
        LabelgenError: see the tree in `labelgen.errors`. Finished tasks are kept.
    """
    config = _checked(config)
    root = Path(out)
    _refuse_other_folder(root)
    started = time.perf_counter()
    with cleanup.locked(root):
        if fresh or not (root / layout.MANIFEST).exists():
            refuse_foreign(root)
        sealed = load_manifest(root) if (root / layout.MANIFEST).exists() and not fresh else None
        change = Change()
        if sealed is None:
            if drop:
                raise ConfigError("there is no sealed store to drop from", found=str(root), todo="leave --drop out")
            refuse_missing_root(config.dataset)
        else:
            if discard:
                cleanup.remove_all_but(root, sealed)
            begun = lock.read_pending(root) if drop else None
            change = resolve_drop(sealed, drop, done=begun["identity"].get("drop", ()) if begun else ())
            config = _changed_recipe(root, sealed, config, change, update=update)
            if not lock.changed_fields(sealed, config) and not change.paths:
                return _already_sealed(root, sealed, config, drop)
        work = Build(root, config, sealed, progress, allow_other_machine, change=change)
        work.fresh = fresh or (discard and sealed is None)
        manifest = _run(work)
    seconds = time.perf_counter() - started
    dropped = removed(sealed, manifest) if sealed is not None else ()
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, removed=dropped)


def _run(work: Build) -> Manifest:
    """Run all stages, seal, and clean up; a change that fails before its first task leaves no note."""
    root, run = work.root, work.config.run
    executor = registry.load("executor", run.executor)(run=run, engine=work.config.search.engine)
    begun = (root / layout.PENDING).exists()
    try:
        with PeakMeter(tree=True) as meter:
            manifest = seal(root, work.config, work.run(executor, meter), work.sealed)
    except BaseException:
        if work.sealed is not None and not begun:
            cleanup.forget_change(root, work.sealed)
        raise
    cleanup.remove_all_but(root, manifest)
    return manifest


def _changed_recipe(root: Path, sealed: Manifest, config: BuildConfig, change: Change, *, update: bool) -> BuildConfig:
    """The recipe of a sealed store after a change, which may add teachers and lists, but no rows.

    Raises:
        StoreMismatchError: the recipe differs and `update` is not given, or it differs in its rows.
    """
    differing = [*lock.changed_fields(sealed, config), *(f"--drop {name}" for name in change.names)]
    if differing and not update:
        raise StoreMismatchError(
            f"the store at {root} is sealed with another recipe",
            found="; ".join(differing),
            expected="the recipe in its manifest",
            todo="add to it with --update (further teachers, relations, k), or replace it with --fresh",
        )
    config = merged(sealed, config, change) if update else config
    rows = [field for field in lock.changed_fields(sealed, config) if field.startswith("dataset.")]
    if rows:
        raise StoreMismatchError(
            "a change cannot replace the rows of a sealed store",
            found="; ".join(rows),
            todo="build another store, or replace this one with --fresh",
        )
    return config


def add(
    out: str | Path,
    *,
    teachers: Mapping[str, str] | None = None,
    relations: Sequence[str] = (),
    k: int = 0,
    drop: Sequence[str] = (),
    overrides: Sequence[str] = (),
    progress: Listener = silent,
    discard: bool = False,
    allow_other_machine: bool = False,
) -> BuildReport:
    """Change a sealed store: its recipe with further teachers (alias -> spec) or relations, or a larger k.

    Nothing that is sealed is computed again, and nothing is removed but what `drop` names (see `build`) and lists that
    longer ones replace; readers see the old store until the manifest is swapped. The settings of the run are never
    taken from the store: they are those in `overrides`, else the defaults.

    Raises:
        StoreMismatchError: the store has an alias with another spec.
    """
    sealed = load_manifest(Path(out))
    data = configs.override(configs.without_run(sealed.recipe), overrides)
    search = dict(data["search"])
    if relations and search.get("relations"):
        search["relations"] = list(dict.fromkeys([*search["relations"], *relations]))
    if k:
        search["k"] = k
    data |= {"teachers": {**data["teachers"], **(teachers or {})}, "search": search}
    return build(
        configs.from_dict(data),
        out,
        progress=progress,
        update=True,
        drop=drop,
        discard=discard,
        allow_other_machine=allow_other_machine,
    )


def append(
    out: str | Path,
    *,
    dataset: str = "",
    overrides: Sequence[str] = (),
    progress: Listener = silent,
    discard: bool = False,
    allow_other_machine: bool = False,
) -> BuildReport:
    """Append new images with their captions to the rows of a sealed store, at the cost of comparing new x all.

    Existing rows keep their numbers, ids and embeddings bit for bit; the neighbour lists are those of a full search
    over all stored embeddings. Readers see the old store until the manifest is swapped. Images of the data set that
    the store holds, with the same captions, are skipped and counted; where none is new, nothing is done.

    Args:
        dataset: another adapter than the store's, whose options are then not used.
        overrides: `table.field=value` texts over the store's recipe: of `dataset` (`root`, `splits`, `options`, and
            `limit` and `patch`, which are not taken from it), of `run`, and `search.engine`.

    Raises:
        DatasetError: images that the store holds with other captions, or caption ids of other captions.
        StoreMismatchError: a teacher of the store has other weights, or there is another unfinished change.
    """
    root = Path(out)
    started = time.perf_counter()
    sealed = load_manifest(root)
    with cleanup.locked(root):
        config, source = _append_configs(sealed, dataset, overrides)
        if discard:
            cleanup.remove_all_but(root, sealed)
        lock.refuse_other_work(root, lock.work_identity(config, source), changing=True)
        joined = read_appended(root, sealed, source)
        added, skipped = len(joined.new.images), joined.skipped
        if not added:
            cleanup.remove_all_but(root, sealed)
            notes = [*known_already(joined), "nothing is new: the store is unchanged"]
            return report_of(root, sealed, changed=False, notes=notes, skipped=skipped)
        del joined  # the build reads it again, and compares it with the note of the work
        work = Build(root, config, sealed, progress, allow_other_machine, append=source)
        manifest = _run(work)
    seconds = time.perf_counter() - started
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, appended=added, skipped=skipped)


def _append_configs(
    sealed: Manifest, dataset: str, overrides: Sequence[str]
) -> tuple[BuildConfig, configs.DatasetConfig]:
    """The recipe of a sealed store with the settings of this run, and the data set that is appended."""
    recipe = configs.without_run(sealed.recipe)
    approximate = [entry.path for entry in sealed.neighbors if entry.approximate]
    if approximate:
        raise StoreMismatchError(
            "nothing can be appended to approximate lists: the neighbours they lack are unknown",
            found=", ".join(approximate),
            expected="exact lists",
            todo="build a store of all images, or one with exact lists (--approximate '')",
        )
    same = dataset in ("", recipe["dataset"]["name"])
    given = {**recipe["dataset"], "limit": 0, "patch": "", "patch_digest": ""} if same else {"name": dataset}
    config = _checked(configs.from_dict(configs.override({**recipe, "dataset": given}, overrides)))
    whole = replace(config, dataset=configs.from_dict(recipe).dataset)
    differing = lock.changed_fields(sealed, whole)
    if differing:
        raise StoreMismatchError(
            "an append cannot change the recipe of the store",
            found="; ".join(differing),
            todo="use two commands: append, and change the store",
        )
    return whole, config.dataset


def _already_sealed(root: Path, sealed: Manifest, config: BuildConfig, drop: Sequence[str]) -> BuildReport:
    """Compare the data set with the store; complete the cleanup of a build that was killed after its commit."""
    pending = lock.refuse_other_work(root, lock.work_identity(config, None, drop), changing=True)
    notes = compare_sources(root, sealed, config)
    if pending is not None:
        cleanup.remove_all_but(root, sealed)
    return report_of(root, sealed, changed=False, notes=notes)


def _refuse_other_folder(root: Path) -> None:
    """Refuse a file, and a folder with files of others in it."""
    if root.is_file():
        raise StoreError(f"{root} is a file", expected="a folder, or a path that does not exist yet")
    if not root.is_dir() or (root / layout.MANIFEST).exists() or (root / layout.WORK).exists():
        return
    there = sorted(path.name for path in root.iterdir())
    if there:
        raise StoreError(
            f"{root} is not a store and not empty",
            found=", ".join(there[:5]) + (" ..." if len(there) > 5 else ""),
            expected="an empty or new folder, a store, or an unfinished build",
            todo="choose another --out",
        )


def plan(config: BuildConfig, *, calibrate: bool = True, progress: Listener = silent) -> CostPlan:
    """Estimate the cost of a build by stage: rows, bytes, seconds (from a short calibration on this machine), memory.

    Reads the data set's metadata and loads the teachers; writes nothing.
    """
    from labelgen.stages.estimate.cost import estimate

    return estimate(_checked(config), calibrate=calibrate, progress=progress)


def verify(
    path: str | Path,
    *,
    deep: bool = False,
    sample: int = 64,
    seed: int = 0,
    data_root: str = "",
    progress: Listener = silent,
) -> Report:
    """Check a sealed store: every byte against the manifest, and the tables and arrays against each other.

    Args:
        deep: also search `sample` images again by brute force (equal bits), and embed a sample again where the
            teacher and the data are available (within a tolerance).
        seed: of the sample.
        data_root: folder of the data set, if it was moved since the build.
    """
    from labelgen.store.verify.store import verify as verify_files

    shallow = verify_files(Path(path), progress=progress)
    if not deep or not shallow.ok:
        return shallow
    from labelgen.stages.recheck.recheck import verify_deep

    found = verify_deep(Path(path), sample=sample, seed=seed, data_root=data_root)
    return replace(shallow, problems=(*shallow.problems, *found.problems), notes=(*shallow.notes, *found.notes))
