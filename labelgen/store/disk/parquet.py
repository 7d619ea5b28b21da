"""The tables of a store: written with a fixed schema; read as polars frames or, for workers, without polars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from labelgen import foreign
from labelgen.errors import CorruptStoreError, DatasetError
from labelgen.store.disk.atomic import FileFact, atomic_file
from labelgen.store.disk.files import open_below
from labelgen.store.layout import ADDED_COLUMNS, TABLES
from labelgen.types import Bool, Int64

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_ROW_GROUP = 1 << 16
#: Decoded bytes of a table: at most this much, or so much a row, or so many times the bytes of the file.
_LEAST_BYTES, _ROW_BYTES, _EXPANSION = 64 << 20, 16 << 10, 256


def write_frame(path: Path, frame: pl.DataFrame) -> FileFact:
    """Write a table of the corpus. Its columns and types are those that `layout.TABLES` has for the file's name, and
    those of `layout.ADDED_COLUMNS` that hold a value.

    Equal frames give equal bytes under one version of pyarrow: types, row groups and compression are fixed.

    Raises:
        DatasetError: a missing or unknown column, a null or a number that the type of the column excludes.
        DiskError: the disk is full or read-only.
    """
    import pyarrow.parquet as pq

    table = _arranged(path.name, frame)
    with atomic_file(path) as file:
        pq.write_table(table, file, row_group_size=_ROW_GROUP, compression="zstd", version="2.6", store_schema=False)
    return file.fact


def read_frame(
    path: Path, columns: Sequence[str] | None = None, *, below: Path | None = None, rows: int | None = None
) -> pl.DataFrame:
    """A table, or some of its columns, as a polars frame in row order.

    Args:
        below: folder of the store: no link between it and the file is followed. Of the file alone when None.
        rows: how many rows it must have; a table with others is not decoded.

    Raises:
        FileNotFoundError: no such file.
        CorruptStoreError: not a regular file, or not a table of so many rows.
    """
    with _opened(path, below, rows) as file:
        try:
            return foreign.read_parquet(file, columns)
        except ValueError as error:
            raise _unreadable(path, str(error)) from error


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

    def of(self, rows: Int64) -> StringColumn:
        """The column of some rows."""
        import pyarrow as pa

        return StringColumn(self._values.take(pa.array(rows)))

    def is_in(self, values: Sequence[str | None]) -> Bool:
        """Mask of the rows that hold one of the values, None for null; bool [n]."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_in(self._values, value_set=pa.array(values, pa.string()))
        mask: Bool = found.to_numpy(zero_copy_only=False)
        return mask

    def numbers(self) -> Int64:
        """The number of every value among the different ones, in order of first appearance; -1 for null; int64 [n]."""
        codes = self._values.dictionary_encode().indices.fill_null(-1)
        numbers: Int64 = codes.to_numpy(zero_copy_only=False).astype("int64")
        return numbers


def read_strings(path: Path, column: str, *, below: Path | None = None, rows: int | None = None) -> StringColumn:
    """One text column, in row order; `below` and `rows` as in `read_frame`.

    Reads with one thread and without polars, whose thread pool does not survive a fork: loader workers may call this.

    Raises:
        FileNotFoundError: no such file.
        CorruptStoreError: not a regular file, not such a table, or far more text than so many rows hold.
    """
    import pyarrow as pa

    pieces = [piece[column] for piece in _batches(path, (column,), below, rows)]
    return StringColumn(pa.concat_arrays(pieces) if pieces else pa.array([], pa.string()))


def iter_columns(path: Path, columns: Sequence[str], *, below: Path | None = None) -> Iterator[dict[str, list[Any]]]:
    """Columns as Python values in pieces of at most 65,536 rows, in row order: bounded memory for `verify`.

    `below` is that of `read_frame`.

    Raises:
        CorruptStoreError: not parquet, or a column is missing.
    """
    for batch in _batches(path, columns, below, None):
        yield {name: values.to_pylist() for name, values in batch.items()}


