"""What the command line and Python users call: `resolve`, `build`, `add`, `append`, `plan`, `status`, `verify`."""

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

    A data set without a recipe takes the shipped recipe of its name, else the embedded teachers.

    Raises:
        ConfigError: unknown names (near ones are offered), misspelt fields, wrong values.
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
    config = with_patch(configs.from_dict(configs.override(data, overrides)))
    check_names(config)
    return config


def with_patch(config: BuildConfig) -> BuildConfig:
    """The config with the digest of its patch, which is part of the recipe's identity.

    Raises:
        DatasetError: the patch cannot be read or does not hold together.
        ConfigError: a digest is given already, and the file has another one, or there is no file.
    """
    dataset = config.dataset
    if not dataset.patch and not dataset.patch_digest:
        return config
    if dataset.patch and dataset.patch_digest and not Path(dataset.patch).expanduser().is_file():
        return config  # a change of a sealed store may not need it; whoever reads the data set again will say so
    if not dataset.patch:
        raise ConfigError("dataset.patch_digest without a patch", todo="name the file with --patch")
    from labelgen.patches.patch import read

    digest = read(dataset.patch).digest
    if dataset.patch_digest not in ("", digest):
        raise ConfigError(
            f"the patch {dataset.patch} was changed",
            found=f"digest {digest}",
            expected=dataset.patch_digest,
            todo="build another store with it: the rows of this one are what they are",
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
    """Build a sealed store in the folder `out`, or take up the build that was begun there.

    Args:
        config: what to build, see `resolve`.
        out: folder of the store; made if it is not there.
        progress: called with every `Event`.
        fresh: throw away whatever was built in `out` before, sealed or not, once the data set is read and the teachers
            are loaded.
        discard: throw away the unfinished work in `out`; what is sealed stays.
        update: add to a sealed store what `config` has beyond it: relations, a larger k, further teachers. What is
            sealed stays; a list goes where a longer one of the same kind takes its place.
        drop: with `update`: teachers (by alias) and lists (`t2t`, `t2t.text`, `t2t.text.k64`) that go.
        allow_other_machine: go on with work that was begun on another machine class or library set.

    Raises:
        LabelgenError: see the tree in `labelgen.errors`. What was written before stays usable.
    """
    check_names(config)
    config = with_patch(config)
    root = Path(out)
    _refuse_foreign_folder(root)
    started = time.perf_counter()
    with cleanup.locked(root):
        if fresh or not (root / layout.MANIFEST).exists():
            refuse_foreign(root)
        sealed = load_manifest(root) if (root / layout.MANIFEST).exists() and not fresh else None
        if discard and sealed is not None:
            lock.remove_all_but(root, sealed)
        if sealed is None:
            if drop:
                raise ConfigError("there is no sealed store to drop from", found=str(root), todo="leave --drop out")
            refuse_missing_root(config.dataset)
            change = Change()
        else:
            change = _change(root, sealed, drop)
            differing = lock.changed_fields(sealed, config)
            if (differing or drop) and not update:
                raise _other_recipe(root, [*differing, *(f"--drop {name}" for name in drop)])
            config = merged(sealed, config, change) if update else config
            differing = lock.changed_fields(sealed, config)
            if not differing and not change.paths:
                identity = lock.work_identity(config, None, drop)
                return _already_sealed(root, sealed, identity, compare_sources(root, sealed, config))
            _refuse_other_data(sealed, differing)
        work = Build(root, config, sealed, progress, PeakMeter(tree=True), allow_other_machine, change=change)
        work.fresh = fresh or (discard and sealed is None)
        manifest = _run(work)
    seconds = time.perf_counter() - started
    gone = removed(sealed, manifest) if sealed is not None else ()
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, removed=gone)


