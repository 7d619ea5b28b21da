"""Columns of a CSV, JSONL or parquet file as Python lists."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labelgen.corpus.files import read_lines
from labelgen.errors import DatasetError

#: Suffix -> how it is read.
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


def column_names(path: Path) -> list[str]:
    """Names of the columns, in order; of JSONL all keys in order of first appearance.

    Raises:
        DatasetError: not a file of its suffix's format.
    """
    if path.suffix == ".parquet":
        return list(_parquet_schema(path))
    if path.suffix in (".csv", ".tsv"):
        return next((row for _, row in _csv_rows(path)), [])
    return list(dict.fromkeys(key for _, record in _json_records(path) for key in record))


def read_columns(path: Path, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of the given columns; None where a JSONL record has no such key or a parquet value is null.

    Texts that are not UTF-8 hold lone surrogates (parquet cannot hold such texts, except as binary columns).

    Raises:
        DatasetError: not a file of its suffix's format.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path, names)
    if path.suffix in (".csv", ".tsv"):
        return _csv_columns(path, names)
    return [tuple(record.get(name) for name in names) for _, record in _json_records(path)]


def _parquet_schema(path: Path) -> dict[str, Any]:
    import polars as pl

    try:
        return dict(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path} is not parquet", found=str(error)) from error


def _parquet_rows(path: Path, names: Sequence[str]) -> list[tuple[Any, ...]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(names)))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DatasetError(f"{path} cannot be read", found=str(error)) from error
    return list(zip(*(frame[name].to_list() for name in names), strict=True))


def _csv_columns(path: Path, names: Sequence[str]) -> list[tuple[Any, ...]]:
    rows = _csv_rows(path)
    _, header = next(rows, (0, []))
    wanted = [header.index(name) for name in names]
    columns = []
    for line, row in rows:
        if len(row) != len(header):
            raise DatasetError(
                f"line {line} of {path.name} has {len(row)} fields",
                found=", ".join(row)[:200],
                expected=f"{len(header)} fields, as the header has ({', '.join(header)})",
                todo='put a text that holds a comma, a quote or a newline into quotes: "a cat, asleep"',
            )
        columns.append(tuple(row[index] for index in wanted))
    return columns


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row that is not empty, the header first."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DatasetError(f"line {reader.line_num} of {path.name} is not CSV", found=str(error)) from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of every line that is not blank."""
    for line, text in enumerate(read_lines(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"line {line} of {path.name} is not JSON", found=str(error)) from error
        if not isinstance(record, dict):
            raise DatasetError(f"line {line} of {path.name} is not a JSON object", found=type(record).__name__)
        yield line, record
