"""Features in a parquet file: a column of lists, and a column of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.types as kinds
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

_BATCH = 256
#: Names of an id column, by preference, where there are several of text or whole numbers.
_ID_NAMES = ("id", "image_id", "caption_id", "key")


class ParquetRows:
    """A `Source` over the one list column of a parquet file; at most one batch of rows is in memory.

    Ids are the column named `id`, `image_id`, `caption_id` or `key`, or the only one of text or whole numbers; without
    such a column row i belongs to corpus row i.

    Raises:
        ValueError: no list column, or several; several columns that could be ids.
    """

    def __init__(self, path: Path) -> None:
        self._file = ParquetFile(path)
        fields = list(self._file.schema_arrow)
        self._column = _only([field.name for field in fields if _is_list(field.type)], "columns of lists")
        named = [field.name for field in fields if _is_id(field.type)]
        preferred = [name for name in _ID_NAMES if name in named][:1] or named
        self.keys: Sequence[str] | None = None
        if preferred:
            column = _only(preferred, "columns that could be ids")
            self.keys = [str(value) for value in self._file.read(columns=[column])[column].to_pylist()]

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """In the order asked for: rows are gathered in file order first, as the format is read forwards."""
        gathered = dict(self._gather(sorted(set(positions))))
        return (gathered[position] for position in positions)

    def _gather(self, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        start = 0
        for group in range(self._file.num_row_groups):
            stop = start + self._file.metadata.row_group(group).num_rows
            inside = [position - start for position in wanted if start <= position < stop]
            for row, values in self._read(group, inside):
                yield start + row, values
            start = stop

    def _read(self, group: int, rows: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        if not rows:
            return
        first = 0
        for batch in self._file.iter_batches(_BATCH, row_groups=[group], columns=[self._column]):
            for row in rows:
                if first <= row < first + len(batch):
                    yield row, _numbers(batch.column(0)[row - first])
            first += len(batch)
            if first > rows[-1]:
                return


def _numbers(scalar: Any) -> NDArray[Any]:
    if scalar.values is None:
        return np.empty(0, dtype=np.float32)
    values: NDArray[Any] = scalar.values.to_numpy(zero_copy_only=False)
    return values.copy()  # lets go of the batch


def _only(names: Sequence[str], what: str) -> str:
    if len(names) != 1:
        raise ValueError(f"{len(names)} {what}: {', '.join(names)}; expected one")
    return names[0]


def _is_list(kind: Any) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _is_id(kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_integer(kind))
