"""Data in memory as a table on disk, which the adapter `table` reads: resumes, appends and checks read it again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from labelgen.corpus.in_memory.pictures import Pictures
from labelgen.corpus.in_memory.rows import Row, rows_of
from labelgen.corpus.text.columns import USUAL, usual_column
from labelgen.corpus.text.names import is_utf8, text_id, text_of
from labelgen.errors import DatasetError, shown, some
from labelgen.fingerprint import digest
from labelgen.registry import unknown
from labelgen.store.disk.atomic import write_atomic

#: Meanings of columns, in the order of the table that is written.
MEANINGS = ("image_id", "image", "caption", "caption_id", "split", "category", "kind", "group")
_WRITTEN = {"image": "file_name"}
_LOOKED_AT = 100


@dataclass(frozen=True)
class Snapshot:
    """A table that was written.

    Attributes:
        table: the file, named by its content.
        photos: folder of the photographs, empty where there are none.
        new: files that did not exist before.
        notes: sentences on what was left out.
    """

    table: Path
    photos: str
    new: Sequence[Path] = ()
    notes: Sequence[str] = ()

    def remove(self) -> None:
        """Delete the files that were written now, and the folders that are empty then."""
        for path in self.new:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in self.new} | {self.table.parent}, key=str, reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def take(data: Any, folder: Path, *, columns: Mapping[str, Any] | None = None, photos: str = "") -> Snapshot:
    """Write a data set in memory into `folder`: a table, and the photographs that are not files already.

    Args:
        data: see `rows.rows_of`. A row is a caption, or an image with a list of captions.
        columns: meaning (`MEANINGS`) -> name of the column; `caption` may be a list of columns. Others are found by
            their usual names. Without `image_id` images are named by the path or the content of their picture.
        photos: folder that relative paths of photographs start from; the working directory if empty.

    Raises:
        DatasetError: not a data set, no captions, columns that do not exist, values of wrong types.
        DiskError: the disk is full or read-only.
    """
    pictures = Pictures(folder / "pictures")
    try:
        table = _Table(pictures, dict(columns or {}))
        for number, row in enumerate(rows_of(data)):
            table.add(row, f"row {number}")
        if not table.columns["image_id"]:
            once = "it was read to its end before: make it again, or give a list" if isinstance(data, Iterator) else ""
            raise DatasetError("the data set has no rows", todo=once)
        snapshot = _written(table, folder, photos)
    except BaseException:
        Snapshot(folder / "none", "", pictures.new).remove()
        raise
    return snapshot


@dataclass
class _Table:
    """Columns of the table, filled row by row.

    Attributes:
        named: name of an image that has no id -> path of its picture -> rows of the table.
        without: rows that have no caption.
    """

    pictures: Pictures
    requested: dict[str, Any]
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in MEANINGS})
    chosen: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    named: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    without: int = 0

    def add(self, row: Row, where: str) -> None:
        """Add the captions of a row; raises `DatasetError` for values of wrong types."""
        if not row.keys() <= self.seen.keys():
            self.seen |= dict.fromkeys(row)
            self.chosen = _chosen(self.seen, self.requested)
        entry = {meaning: [row.get(name) for name in names] for meaning, names in self.chosen.items()}
        path, name = self.pictures.place(entry.get("image", [None])[0], where)
        given = entry.get("image_id", [None])[0]
        image_id = name if given is None else text_id(given, where)
        if not image_id:
            raise DatasetError(
                f"{where} has neither an image id nor a picture",
                found=shown(dict(row)),
                todo="give one, or leave such rows out: in pandas frame.dropna(subset=[...])",
            )
        facts = {meaning: _text(entry.get(meaning, [None])[0], where) for meaning in ("split", "category", "group")}
        for caption, caption_id, kind in _captions(entry, where):
            written = {**facts, "image_id": image_id, "image": path or None, "caption": caption}
            written |= {"caption_id": caption_id, "kind": kind}
            if given is None:
                self.named.setdefault(name, {}).setdefault(path, []).append(len(self.columns["image_id"]))
            self.without += caption is None
            for meaning, values in self.columns.items():
                values.append(written.get(meaning))

    def tell_apart(self) -> list[str]:
        """Name different pictures of one file name by their content, too; returns a note on them, if there are any.

        Hugging Face data sets on disk keep the names of files without their folders.
        """
        shared = [name for name, by_path in self.named.items() if len(by_path) > 1]
        for name in shared:
            for path, rows in self.named[name].items():
                for row in rows:
                    self.columns["image_id"][row] = f"{name}-{Path(path).stem}"
        note = f"different pictures have one file name, so their content is part of their ids: {some(shared)}"
        return [note] if shared else []


def _chosen(present: Mapping[str, None], requested: Mapping[str, Any]) -> dict[str, list[str]]:
    """Meaning -> columns.

    Raises:
        UnknownNameError, DatasetError: unknown meanings or columns, or no captions.
    """
    chosen: dict[str, list[str]] = {}
    for meaning, names in requested.items():
        if meaning not in MEANINGS:
            raise unknown("meaning of a column", meaning, MEANINGS)
        chosen[meaning] = [names] if isinstance(names, str) else list(names)
        for name in chosen[meaning]:
            if name not in present:
                raise unknown("column", str(name), present)
    taken = {name for names in chosen.values() for name in names}
    for meaning in MEANINGS:
        name = usual_column(meaning, [column for column in present if column not in taken])
        if meaning not in chosen and name:
            chosen[meaning] = [name]
    if "caption" not in chosen:
        raise DatasetError(
            "the data has no column of captions",
            found=f"columns {some(present)}",
            expected=f"one of {', '.join(USUAL['caption'])}",
            todo=f'name it: columns={{"caption": {_like_captions(present)}}}',
        )
    if "image" not in chosen and "image_id" not in chosen:
        raise DatasetError(
            "the data does not say which image a caption belongs to",
            found=f"columns {some(present)}",
            expected="a column of pictures or of image ids",
            todo='name it: columns={"image": "..."} or columns={"image_id": "..."}',
        )
    return chosen


def _like_captions(present: Mapping[str, None]) -> str:
    """What could be named as the captions: all columns whose names resemble the usual one, else a blank."""
    near = [name for name in present if any(usual in name.lower() for usual in USUAL["caption"])]
    return json.dumps(near if len(near) > 1 else "".join(near) or "...", ensure_ascii=False)


def _captions(entry: Mapping[str, list[Any]], where: str) -> Iterator[tuple[str | None, str | None, str | None]]:
    """(text, id, kind) of every caption of a row; one without a text declares the image alone."""
    texts: list[Any] = []
    for value in entry["caption"]:
        texts += value if isinstance(value, list | tuple) else [value]
    ids, kinds = (_each(entry.get(meaning, [None])[0], len(texts), where) for meaning in ("caption_id", "kind"))
    found = [(text, *rest) for text, *rest in zip(texts, ids, kinds, strict=True) if text is not None]
    for text, name, kind in found:
        yield text_of(text, where), None if name is None else text_id(name, where), _text(kind, where)
    if not found:
        yield None, None, None


def _each(value: Any, count: int, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise DatasetError(f"{where} has {count} captions and a list of {len(value)} for them")
    return value


def _text(value: Any, where: str) -> str | None:
    return None if value is None or value == "" else text_id(value, where)


def _written(table: _Table, folder: Path, photos: str) -> Snapshot:
    columns = table.columns
    notes = table.tell_apart()
    base = _relative(columns["image"], table.pictures, photos)
    named = {_WRITTEN.get(name, name): values for name, values in columns.items() if any(v is not None for v in values)}
    named.setdefault("caption", columns["caption"])
    path = folder / f"captions-{digest(json.dumps(named).encode())[:16]}.parquet"
    new = list(table.pictures.new)
    if not path.is_file():
        stream = BytesIO()
        pl.DataFrame({name: _series(name, values) for name, values in named.items()}).write_parquet(stream)
        write_atomic(path, stream.getvalue())
        new.append(path)
    used = {name for names in table.chosen.values() for name in names}
    unused = [name for name in table.seen if name not in used]
    notes += [f"columns without a meaning are not used: {some(unused)}"] if unused else []
    notes += [f"{table.without:,} rows have no caption: they only say that there is an image"] if table.without else []
    return Snapshot(path, base, new, notes)


def _series(name: str, values: Sequence[str | None]) -> pl.Series:
    """A column of texts; of bytes where one is not UTF-8, which text columns of parquet cannot hold."""
    if name != "caption" or is_utf8("".join(value or "" for value in values)):
        return pl.Series(name, values, dtype=pl.String)
    raw = [
        None if value is None else value.encode("utf-8", "surrogatepass" if _halved(value) else "surrogateescape")
        for value in values
    ]
    return pl.Series(name, raw, dtype=pl.Binary)


def _halved(text: str) -> bool:
    """Whether a text holds surrogates that do not stand for bytes."""
    return any("\ud800" <= mark < "\udc80" or "\udcff" < mark <= "\udfff" for mark in text)


def _relative(paths: list[str | None], pictures: Pictures, photos: str) -> str:
    """Make paths relative, in place, to one folder, and return it; empty where there are none.

    Raises:
        DatasetError: paths outside `photos`, or none of the first hundred is a file.
    """
    distinct = dict.fromkeys(path for path in paths if path is not None)
    if not distinct:
        return ""
    start = Path(photos).expanduser() if photos else Path()
    full = {path: os.path.abspath(start / Path(path).expanduser()) for path in distinct}  # noqa: PTH100 - links stay
    sample = list(full.values())[:_LOOKED_AT]
    if not any(os.path.exists(path) for path in sample):  # noqa: PTH110 - Path.exists raises on overlong names
        raise DatasetError(
            "the photographs are not there",
            found=some(sample, 3),
            todo="give the folder that the paths start from with photos=...",
        )
    own = str(pictures.folder.absolute())
    base = os.path.abspath(start) if photos else os.path.commonpath(map(os.path.dirname, full.values()))  # noqa: PTH100
    outside = [path for path in full.values() if os.path.commonpath([base, path]) != base]
    if outside and photos and any(not path.startswith(own) for path in outside):
        raise DatasetError(
            f"photographs are outside {base}", found=some(outside, 3), todo="give a folder of all of them"
        )
    if outside:
        base = os.path.commonpath([base, own])
    paths[:] = [None if path is None else os.path.relpath(full[path], base) for path in paths]
    return base
