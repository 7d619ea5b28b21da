"""Read whole files that users name: regular files of bounded size, and parquet.

Other files raise an `OSError` with a sentence as its `strerror`, so that it is reported like a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

#: A data set's text may be large; a patch, a recipe or judgements have a line for every decision of a person.
MAX_TEXT, MAX_DECISIONS = 16 << 30, 1 << 30

#: A file of more than `_SMALL` bytes with less than one of `_HOLLOW` of them on the disk is refused as sparse.
_HOLLOW, _SMALL = 1000, 1 << 20


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: as `opened`; or the bytes do not fit into memory.
    """
    with opened(path, limit) as file:
        try:
            return file.read()
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "its bytes do not fit into memory", str(path)) from error


def opened(path: Path, limit: int = MAX_TEXT) -> BufferedReader:
    """A regular file (a link to one is fine), open for reading.

    Raises:
        OSError: it cannot be read; it is a pipe, a device or a folder; it has more than `limit` bytes, or hardly any of
            its bytes are on the disk.
    """
    # Non-blocking: opening a pipe without a writer would wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    refusal = ""
    if not stat.S_ISREG(status.st_mode):
        refusal = "no regular file, but a folder, a pipe or a device"
    elif status.st_size > limit:
        refusal = f"{status.st_size:,} bytes, of at most {limit:,}"
    elif status.st_size > _SMALL and status.st_blocks * 512 * _HOLLOW < status.st_size:
        refusal = f"{status.st_size:,} bytes, nearly none of which are on the disk"
    if refusal:
        os.close(handle)
        raise OSError(errno.EINVAL, refusal, str(path))
    return os.fdopen(handle, "rb")


def read_parquet(source: Path | IO[bytes], columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a parquet file, or some of its columns, decoded by Arrow: polars' own decoder crashes on some damaged files.

    Args:
        columns: names; `name.field` is a struct with that field alone.

    Raises:
        ValueError: it is not parquet, is damaged, or lacks a column.
    """
    import pyarrow.parquet as pq

    return _framed(lambda: _columns_of(pq.ParquetFile(source), columns))


def parquet_schema(source: Path) -> dict[str, Any]:
    """Return the polars dtypes of the columns of a parquet file; raises as `read_parquet`."""
    import pyarrow.parquet as pq

    return dict(_framed(lambda: pq.read_schema(source).empty_table()).schema)


def _columns_of(file: Any, columns: Sequence[str] | None) -> Any:
    names = file.schema_arrow.names
    absent = [name for name in columns or () if name not in names and name.partition(".")[0] not in names]
    if absent:
        raise ValueError(f"there is no column {absent[0]!r}")
    return file.read(columns=None if columns is None else list(columns))


def _framed(load: Callable[[], Any]) -> pl.DataFrame:
    import polars as pl
    import pyarrow as pa

    try:
        table = load()
        table.validate(full=True)  # texts are UTF-8, offsets lie within their buffers
        frame = pl.from_arrow(table)
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, TypeError) as error:
        raise ValueError(str(error)[:400] or type(error).__name__) from error
    if not isinstance(frame, pl.DataFrame):
        raise ValueError("it holds no table")
    return frame