def _run(work: Build) -> Manifest:
    """All stages, the seal, and the tidying up after it; a change that fails before its first task leaves no note."""
    root, run = work.root, work.config.run
    executor = registry.load("executor", run.executor)(run=run, engine=work.config.search.engine)
    begun = (root / layout.PENDING).exists()
    try:
        with work.meter:
            manifest = seal(root, work.config, work.run(executor), work.sealed)
    except BaseException:
        if work.sealed is not None and not begun:
            cleanup.forget_change(root, work.sealed)
        raise
    lock.remove_all_but(root, manifest)
    return manifest


def _change(root: Path, sealed: Manifest, drop: Sequence[str]) -> Change:
    pending = lock.read_pending(root) if drop else None
    return resolve_drop(sealed, drop, done=pending["identity"].get("drop", ()) if pending else ())


def _other_recipe(root: Path, differing: Sequence[str]) -> StoreMismatchError:
    return StoreMismatchError(
        f"the store at {root} is sealed with another recipe",
        found="; ".join(differing),
        expected="the recipe in its manifest",
        todo="add to it with --update (further teachers, relations, k), or build it anew with --fresh",
    )


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
    """Change a sealed store: its own recipe with further teachers (alias -> spec) or relations, or a larger k.

    Nothing that is sealed is computed again, and nothing of it goes but what `drop` names (see `build`) and lists that
    longer ones take the place of; readers see the old store until the manifest is swapped. How and where it runs is
    never taken from the store: `overrides` say it, else the defaults.

    Raises:
        StoreMismatchError: an alias that is already there with another spec.
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
    """Put new images with their captions behind the rows of a sealed store, at the cost of comparing new x all.

    Rows that are there keep their numbers, ids and embeddings bit for bit; the neighbour lists are those of a full
    search over all stored embeddings. Readers see the old store until the manifest is swapped. Images of the data set
    that the store holds already, with the same captions, are skipped and counted; where none is new, nothing is done.

    Args:
        dataset: another adapter than the store's; the options of that one are then not taken over.
        overrides: `table.field=value` texts over the store's recipe: of `dataset` (`root`, `splits`, `options`, and
            `limit` and `patch`, which are not taken over), of `run`, and `search.engine`.

    Raises:
        DatasetError: images that are there with other captions, or caption ids that others have.
        StoreMismatchError: a teacher of the store has other weights now, or another unfinished change lies there.
    """
    root = Path(out)
    started = time.perf_counter()
    sealed = load_manifest(root)
    with cleanup.locked(root):
        config, source = _append_configs(sealed, dataset, overrides)
        if discard:
            lock.remove_all_but(root, sealed)
        _refuse_other_work(root, lock.work_identity(config, source))
        joined = read_appended(root, sealed, source)
        added, skipped = len(joined.new.images), joined.skipped
        if not added:
            lock.remove_all_but(root, sealed)
            notes = [*known_already(joined), "nothing is new: the store stays as it is"]
            return report_of(root, sealed, changed=False, notes=notes, skipped=skipped)
        del joined  # read again by the build, which checks it against what was noted before
        work = Build(root, config, sealed, progress, PeakMeter(tree=True), allow_other_machine, append=source)
        manifest = _run(work)
    seconds = time.perf_counter() - started
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, appended=added, skipped=skipped)


def _append_configs(
    sealed: Manifest, dataset: str, overrides: Sequence[str]
) -> tuple[BuildConfig, configs.DatasetConfig]:
    """The recipe of a sealed store, with how it is run now, and the data set that is appended."""
    recipe = configs.without_run(sealed.recipe)
    approximate = [entry.path for entry in sealed.neighbors if entry.approximate]
    if approximate:
        raise StoreMismatchError(
            "nothing can be appended to approximate lists: what they left out is not known",
            found=", ".join(approximate),
            expected="exact lists",
            todo="build the store anew with all images, or with exact lists (--approximate '')",
        )
    same = dataset in ("", recipe["dataset"]["name"])
    own = {**recipe["dataset"], "limit": 0, "patch": "", "patch_digest": ""} if same else {"name": dataset}
    config = with_patch(configs.from_dict(configs.override({**recipe, "dataset": own}, overrides)))
    check_names(config)
    kept = replace(config, dataset=configs.from_dict(recipe).dataset)
    differing = lock.changed_fields(sealed, kept)
    if differing:
        raise StoreMismatchError(
            "images are appended to the store as it is",
            found="; ".join(differing),
            todo="append them first, then change the store (or the other way round)",
        )
    return kept, config.dataset


def _already_sealed(root: Path, sealed: Manifest, identity: Mapping[str, Any], notes: Sequence[str]) -> BuildReport:
    """Nothing to do, but perhaps to sweep up after a kill between the commit and the tidying."""
    _refuse_other_work(root, identity)
    if lock.read_pending(root) is not None:
        lock.remove_all_but(root, sealed)
    return report_of(root, sealed, changed=False, notes=notes)


def _refuse_other_work(root: Path, identity: Mapping[str, Any]) -> None:
    """Refuse where an unfinished change lies that is not the one that is asked for."""
    pending = lock.read_pending(root)
    differing = configs.changes(identity, pending["identity"]) if pending is not None else []
    if differing:
        raise StoreMismatchError(
            f"an unfinished change of the store at {root} lies there",
            found="; ".join(differing),
            expected="no unfinished work, or the command that began it",
            todo="finish it with that command, or drop it with --discard (keeps the sealed store)",
        )


def _refuse_foreign_folder(root: Path) -> None:
    """A folder with other things in it is never built into: the build removes what it does not know."""
    if root.is_file():
        raise StoreError(f"{root} is a file", expected="a folder, or a path that does not exist yet")
    if not root.is_dir() or (root / layout.MANIFEST).exists() or (root / layout.WORK).exists():
        return
    there = sorted(path.name for path in root.iterdir())
    if there:
        raise StoreError(
            f"{root} is not a store and not empty",
            found=", ".join(there[:5]) + (" ..." if len(there) > 5 else ""),
            expected="an empty or new folder, a store, or a build that was begun",
            todo="give another --out",
        )


def _refuse_other_data(sealed: Manifest | None, differing: Sequence[str]) -> None:
    """A change may add teachers and lists; the rows of a sealed store are what they are."""
    rows = [field for field in differing if field.startswith("dataset.")]
    if sealed is not None and rows:
        raise StoreMismatchError(
            "a change cannot give a sealed store other rows",
            found="; ".join(rows),
            todo="build another store, or build this one anew with --fresh",
        )


def plan(config: BuildConfig, *, calibrate: bool = True, progress: Listener = silent) -> CostPlan:
    """What a build would cost, by stage: rows, bytes, seconds (from a short calibration on this machine), memory.

    Reads the data set's metadata and loads the teachers; writes nothing.
    """
    from labelgen.stages.estimate.cost import estimate

    check_names(config)
    return estimate(config, calibrate=calibrate, progress=progress)


def verify(
    path: str | Path,
    *,
    deep: bool = False,
    sample: int = 64,
    seed: int = 0,
    data_root: str = "",
    progress: Listener = silent,
) -> Report:
    """Check a sealed store: every byte against the manifest, and what the tables and arrays say against each other.

    Args:
        deep: also search `sample` images again by brute force (equal bits), and embed a sample again where the
            teacher and the data are at hand (within a tolerance).
        seed: of the sample.
        data_root: where the data set lies now, if not where it lay when the store was built.
    """
    from labelgen.store.verify.store import verify as verify_files

    shallow = verify_files(Path(path), progress=progress)
    if not deep or not shallow.ok:
        return shallow
    from labelgen.stages.recheck.recheck import verify_deep

    found = verify_deep(Path(path), sample=sample, seed=seed, data_root=data_root)
    return replace(shallow, problems=(*shallow.problems, *found.problems), notes=(*shallow.notes, *found.notes))
