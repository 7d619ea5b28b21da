"""Changes of a sealed store: `add` teachers and lists, `append` images."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen import given, registry
from labelgen.config import BuildConfig
from labelgen.errors import StoreMismatchError
from labelgen.pipeline.building import build_config, checked, run
from labelgen.pipeline.inputs import data_source, setting_texts, table_options
from labelgen.progress import Listener, listener_of
from labelgen.stages.build import Build
from labelgen.stages.ingest.corpus_source import known_already, read_appended
from labelgen.stages.report import BuildReport, report_of
from labelgen.stages.running import cleanup, lock
from labelgen.store.manifest import Manifest, load_manifest
from labelgen.teachers.objects.given_teacher import resolve_teachers
from labelgen.teachers.objects.sealed_objects import sealed_objects


def add(
    out: str | PathLike[str],
    *,
    teachers: Mapping[str, Any] | None = None,
    relations: Sequence[str] = (),
    k: int = 0,
    kinds: Sequence[str] = (),
    drop: Sequence[str] = (),
    overrides: Sequence[str] = (),
    progress: Listener | None = None,
    discard: bool = False,
    allow_other_machine: bool = False,
) -> BuildReport:
    """Change a sealed store: its recipe with further teachers or relations, a larger k, or lists over other `kinds`.

    Nothing that is sealed is computed again, and nothing is removed but what `drop` names (see `build`) and lists that
    longer ones replace; readers see the old store until the manifest is swapped. The settings of the run are never
    taken from the store: they are those in `overrides`, else the defaults.

    Args:
        teachers: alias -> a spec, `"module:factory"` or an object, see `build`.

    Raises:
        StoreMismatchError: the store has an alias with another spec.
    """
    sealed = load_manifest(Path(out))
    specs, objects = resolve_teachers(teachers or {})
    data = configs.override(configs.without_run(sealed.recipe), overrides)
    search = dict(data["search"])
    if relations and search.get("relations"):
        search["relations"] = list(dict.fromkeys([*search["relations"], *relations]))
    search |= {name: value for name, value in (("k", k), ("kinds", kinds)) if value}
    data |= {"teachers": {**data["teachers"], **{alias: str(spec) for alias, spec in specs.items()}}, "search": search}
    with given.giving(objects):
        return build_config(
            configs.from_dict(data),
            Path(out),
            listener_of(progress),
            fresh=False,
            discard=discard,
            update=True,
            drop=drop,
            allow_other_machine=allow_other_machine,
        )


def append(
    out: str | PathLike[str],
    data: Any = None,
    *,
    dataset: str = "",
    teachers: Mapping[str, Any] | None = None,
    root: str | PathLike[str] = "",
    columns: Mapping[str, Any] | None = None,
    photos: str | PathLike[str] = "",
    splits: Sequence[str] = (),
    limit: int = 0,
    overrides: Sequence[str] = (),
    progress: Listener | None = None,
    discard: bool = False,
    allow_other_machine: bool = False,
) -> BuildReport:
    """Append new images with their captions to the rows of a sealed store, at the cost of comparing new x all.

    Existing rows keep their numbers, ids and embeddings bit for bit; the neighbour lists are those of a full search
    over all stored embeddings. Readers see the old store until the manifest is swapped. Images of the data set that
    the store holds, with the same captions, are skipped and counted; where none is new, nothing is done.

    Args:
        data: what is appended, in any form that `build` takes; the data set of the store (at `root`) if None.
        dataset: the same as a name in `data`.
        teachers: the objects that the store was made with, by alias; none are needed for specs.
        root, columns, photos, splits, limit: see `build`.
        overrides: `table.field=value` texts over the store's recipe: of `dataset` (`root`, `splits`, `options`, and
            `limit` and `patch`, which are not taken from it), of `run`, and `search.engine`.

    Raises:
        DatasetError: images that the store holds with other captions, or caption ids of other captions.
        StoreMismatchError: a teacher of the store has other weights, or there is another unfinished change.
    """
    path, sealed = Path(out), load_manifest(Path(out))
    texts = setting_texts(root=root, splits=splits, limit=limit)
    with given.giving(sealed_objects([sealed.teacher_specs], teachers)), ExitStack() as stack:
        given_table: Mapping[str, Any] = {}
        notes: Sequence[str] = ()
        in_table = table_options(columns, photos)
        if isinstance(data, str) and data in registry.names("dataset"):
            dataset = data
        elif data is not None:
            source = stack.enter_context(data_source(data, out, columns=columns, photos=fspath(photos)))
            given_table, notes, in_table = source.table, source.notes, {}  # the source has its options
        texts += [f"dataset.options.{name}={json.dumps(value)}" for name, value in in_table.items()]
        texts += overrides
        report = _append(
            path,
            sealed,
            dataset,
            given_table,
            texts,
            listener_of(progress),
            discard=discard,
            other_machine=allow_other_machine,
        )
    return replace(report, notes=(*notes, *report.notes))


def _append(
    root: Path,
    sealed: Manifest,
    dataset: str,
    given_table: Mapping[str, Any],
    overrides: Sequence[str],
    progress: Listener,
    *,
    discard: bool,
    other_machine: bool,
) -> BuildReport:
    started = time.perf_counter()
    with cleanup.locked(root):
        config, source = _append_configs(sealed, dataset, given_table, overrides)
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
        work = Build(root, config, sealed, progress, other_machine, append=source)
        manifest = run(work)
    seconds = time.perf_counter() - started
    return report_of(root, manifest, changed=True, seconds=seconds, notes=work.notes, appended=added, skipped=skipped)


def _append_configs(
    sealed: Manifest, dataset: str, given_table: Mapping[str, Any], overrides: Sequence[str]
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
    table = dict(given_table)
    if not table:
        same = dataset in ("", recipe["dataset"]["name"])
        table = {**recipe["dataset"], "limit": 0, "patch": "", "patch_digest": ""} if same else {"name": dataset}
    config = checked(configs.from_dict(configs.override({**recipe, "dataset": table}, overrides)))
    whole = replace(config, dataset=configs.from_dict(recipe).dataset)
    differing = lock.changed_fields(sealed, whole)
    if differing:
        raise StoreMismatchError(
            "an append cannot change the recipe of the store",
            found="; ".join(differing),
            todo="use two commands: append, and change the store",
        )
    return whole, config.dataset
