"""Columns of a CSV, JSONL or parquet file as Python values, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from labelgen import foreign
from labelgen.corpus.files import LINE_ENDS, parse_json, read_bytes
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.csv_rows import CsvTable, book_rows, check_options, read_csv
from labelgen.corpus.text.encodings import decode_text
from labelgen.errors import DatasetError, some

#: Suffixes of the formats that are read.
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


class TableFile:
    """One table.

    Args:
        path: the file; its suffix (in any case) is its format.
        separator, quoting: of CSV and TSV, see `csv_rows.read_csv`.
        ledger: the account that rows are booked in: all as seen, those that hold nothing as skipped.
    """

    def __init__(self, path: Path, *, separator: str = "", quoting: str = "auto", ledger: Ledger | None = None) -> None:
        check_options(separator, quoting)
        self.path, self.suffix = path, path.suffix.lower()
        self._separator, self._quoting = separator, quoting
        self._ledger = Ledger() if ledger is None else ledger

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, in order; of JSONL all keys in order of first appearance.

        Raises:
            DatasetError: not a file of its suffix's format.
        """
        if self.suffix == ".parquet":
            return list(self._schema)
        if self.suffix in (".csv", ".tsv"):
            return self._csv.header
        return list(dict.fromkeys(key for _, record in self._json for key in record))

    @property
    def pictures(self) -> list[str]:
        """Columns of a parquet file that hold a picture as its bytes with its path, as Hugging Face datasets do."""
        import polars as pl

        if self.suffix != ".parquet":
            return []
        kinds = ((name, kind) for name, kind in self._schema.items() if isinstance(kind, pl.Struct))
        return [name for name, kind in kinds if "path" in {part.name for part in kind.fields}]

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """(line, values of the given columns) of every row: None where a JSONL record has no such key or a parquet
        value is null, the path of a picture.

        `line` counts from 1; it is 0 of parquet. Texts that are not UTF-8 hold lone surrogates
        (parquet cannot hold such texts, except as binary columns).

        Raises:
            DatasetError: not a file of its suffix's format, or a column that occurs twice.
        """
        twice = [name for name in dict.fromkeys(names) if self.columns.count(name) > 1]
        if twice:
            raise DatasetError(
                f"{self.path.name} has {some(twice)} more than once",
                found=f"columns {', '.join(self.columns)[:400]}",
                todo="rename or remove one of them: it is unclear which is meant",
            )
        if self.suffix == ".parquet":
            yield from ((0, values) for values in self._parquet_rows(names))
        elif self.suffix in (".csv", ".tsv"):
            places = [self.columns.index(name) for name in names]
            values = itemgetter(*places, places[0])  # one more, so that a single column gives a tuple, too
            for row in self._csv.rows:
                yield row.line, values(row.fields)[:-1]
        else:
            for line, record in self._json:
                yield line, tuple(record.get(name) for name in names)

    @cached_property
    def _csv(self) -> CsvTable:
        name = self.path.name
        text = decode_text(read_bytes(self.path), name)
        table = read_csv(text, name, separator=self._separator, quoting=self._quoting)
        book_rows(self._ledger, table, name)
        return table

    @cached_property
    def _json(self) -> list[tuple[int, dict[str, Any]]]:
        """(line number, record) of every line that is not blank."""
        records = []
        text = decode_text(read_bytes(self.path), self.path.name)
        lines = LINE_ENDS.split(text)  # strings of JSON hold no raw line end
        for number, line in enumerate(lines[:-1] if not lines[-1] else lines, start=1):
            self._ledger.seen("rows")
            where = f"line {number} of {self.path.name}"
            if not line.strip():
                self._ledger.skipped("rows", "blank line", where)
                continue
            record = parse_json(line, where)
            if not isinstance(record, dict):
                raise DatasetError(f"{where} is not a JSON object", found=type(record).__name__)
            records.append((number, record))
        return records

    @cached_property
    def _schema(self) -> dict[str, Any]:
        try:
            return foreign.parquet_schema(self.path)
        except ValueError as error:
            raise DatasetError(f"{self.path} is not parquet", found=str(error)[:400]) from error

    def _parquet_rows(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        import polars as pl

        distinct = list(dict.fromkeys(names))
        pictures = [name for name in self.pictures if name in distinct]
        try:
            frame = _paths(self.path, distinct, pictures) if pictures else foreign.read_parquet(self.path, distinct)
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise DatasetError(f"{self.path} cannot be read", found=str(error)[:400]) from error
        self._ledger.seen("rows", len(frame))
        for name in pictures:
            self._book_pictures(name, frame[name].to_list())
        return list(zip(*(frame[name].to_list() for name in names), strict=True))

    def _book_pictures(self, name: str, paths: Sequence[Any]) -> None:
        named = [str(path) for path in paths if path is not None]
        self._ledger.seen("pictures inside the table", len(named))
        kind = f"column {name!r}: photographs are read from files, write them to the folder of photographs"
        self._ledger.skipped("pictures inside the table", kind, next(iter(named), ""), len(named), loud=True)


def _paths(path: Path, names: Sequence[str], pictures: Sequence[str]) -> Any:
    """The columns of a parquet file, of pictures their paths alone: their bytes may be more than memory holds."""
    import polars as pl

    frame = foreign.read_parquet(path, [f"{name}.path" if name in pictures else name for name in names])
    return frame.with_columns(pl.col(name).struct.field("path").alias(name) for name in pictures)
