"""`resolve` and `build`: a recipe, and the store that is made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen import registry
from labelgen.config import BuildConfig
from labelgen.errors import ConfigError, StoreError, StoreMismatchError
from labelgen.pipeline.inputs import recipe_data, recipe_of
from labelgen.progress import Listener, listener_of
from labelgen.stages.build import Build
from labelgen.stages.ingest.compare import compare_sources
from labelgen.stages.ingest.ingest import refuse_missing_root
from labelgen.stages.plan.change import Change, merged, removed, resolve_drop
from labelgen.stages.plan.check_names import check_names
from labelgen.stages.plan.runtimes import as_written
from labelgen.stages.report import BuildReport, report_of
from labelgen.stages.running import cleanup, lock
from labelgen.stages.running.inventory import refuse_foreign
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.seal import seal
from labelgen.store import layout
from labelgen.store.manifest import Manifest, load_manifest
from labelgen.store.remote.address import hidden, was_address


def resolve(*, recipe: str = "", dataset: str = "", overrides: Sequence[str] = ()) -> BuildConfig:
    """A build config from a recipe (name or path), a data set, and `table.field=value` texts, in this order.

    A data set without a recipe takes the shipped recipe of its name, else the embedded teachers. Names of data sets,
    teachers and engines are checked by `build` and `plan`.

    Raises:
        ConfigError: unknown tables or fields (near names are offered), wrong values.
    """
    return configs.from_dict(configs.override(recipe_data(recipe, dataset), overrides))


def checked(config: BuildConfig) -> BuildConfig:
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
    data: Any,
    out: str | PathLike[str] = "",
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
    executor: str = "",
    overrides: Sequence[str] = (),
    progress: Listener | None = None,
    fresh: bool = False,
    discard: bool = False,
    update: bool = False,
    drop: Sequence[str] = (),
    allow_other_machine: bool = False,
    plan: bool = False,
) -> BuildReport:
    """Build a sealed store in the folder `out`, or resume the unfinished build there.

    Args:
        data: the name of a data set (`coco`; `root` is its folder); the path of a table, of a folder of photographs, of
            tar shards, or of a saved Hugging Face data set; a polars, pandas or arrow table; a Hugging Face `Dataset`
            or `DatasetDict`; a mapping of columns, or an iterable of mappings; a recipe (`*.toml` or `BuildConfig`).
            Pictures are paths, bytes, PIL images or arrays. Data in memory is kept in `<out>.data`, where appends and
            checks read it; give it again to resume.
        out: folder of the store, made if it does not exist; `stores/<name>` for a named data set if empty.
        teachers: alias -> a spec (`"minilm()"`), `"module:factory"`, or an object, see `as_teacher`. MiniLM for texts
            and EfficientNet-Lite2 for images by default.
        columns: meaning -> column of a table: `image` (pictures or their paths), `image_id`, `caption`, `caption_id`,
            `split`, `category`, `kind`, `group`. Columns with usual names are found.
        photos: folder that relative paths of photographs start from.
        splits, limit: what is taken of the data set: all by default; the first `limit` images of every split.
        k, relations: length of the neighbour lists (64), and which of `t2t`, `i2i`, `i2t`, `t2i` (all by default).
        kinds: the captions that lists are over, such as `["human"]`, by their kind; all by default.
        workers, memory, device, executor: of the run; they cannot change the result.
        overrides: other fields of a recipe, as `table.field=value` texts.
        progress: called with every `Event` (`labelgen.progress`); without one plain lines go to stderr.
        fresh: remove everything that was built in `out`, sealed or not, once the data set is read and the teachers are
            loaded.
        discard: remove the unfinished work in `out`; sealed files stay.
        update: add to a sealed store what the recipe has beyond it: relations, a larger k, further teachers. Sealed
            files stay, but for lists that a longer one of the same kind replaces.
        drop: with `update`: teachers (by alias) and lists (`t2t`, `t2t.text`, `t2t.text.k64`) to remove.
        allow_other_machine: resume work that was begun on another machine class or library set.
        plan: estimate a new store first, as `plan` does, and keep the estimated seconds beside those it took
            (`manifest.stages`, `labelgen inspect`).

    Raises:
        LabelgenError: see the tree in `labelgen.errors`. Finished tasks are kept.
    """
    inputs = recipe_of(
        data,
        out,
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
        executor=executor,
    )
    with inputs as (config, notes):
        if not out and not isinstance(data, str):
            raise ConfigError("the store has no folder", todo="name it: labelgen.build(data, 'stores/mine')")
        report = build_config(
            config,
            Path(out or f"stores/{config.dataset.name}"),
            listener_of(progress),
            fresh=fresh,
            discard=discard,
            update=update,
            drop=drop,
            allow_other_machine=allow_other_machine,
            plan=plan,
        )
    return replace(report, notes=(*notes, *report.notes))


def build_config(
    config: BuildConfig,
    root: Path,
    progress: Listener,
    *,
    fresh: bool,
    discard: bool,
    update: bool,
    drop: Sequence[str],
    allow_other_machine: bool,
    plan: bool = False,
) -> BuildReport:
    """Build the store of a config; arguments as for `build`."""
    config = checked(config)
    refuse_other_folder(root)
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
            config = as_written(config, root, None, fresh=fresh or discard)
        else:
            if discard:
                cleanup.remove_all_but(root, sealed)
            begun = lock.read_pending(root) if drop else None
            config = as_written(config, root, sealed, fresh=False)
            change = resolve_drop(sealed, drop, done=begun["identity"].get("drop", ()) if begun else ())
            config = changed_recipe(root, sealed, config, change, update=update)
            if not lock.changed_fields(sealed, config) and not change.paths:
                return _already_sealed(root, sealed, config, drop)
        work = Build(root, config, sealed, progress, allow_other_machine, change=change)
        work.fresh = fresh or (discard and sealed is None)
        if plan and sealed is None:
            from labelgen.stages.estimate.cost import estimate

            work.planned = estimate(config, calibrate=True, progress=progress).by_stage
            started = time.perf_counter()
        manifest = run(work)
    seconds = time.perf_counter() - started
    dropped = removed(sealed, manifest) if sealed is not None else ()
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, removed=dropped)


def run(work: Build) -> Manifest:
    """Run all stages, seal, and clean up; a change that fails before its first task leaves no note."""
    root, run = work.root, work.config.run
    executor = registry.load("executor", run.executor)(run=run, engine=work.config.search.engine)
    begun = (root / layout.PENDING).exists()
    try:
        with PeakMeter(tree=True) as meter:
            built = work.run(executor, meter)
            manifest = seal(root, work.config, built, work.sealed)  # the config has the runtimes that were found
    except BaseException:
        if work.sealed is not None and not begun:
            cleanup.forget_change(root, work.sealed)
        raise
    cleanup.remove_all_but(root, manifest)
    return manifest


def changed_recipe(root: Path, sealed: Manifest, config: BuildConfig, change: Change, *, update: bool) -> BuildConfig:
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


def _already_sealed(root: Path, sealed: Manifest, config: BuildConfig, drop: Sequence[str]) -> BuildReport:
    """Compare the data set with the store; complete the cleanup of a build that was killed after its commit."""
    pending = lock.refuse_other_work(root, lock.work_identity(config, None, drop), changing=True)
    notes = compare_sources(root, sealed, config)
    if pending is not None:
        cleanup.remove_all_but(root, sealed)
    return report_of(root, sealed, changed=False, notes=notes)


def refuse_other_folder(root: Path) -> None:
    """Refuse an address, a file, and a folder with files of others in it."""
    if was_address(root):
        raise ConfigError(
            "a store is built in a folder",
            found=hidden(str(root)),
            todo="build it in a folder, and copy it with `labelgen push`",
        )
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