def _batches(path: Path, columns: Sequence[str], below: Path | None, rows: int | None) -> Iterator[dict[str, Any]]:
    """Columns as Arrow arrays, piece by piece.

    Texts are read as entries of a dictionary first: one long entry, named by every row, would not fit into memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [name for name in columns if TABLES.get(path.name, {}).get(name, "string").startswith("string")]
    try:
        with _opened(path, below, rows) as source, pq.ParquetFile(source, read_dictionary=texts) as file:
            left = max(_LEAST_BYTES, _ROW_BYTES * file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=list(columns), use_threads=False):
                left -= sum(_decoded_bytes(batch.column(name)) for name in columns)
                if left < 0:
                    raise _unreadable(path, f"more than {_ROW_BYTES:,} bytes of text a row")
                yield {name: _plain(batch.column(name)) for name in columns}
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise _unreadable(path, str(error), "columns " + ", ".join(columns)) from error


def _decoded_bytes(values: Any) -> int:
    """Bytes of the texts of a dictionary array; 0 for others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(values, pa.DictionaryArray):
        return 0
    lengths = pc.binary_length(values.dictionary)
    return pc.sum(pc.take(lengths, values.indices).cast(pa.int64())).as_py() or 0


def _plain(values: Any) -> Any:
    return values.dictionary_decode() if hasattr(values, "dictionary_decode") else values


def _opened(path: Path, below: Path | None, rows: int | None) -> BinaryIO:
    """An open table whose footer promises no more than its file and its rows can hold."""
    root = path.parent if below is None else below
    file = open_below(root, path.relative_to(root).as_posix())
    try:
        _refuse_bomb(file, path, rows)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _refuse_bomb(file: BinaryIO, path: Path, rows: int | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = file.seek(0, 2)
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError, ValueError) as error:  # a name that is no UTF-8 is a ValueError
        raise _unreadable(path, str(error)) from error
    if rows is not None and footer.num_rows != rows:
        raise _unreadable(path, f"{footer.num_rows:,} rows", f"the {rows:,} rows that the manifest counts")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    decoded = sum(
        group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)
    )
    if decoded > max(_LEAST_BYTES, _EXPANSION * size):
        raise _unreadable(path, f"{decoded:,} bytes packed into {size:,}")


def _unreadable(path: Path, found: str, expected: str = "a table of a store") -> CorruptStoreError:
    return CorruptStoreError(f"{path} cannot be read", found=found, expected=expected)


def _arranged(name: str, frame: pl.DataFrame) -> pa.Table:
    import polars as pl
    import pyarrow as pa

    empty = [column for column in ADDED_COLUMNS[name] if column in frame.columns and not frame[column].count()]
    frame = frame.drop(empty)
    schema = _schema(name, frame.columns)
    if set(frame.columns) != set(schema.names):
        raise DatasetError(
            f"wrong columns for {name}", found=", ".join(frame.columns), expected=", ".join(schema.names)
        )
    for field in schema:
        if not field.nullable and frame[field.name].null_count():
            raise DatasetError(f"nulls in column {field.name!r} of {name}", found=f"{frame[field.name].null_count()}")
    try:
        # The oldest level: pyarrow learnt to cast string views only later than the oldest version that we support.
        arrow = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        return arrow.cast(schema).combine_chunks()
    except pa.ArrowInvalid as error:
        raise DatasetError(f"values that do not fit the columns of {name}", found=str(error)) from error


def _schema(name: str, present: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    types = {"string": pa.string(), "uint32": pa.uint32()}
    added = {column: kind for column, kind in ADDED_COLUMNS[name].items() if column in present}
    return pa.schema(
        [
            pa.field(column, types[kind.rstrip("?")], nullable=kind.endswith("?"))
            for column, kind in {**TABLES[name], **added}.items()
        ]
    )
