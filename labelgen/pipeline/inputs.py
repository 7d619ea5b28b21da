"""What Python users give to a build, as a recipe: a data set in any form, teachers as specs or objects, settings."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen import given, registry, resources
from labelgen.config import BuildConfig
from labelgen.corpus.in_memory import rows, snapshot
from labelgen.corpus.text.table_files import SUFFIXES
from labelgen.errors import ConfigError, DatasetError, shown
from labelgen.store import layout
from labelgen.teachers.objects.given_teacher import is_reference, resolve_teachers, teacher_of_reference

__all__ = ["data_source", "is_reference", "recipe_of", "teacher_of_reference"]

#: Argument of `build`, `plan` and `append` -> the field of a recipe that it sets.
FIELDS: Mapping[str, str] = {
    "root": "dataset.root",
    "splits": "dataset.splits",
    "limit": "dataset.limit",
    "k": "search.k",
    "relations": "search.relations",
    "kinds": "search.kinds",
    "workers": "run.workers",
    "memory": "run.memory",
    "device": "run.device",
    "executor": "run.executor",
}


@dataclass(frozen=True)
class DataSource:
    """A data set as the `[dataset]` table of a recipe; `text_only` where it is known to have no photographs."""

    table: Mapping[str, Any]
    notes: Sequence[str] = ()
    text_only: bool = False


def recipe_data(recipe: str, dataset: str) -> dict[str, Any]:
    """Plain data of a recipe (name or path) and a data set; a data set alone takes the shipped recipe of its name.

    Raises:
        ConfigError: neither is given, or the recipe cannot be read.
    """
    if not recipe and not dataset:
        raise ConfigError("nothing to build", todo="name a data set (--dataset demo) or a recipe (--recipe my.toml)")
    data: dict[str, Any] = {}
    if recipe:
        data = configs.read_recipe(recipe)
        configs.refuse_address(data)
    elif dataset in resources.recipe_names():
        data = configs.read_recipe(dataset)
    return {**data, "dataset": {**data.get("dataset", {}), "name": dataset}} if dataset else data


@contextmanager
def data_source(
    data: Any, out: str | PathLike[str], *, columns: Mapping[str, Any] | None = None, photos: str = ""
) -> Iterator[DataSource]:
    """A data set given as a path or an object. Data in memory is written beside the store, into `<out>.data`.

    What was written now is deleted if the block fails before any work is begun.

    Args:
        out: the store; empty for a folder that lasts as long as the block.
        columns: meaning -> name of the column (`labelgen.corpus.in_memory.snapshot.MEANINGS`), for tables.
        photos: folder of the photographs of a table, see `table_options`.

    Raises:
        DatasetError: no such path, or not a data set.
    """
    if isinstance(data, str | PathLike):
        path = Path(data).expanduser()
        if not path.is_dir() or not rows.is_saved_dataset(path):
            yield DataSource(_on_disk(path, columns, photos))
            return
        data = rows.load_saved(path)
    place = nullcontext(f"{out}.data") if out else tempfile.TemporaryDirectory(prefix="labelgen-")
    with place as name:
        folder = Path(name)
        taken = snapshot.take(data, folder, columns=columns, photos=photos)
        table: dict[str, Any] = {"name": "table", "root": str(taken.table.absolute())}
        notes = [*taken.notes]
        if out and taken.new:
            notes.append(f"the data set is kept in {folder}: appends and checks read it there")
        if taken.photos:
            table["options"] = {"photos": taken.photos}
        try:
            yield DataSource(table, notes, not taken.photos)
        except BaseException:
            if not out or not (Path(out) / layout.PENDING).exists():
                taken.remove()
            raise


def _on_disk(path: Path, columns: Mapping[str, Any] | None, photos: str) -> dict[str, Any]:
    """The data set of a file or folder, by what it holds."""
    if not path.exists():
        raise DatasetError(
            f"there is no data set {shown(str(path))}",
            found=f"no file or folder {shown(str(path.absolute()))}",
            expected=f"a path, or one of {', '.join(registry.names('dataset'))}",
        )
    options = table_options(columns, photos, path if path.is_dir() else path.parent)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DatasetError(f"{path.name} is not a table", expected=f"a file ending in {', '.join(SUFFIXES)}")
        return {"name": "table", "root": str(path), "options": options}
    if any((path / f"captions{suffix}").is_file() for suffix in SUFFIXES):
        return {"name": "table", "root": str(path), "options": options}
    name = "webdataset" if any(path.glob("*.tar")) else "folder"
    if columns:
        raise ConfigError(f"{path} holds no table", found=f"read as {name}", todo="leave out columns=")
    return {"name": name, "root": str(path), "options": options}


def table_options(
    columns: Mapping[str, Any] | None, photos: str | PathLike[str], folder: Path | None = None
) -> dict[str, Any]:
    """Options of the adapter `table` for columns by meaning, and a folder of photographs.

    The folder is taken relative to the working directory if it exists there; recipes have it relative to `folder`, that
    of the data set, or absolute where that is unknown.
    """
    here = Path(photos).expanduser()
    if photos and here.is_dir() and not here.is_absolute():
        photos = os.path.relpath(here, folder) if folder is not None else here.absolute()
    options = {"image_file" if meaning == "image" else meaning: name for meaning, name in (columns or {}).items()}
    return {**options, **({"photos": fspath(photos)} if photos else {})}


def setting_texts(**settings: Any) -> list[str]:
    """`table.field=value` texts of the arguments (`FIELDS`) that are not empty."""
    return [f"{FIELDS[name]}={json.dumps(_setting(value))}" for name, value in settings.items() if _is_set(value)]


@contextmanager
def recipe_of(
    data: Any,
    out: str | PathLike[str],
    *,
    teachers: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    photos: str = "",
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Iterator[tuple[BuildConfig, Sequence[str]]]:
    """The recipe of what a caller gives, and notes on it; its objects are known to teachers in the block.

    Args:
        data: a `BuildConfig`, the name of a data set, or see `data_source`.
        teachers: all teachers of the recipe; of a `BuildConfig` those that replace or complete its own.
        overrides: `table.field=value` texts, as those of `--set`.
        settings: the arguments in `FIELDS`; None and empty ones leave the recipe as it is.

    Raises:
        LabelgenError: see `resolve_teachers`, `data_source` and `labelgen.config.from_dict`.
    """
    specs, objects = resolve_teachers(teachers or {})
    with given.giving(objects), _described(data, out, columns, photos) as (base, notes, text_only):
        found, said = dict(base), list(notes)
        if specs:
            before = found["teachers"] if isinstance(data, BuildConfig) else {}
            found["teachers"] = {**before, **{alias: str(spec) for alias, spec in specs.items()}}
        elif text_only and not found.get("teachers"):
            found["teachers"] = {"text": configs.DEFAULT_TEACHERS["text"]}
            said.append("the data has no photographs: there is no image teacher")
        for argument, value in settings.items():
            if _is_set(value):
                table, _, name = FIELDS[argument].partition(".")
                found[table] = {**found.get(table, {}), name: _setting(value)}
        yield configs.from_dict(configs.override(found, overrides)), said


@contextmanager
def _described(
    data: Any, out: str | PathLike[str], columns: Mapping[str, Any] | None, photos: str
) -> Iterator[tuple[Mapping[str, Any], Sequence[str], bool]]:
    if isinstance(data, BuildConfig):
        yield data.to_dict(), (), False
    elif isinstance(data, str) and data.endswith(".toml"):
        yield recipe_data(data, ""), (), False
    elif isinstance(data, str) and data in registry.names("dataset"):
        base = recipe_data("", data)
        table = dict(base["dataset"])
        table["options"] = {**table.get("options", {}), **table_options(columns, photos)}
        yield {**base, "dataset": table}, (), False
    else:
        with data_source(data, out, columns=columns, photos=photos) as source:
            yield {"dataset": dict(source.table)}, source.notes, source.text_only


def _setting(value: Any) -> Any:
    if isinstance(value, PathLike):
        return str(value)
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _is_set(value: Any) -> bool:
    return value is not None and value not in ("", 0) and not (isinstance(value, Sequence) and not value)
