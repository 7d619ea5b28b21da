"""Cleaned copies of files of lines: token files, lists of names, CSV and JSONL.

Files are taken apart as their adapters do it; lines that stay keep every byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from labelgen.corpus.adapters.tokens import token_line
from labelgen.corpus.files import ANY_LINE, parse_json, split_lines
from labelgen.corpus.text.csv_rows import read_csv, without_rows
from labelgen.corpus.text.encodings import decode_text
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError, shown
from labelgen.patches.removed import Removed

_MARK = "\ufeff"


class Columns(NamedTuple):
    """What the columns of a table of captions are called."""

    image_id: str = "image_id"
    caption: str = "caption"
    caption_id: str = "caption_id"


class Row(NamedTuple):
    """The image and the caption ids of a row of a table; no ids where it stands for its image alone."""

    image: str
    captions: list[str]

    def stays(self, gone: Removed) -> list[bool]:
        """For each caption whether it stays, or for the image alone."""
        return [not gone.has([self.image], caption) for caption in self.captions or [""]]


def clean_tokens(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of `file#n<TAB>caption`; image ids are stems of the files."""
    mark, lines = _lines(name, data)
    kept = []
    for number, line in enumerate(lines):
        parts = token_line(_without_end(line))
        if parts is None:
            raise DatasetError(
                f"line {number + 1} of {name} is not of a token file",
                found=shown(line, 80),
                expected="file#n<TAB>caption, or a file that ends in .csv, .tsv, .jsonl, .parquet or .json",
            )
        if not gone.has([file_stem(parts.file)], parts.caption_id):
            kept.append(line)
    return _joined(mark, kept), len(kept), len(lines) - len(kept)


def clean_names(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of a list of the images of a split, one file name a line; counts no captions."""
    mark, lines = _lines(name, data)
    return _joined(mark, [line for line in lines if file_stem(line.strip()) not in gone.images]), 0, 0


def clean_pairs(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """Of `text id, image id, category`: a line is an image and its only text, so they go together."""
    mark, lines = _lines(name, data)
    kept, removed = [], 0
    for number, line in enumerate(lines):
        parts = line.split()
        if parts and len(parts) != 3:
            raise DatasetError(f"line {number + 1} of {name} is not an entry", found=shown(line, 80))
        if parts and gone.has([parts[1]], parts[0]):
            removed += 1
        else:
            kept.append(line)
    return _joined(mark, kept), sum(bool(line.strip()) for line in kept), removed


def _lines(name: str, data: bytes) -> tuple[str, list[str]]:
    """The byte order mark, if any, and the lines with their ends."""
    return _MARK if data.startswith(_MARK.encode()) else "", split_lines(decode_text(data, name))


def _without_end(line: str) -> str:
    if line.endswith("\n"):
        return line[:-1].removesuffix("\r")
    return line.removesuffix("\r")


def _joined(mark: str, lines: Iterable[str]) -> bytes:
    return (mark + "".join(lines)).encode("utf-8", "surrogateescape")


def table_rows(
    name: str, header: Iterable[str], records: Iterable[Mapping[str, Any]], columns: Columns
) -> Iterator[Row]:
    """Image and caption ids of every row; caption ids that the table does not give are counted.

    Raises:
        DatasetError: a column is missing.
    """
    present = list(header)
    absent = [column for column in (columns.image_id, columns.caption) if column not in present]
    if absent:
        raise DatasetError(f"{name} has no {' and no '.join(absent)}", found=", ".join(present)[:400])
    numbers: Counter[str] = Counter()
    for record in records:
        image, given = str(record.get(columns.image_id)), record.get(columns.caption_id)
        texts = record.get(columns.caption)
        texts = [] if texts is None else texts if isinstance(texts, list) else [texts]
        listed = given if isinstance(given, list) else [given] * len(texts)
        ids = []
        for one in listed[: len(texts)]:
            ids.append(f"{image}#{numbers[image]}" if one in (None, "") else str(one))
            numbers[image] += 1
        yield Row(image, ids)


def clean_csv(
    name: str, data: bytes, gone: Removed, columns: Columns, options: Mapping[str, str]
) -> tuple[bytes, int, int]:
    """Of CSV and TSV with a header; rows that stay keep their quotes and line ends.

    `options` are `separator` and `quoting`, as the adapter `table` takes them.
    """
    text = decode_text(data, name)
    table = read_csv(text, name, **options)
    records = (dict(zip(table.header, row.fields, strict=True)) for row in table.rows)
    rows = list(table_rows(name, table.header, records, columns))
    stays = [row.stays(gone)[0] for row in rows]
    left = without_rows(text, [row for row, stay in zip(table.rows, stays, strict=True) if not stay])
    mark = _MARK if data.startswith(_MARK.encode()) else ""
    return _joined(mark, left), sum(stays), len(stays) - sum(stays)


def clean_jsonl(name: str, data: bytes, gone: Removed, columns: Columns) -> tuple[bytes, int, int]:
    """Of one JSON object a line, one row a caption or a list of them."""
    lines, records = json_lines(name, data)
    header = dict.fromkeys(key for record in records if record for key in record)
    rows = table_rows(name, header, filter(None, records), columns)
    kept, counts = [], [0, 0]
    for line, record in zip(lines, records, strict=True):
        if not record:
            kept.append(line)
            continue
        row = next(rows)
        stays = row.stays(gone)
        for stay in stays if row.captions else ():
            counts[not stay] += 1
        if all(stays):
            kept.append(line)
        elif any(stays):
            kept.append(rewritten(record, columns, stays, line))
    mark = _MARK if data.startswith(_MARK.encode()) else ""
    return _joined(mark, kept), counts[0], counts[1]


def rewritten(record: Mapping[str, Any], columns: Columns, stays: list[bool], line: str) -> str:
    """A line of JSON with those of its listed captions that stay, and their ids."""
    changed = dict(record)
    for name in (columns.caption, columns.caption_id):
        if isinstance(record.get(name), list):
            changed[name] = [one for one, stay in zip(record[name], stays, strict=True) if stay]
    return json.dumps(changed, ensure_ascii=False) + line[len(line.rstrip("\r\n")) :]


def json_lines(name: str, data: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    """Lines with their ends, and their records, empty of blank lines."""
    lines = ANY_LINE.findall(decode_text(data, name))
    return lines, [_record(name, number, line) if line.strip() else {} for number, line in enumerate(lines, start=1)]


def _record(name: str, number: int, line: str) -> dict[str, Any]:
    record = parse_json(line, f"line {number} of {name}")
    if not isinstance(record, dict):
        raise DatasetError(f"line {number} of {name} is not a JSON object", found=type(record).__name__)
    return record
