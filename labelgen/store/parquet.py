"""The tables of a store: written with a fixed schema; read as polars frames or, for workers, without polars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen.errors import CorruptStoreError, DatasetError
from labelgen.store.atomic import FileFact, atomic_file
from labelgen.store.layout import TABLES
from labelgen.types import Int64

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_ROW_GROUP = 1 << 16


def write_frame(path: Path, frame: pl.DataFrame) -> FileFact:
    """Write a table of the corpus. Its columns and types are those that `layout.TABLES` has for the file's name.

    Equal frames give equal bytes under one version of pyarrow: types, row groups and compression are fixed.

    Raises:
        DatasetError: a missing or unknown column, a null or a number where the type of the column has no room for it.
        DiskError: the disk is full or read-only.
    """
    import pyarrow.parquet as pq

    table = _arranged(path.name, frame)
    with atomic_file(path) as file:
        pq.write_table(table, file, row_group_size=_ROW_GROUP, compression="zstd", version="2.6", store_schema=False)
    return file.fact


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A table, or some of its columns, as a polars frame in row order."""
    import polars as pl

    with path.open("rb") as file:
        return pl.read_parquet(file, columns=list(columns) if columns is not None else None)


class StringColumn:
    """A text column in memory, as compact as Arrow keeps it; gives Python strings for rows."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: Int64) -> list[str]:
        """Values of the given rows (within the column), in their order."""
        import pyarrow as pa

        taken: list[str] = self._values.take(pa.array(rows)).to_pylist()
        return taken


def read_strings(path: Path, column: str) -> StringColumn:
    """One text column, in row order.

    Reads with one thread and without polars, whose thread pool does not survive a fork: loader workers may call this.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pq.read_table(path, columns=[column], use_threads=False)[column].combine_chunks()
    return StringColumn(values if isinstance(values, pa.Array) else pa.concat_arrays(values.chunks))


def iter_columns(path: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Columns as Python values in pieces of at most 65,536 rows, in row order: bounded memory for `verify`.

    Raises:
        CorruptStoreError: not parquet, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=list(columns), use_threads=False):
                yield {name: batch.column(name).to_pylist() for name in columns}
    except (pa.ArrowException, KeyError) as error:
        raise CorruptStoreError(
            f"{path} cannot be read", found=str(error), expected="columns " + ", ".join(columns)
        ) from error


def _arranged(name: str, frame: pl.DataFrame) -> pa.Table:
    import polars as pl
    import pyarrow as pa

    schema = _schema(name)
    if set(frame.columns) != set(schema.names):
        raise DatasetError(
            f"wrong columns for {name}", found=", ".join(frame.columns), expected=", ".join(schema.names)
        )
    for field in schema:
        if not field.nullable and frame[field.name].null_count():
            raise DatasetError(f"nulls in column {field.name!r} of {name}", found=f"{frame[field.name].null_count()}")
    try:
        # The oldest level: pyarrow learnt to cast string views only later than the version we ask for.
        arrow = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return arrow.cast(schema).combine_chunks()
    except pa.ArrowInvalid as error:
        raise DatasetError(f"values that do not fit the columns of {name}", found=str(error)) from error


def _schema(name: str) -> pa.Schema:
    import pyarrow as pa

    types = {"string": pa.string(), "uint32": pa.uint32()}
    return pa.schema(
        [
            pa.field(column, types[kind.rstrip("?")], nullable=kind.endswith("?"))
            for column, kind in TABLES[name].items()
        ]
    )
