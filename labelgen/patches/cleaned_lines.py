"""Cleaned copies of files of lines: token files, lists of names, CSV, JSONL, and texts beside photographs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelgen.corpus.names import file_stem
from labelgen.errors import DatasetError
from labelgen.patches.removed import Removed
from labelgen.store.atomic import write_atomic

_TOKEN = re.compile(rb"(?P<id>(?P<file>[^\t\n]+)#\d+)\t")


class Columns(NamedTuple):
    """What the columns of a table of captions are called."""

    image_id: str = "image_id"
    caption: str = "caption"
    caption_id: str = "caption_id"


def clean_tokens(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of `file#n<TAB>caption`; image ids are stems of the files."""
    lines = data.splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines):
        match = _TOKEN.match(line)
        if match is None:
            raise DatasetError(
                f"line {number + 1} of {name} is not of a token file",
                found=repr(line[:80]),
                expected="file#n<TAB>caption, or a file that ends in .csv, .tsv, .jsonl, .parquet or .json",
            )
        image = file_stem(match["file"].decode("utf-8", "replace"))
        if not gone.has([image], match["id"].decode("utf-8", "replace")):
            kept.append(line)
    return b"".join(kept), len(kept), len(lines) - len(kept)


def clean_names(_name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of a list of the images of a split, one file name a line; counts no captions."""
    lines = data.splitlines(keepends=True)
    kept = [line for line in lines if file_stem(line.decode("utf-8", "replace").strip()) not in gone.images]
    return b"".join(kept), 0, 0


def clean_pairs(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of `text id, image id, category`: a line is an image and its only text, so they go together."""
    lines, kept = data.splitlines(keepends=True), []
    for number, line in enumerate(lines):
        parts = line.decode("utf-8", "replace").split()
        if len(parts) != 3:
            raise DatasetError(f"line {number + 1} of {name} is not an entry", found=repr(line[:80]))
        if not gone.has([parts[1]], parts[0]):
            kept.append(line)
    return b"".join(kept), len(kept), len(lines) - len(kept)


def table_rows(
    name: str, header: Iterable[str], records: Iterable[Mapping[str, Any]], columns: Columns
) -> Iterator[tuple[str, str]]:
    """(image id, caption id) of every row; caption ids that the table does not give are counted, and a row that stands
    for its image alone has "".

    Raises:
        DatasetError: a column is missing.
    """
    present = list(header)
    absent = [column for column in (columns.image_id, columns.caption) if column not in present]
    if absent:
        raise DatasetError(f"{name} has no {' and no '.join(absent)}", found=", ".join(present))
    numbers: Counter[str] = Counter()
    for record in records:
        image, given = str(record.get(columns.image_id)), record.get(columns.caption_id)
        if record.get(columns.caption) is None:
            yield image, ""
            continue
        yield image, f"{image}#{numbers[image]}" if given in (None, "") else str(given)
        numbers[image] += 1


def clean_csv(name: str, data: bytes, gone: Removed, columns: Columns) -> tuple[bytes, int, int]:
    """Of CSV and TSV with a header; rows that stay keep their quotes and line ends."""
    text = data.decode("utf-8", "surrogateescape")
    used: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            used.append(line)
            yield line

    rows, raw = [], []
    try:
        for row in csv.reader(lines(), delimiter="\t" if name.endswith(".tsv") else ","):
            rows.append(row)
            raw.append("".join(used))
            used.clear()
    except csv.Error as error:
        raise DatasetError(f"{name} is not CSV", found=str(error)) from error
    header = [column.removeprefix("\ufeff") for column in rows[0]] if rows else []
    records = (dict(zip(header, row, strict=False)) for row in rows[1:] if row)
    ids = iter(table_rows(name, header, records, columns))
    stays = [not gone.has([pair[0]], pair[1]) for row in rows[1:] if row for pair in [next(ids)]]
    stay = iter(stays)
    kept = [line for row, line in zip(rows, raw, strict=True) if row is rows[0] or not row or next(stay)]
    return "".join(kept).encode("utf-8", "surrogateescape"), sum(stays), len(stays) - sum(stays)


def clean_jsonl(name: str, data: bytes, gone: Removed, columns: Columns) -> tuple[bytes, int, int]:
    """Of one JSON object a line, one row a caption."""
    lines = data.splitlines(keepends=True)
    records = [_record(name, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    header = dict.fromkeys(key for record in records for key in record)
    rows = iter(table_rows(name, header, records, columns))
    kept, counts = [], [0, 0]
    for line in lines:
        stays = True
        if line.strip():
            image, caption = next(rows)
            stays = not gone.has([image], caption)
            counts[not stays] += bool(caption)
        if stays:
            kept.append(line)
    return b"".join(kept), counts[0], counts[1]


def clean_folder(folder: Path, out: Path, gone: Removed) -> Iterator[tuple[int, int]]:
    """Of the adapter `folder`: texts beside photographs, which are copied if they stay, and `captions.jsonl`."""
    from labelgen.corpus.files import PHOTO_SUFFIXES

    beside = Counter[str]()
    for photo in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES):
        text, image = photo.with_suffix(".txt"), photo.relative_to(folder).as_posix()
        if text.is_file():
            beside[image] += 1
            stays = not gone.has([image], f"{image}#0")
            if stays:
                target = out / text.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, text.read_bytes())
            yield int(stays), int(not stays)
    table = folder / "captions.jsonl"
    if table.is_file():
        lines = table.read_bytes().splitlines(keepends=True)
        done = [_listed(table.name, number, line, beside, gone) for number, line in enumerate(lines, start=1)]
        write_atomic(out / table.name, b"".join(line for line, _, _ in done))
        yield sum(kept for _, kept, _ in done), sum(removed for _, _, removed in done)


def _listed(name: str, number: int, line: bytes, numbers: Counter[str], gone: Removed) -> tuple[bytes, int, int]:
    """A line `{"file": ..., "caption" or "captions": ...}` without the captions that go."""
    if not line.strip():
        return line, 0, 0
    record = _record(name, number, line)
    image = str(record.get("file", "")).removeprefix("./")
    kept = removed = 0
    for key in ("caption", "captions"):
        value = record.get(key)
        texts: Sequence[Any] = [] if value is None else [value] if isinstance(value, str) else value
        left = []
        for text in texts:
            stays = not gone.has([image], f"{image}#{numbers[image]}")
            numbers[image] += 1
            left += [text] if stays else []
        kept, removed = kept + len(left), removed + len(texts) - len(left)
        if len(left) < len(texts):
            record[key] = None if isinstance(value, str) else left
    if image in gone.images:
        return b"", 0, kept + removed
    if not removed:
        return line, kept, 0
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape"), kept, removed


def _record(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"line {number} of {name} is not JSON", found=str(error)) from error
    if not isinstance(record, dict):
        raise DatasetError(f"line {number} of {name} is not a JSON object", found=type(record).__name__)
    return record
