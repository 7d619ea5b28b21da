"""Image rows of a split: one range, or several where images were appended to a sealed store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np

from labelgen.errors import StoreError
from labelgen.store.layout import MAX_ROWS
from labelgen.types import Int64


class SplitRows(Sequence[int]):
    """Image rows of one split, ascending: a sequence of numbers, like a `range`, and equal to one where it is one.

    Appended images follow all older ones, so a split that was appended to may have its rows in several `ranges`.
    `np.asarray(rows)` gives all of them as int64; `start` and `stop` are there where they are one range.
    """

    __slots__ = ("ranges",)

    def __init__(self, ranges: Iterable[range]) -> None:
        """`ranges` ascend and share nothing; neighbouring ones are joined, empty ones left out."""
        joined: list[range] = []
        for rows in ranges:
            if joined and len(rows) and rows.start < joined[-1].stop:
                raise ValueError(f"rows {rows.start} follow rows up to {joined[-1].stop}: ranges must ascend")
            if joined and rows.start == joined[-1].stop:
                joined[-1] = range(joined[-1].start, rows.stop)
            elif len(rows):
                joined.append(range(rows.start, rows.stop))
        self.ranges: tuple[range, ...] = tuple(joined)

    @property
    def start(self) -> int:
        """The first row, where the rows are one range; see `stop`."""
        return self._only().start

    @property
    def stop(self) -> int:
        """The row after the last one, where the rows are one range.

        Raises:
            StoreError: they are several.
        """
        return self._only().stop

    def _only(self) -> range:
        if len(self.ranges) > 1:
            raise StoreError(
                "the rows of this split are not one range: images were appended to the store",
                found=", ".join(f"{rows.start} to {rows.stop - 1}" for rows in self.ranges),
                todo="use np.asarray(rows) for all rows, or rows.ranges for the ranges",
            )
        return self.ranges[0] if self.ranges else range(0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.concatenate([np.empty(0, np.int64), *(np.arange(r.start, r.stop) for r in self.ranges)]).astype(
            dtype or np.int64
        )

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[int]:
        for rows in self.ranges:
            yield from rows

    def __contains__(self, row: object) -> bool:
        return any(row in rows for rows in self.ranges)

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...

    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if len(self.ranges) == 1:
            return self.ranges[0][place]
        rows: Int64 = np.asarray(self)
        found: int | list[int] = rows[place].tolist()
        return found

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SplitRows):
            return self.ranges == other.ranges
        return isinstance(other, range) and len(self.ranges) <= 1 and self._only() == other

    def __hash__(self) -> int:
        return hash(self.ranges) if len(self.ranges) > 1 else hash(self._only())

    def __repr__(self) -> str:
        return f"SplitRows([{', '.join(map(repr, self.ranges))}])"

    def to_json(self) -> list[Any]:
        """`[start, stop]`, or a list of such pairs where there are several."""
        pairs = [[rows.start, rows.stop] for rows in self.ranges] or [[0, 0]]
        return pairs[0] if len(pairs) == 1 else pairs

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> SplitRows:
        """The inverse of `to_json`.

        Raises:
            ValueError: ranges that run backwards, or beyond what a row number can be.
        """
        pairs = data if isinstance(data[0], Sequence) else [data]
        for start, stop in pairs:
            if not (type(start) is int and type(stop) is int and 0 <= start <= stop <= MAX_ROWS + 1):
                raise ValueError(f"rows [{start}, {stop})")
        return cls(range(start, stop) for start, stop in pairs)


def splits_of(names: Sequence[str]) -> dict[str, SplitRows]:
    """Rows of every split from the split of every row, in the order in which splits first appear."""
    starts = [row for row, name in enumerate(names) if row == 0 or name != names[row - 1]]
    ranges: dict[str, list[range]] = {}
    for start, stop in pairwise([*starts, len(names)]):
        ranges.setdefault(names[start], []).append(range(start, stop))
    return {name: SplitRows(found) for name, found in ranges.items()}


def split_numbers(splits: Mapping[str, Sequence[int]], n_images: int) -> Int64:
    """Number of the split of every image, in the order of `splits`; -1 where no split has it; [n_images]."""
    numbers = np.full(n_images, -1, np.int64)
    for number, rows in enumerate(splits.values()):
        numbers[np.asarray(rows, np.int64)] = number
    return numbers
