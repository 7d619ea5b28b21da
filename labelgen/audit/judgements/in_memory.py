"""Judgements that a caller gives: files, what was read of them, or tables in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen.audit.judgements.judgements import Judgements, Sample, read_judgements, read_sample
from labelgen.corpus.in_memory.rows import Row, rows_of
from labelgen.errors import DatasetError

if TYPE_CHECKING:
    import polars as pl


def judgements_of(given: Any) -> list[Judgements]:
    """Return judgements, of one source or of a list of them.

    Args:
        given: a path (`reader=file` names the reader), `Judgements`, or a table with the columns that a reader expects
            (`labelgen.corpus.in_memory.rows.rows_of`); a list of mappings of single values is one table of records.

    Raises:
        DatasetError: an empty table, or one whose columns no reader knows.
    """
    if not isinstance(given, list | tuple) or _is_records(given):
        given = [given]
    return [_read(item, f"judgements {number}") for number, item in enumerate(given, 1)]


def _read(given: Any, name: str) -> Judgements:
    if isinstance(given, Judgements):
        return given
    if isinstance(given, str | Path):
        return read_judgements(given)
    return read_sample(Sample(Path(name), b"", _table(list(rows_of(given)), name)))


def _is_records(given: list[Any] | tuple[Any, ...]) -> bool:
    return bool(given) and all(
        isinstance(item, Mapping)
        and not any(hasattr(value, "__len__") and not isinstance(value, str | bytes) for value in item.values())
        for item in given
    )


def _table(rows: list[Row], name: str) -> pl.DataFrame:
    """Return records as a frame; a column of values of several kinds keeps them as objects."""
    import polars as pl

    if not rows:
        raise DatasetError(f"{name} has no row", expected="one row a judged pair")
    columns = dict.fromkeys(column for row in rows for column in row)
    return pl.DataFrame([_series(column, [row.get(column) for row in rows]) for column in columns])


def _series(column: str, values: list[Any]) -> pl.Series:
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pl.Series(column, values, pl.Int64 if kinds == {int} else pl.Float64, strict=False)
    if kinds <= {str} or kinds <= {bool}:
        return pl.Series(column, values)
    return pl.Series(column, values, pl.Object)
