"""Features in a parquet file: a column of lists, and a column of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.types as kinds
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from labelgen.errors import shown, some
from labelgen.teachers.precomputed.feature_ids import as_ids, id_name_for
from labelgen.teachers.precomputed.feature_limits import MAX_WIDTH, refuse_bomb
from labelgen.types import Modality

#: Rows are read in batches of about this many bytes, of at most this many rows.
_BATCH_BYTES, _BATCH_ROWS = 32 << 20, 256


class ParquetRows:
    """A `Source` over the one list column of a parquet file; at most one batch of rows is in memory.

    Ids are the column whose name says that it holds the ids of this modality's items, of whichever type; else the only
    one of text or whole numbers. Without such a column row i belongs to corpus row i.

    Raises:
        ValueError: no list column, or several; several columns that could be ids; a column that is one by its name and
            holds something else.
    """

    def __init__(self, path: Path, modality: Modality = "image") -> None:
        self._file = ParquetFile(path)
        fields = list(self._file.schema_arrow)
        lists = [field.name for field in fields if _is_list(field.type)]
        if len(lists) != 1:
            raise ValueError(f"{len(lists)} columns of lists: {some(lists)}; expected one")
        self._column = lists[0]
        self._batch = self._bounded()
        others = {field.name: field.type for field in fields if field.name != self._column}
        named = id_name_for(others, modality) or [name for name, kind in others.items() if _is_id(kind)]
        columns = [self._ids(name) for name in named]
        if any(ids != columns[0] for ids in columns):
            raise ValueError(f"{len(named)} columns that could be ids: {some(named)}; expected one")
        self.keys: Sequence[str] | None = columns[0] if columns else None

    def _ids(self, name: str) -> list[str]:
        """A column as ids; one of categories gives its texts, one of bytes UTF-8.

        Raises:
            ValueError: it has another type, or rows without an id.
        """
        table = self._file.read(columns=[name])
        column = table.column(0)
        if table.num_columns != 1 or not _is_id(column.type):
            raise ValueError(f"the column {shown(name)} of ids holds {column.type}, not text or whole numbers")
        if column.null_count:
            raise ValueError(f"{column.null_count:,} rows have no {shown(name)}")
        return as_ids(column.to_pylist())

    def _bounded(self) -> int:
        """Rows in a batch.

        Raises:
            ValueError: rows too long for features, or a column that would fill the memory.
        """
        metadata, widest = self._file.metadata, 1
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(index) for index in range(group.num_columns)]
            for chunk in chunks:
                if chunk.path_in_schema.partition(".")[0] == self._column:
                    refuse_bomb(8 * chunk.num_values, chunk.total_compressed_size)
                    widest = max(widest, -(-chunk.num_values // max(1, group.num_rows)))
        if widest > MAX_WIDTH:
            raise ValueError(f"rows of {widest:,} numbers; expected at most {MAX_WIDTH:,}")
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * widest)))

    def __len__(self) -> int:
        rows: int = self._file.metadata.num_rows
        return rows

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """In the order of `positions`: rows are gathered in file order first, as the format is read forwards."""
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
        for batch in self._file.iter_batches(self._batch, row_groups=[group], columns=[self._column]):
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


def _is_list(kind: Any) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _is_id(kind: Any) -> bool:
    if kinds.is_dictionary(kind):
        return _is_id(kind.value_type)
    forms = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_integer, kinds.is_binary)
    return any(form(kind) for form in (*forms, kinds.is_large_binary, kinds.is_fixed_size_binary))
