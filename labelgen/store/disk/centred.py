"""Rows minus a mean row: what similarities in a narrow cone of directions have in common is taken away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from labelgen.similarity.caption_sets import unit64
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.layout import ArraySpec
from labelgen.store.splits import SplitRows
from labelgen.types import Float16, Float64, Int64

#: Numbers of rows that are summed at once.
_PIECE = 1 << 22


class CentredRows:
    """Unit rows of an array minus a mean row, unit length again, float16; zero rows stay zero."""

    def __init__(self, rows: MappedArray, mean: Float64) -> None:
        self.rows, self.mean = rows, mean
        self.spec: ArraySpec = replace(rows.spec, path=f"{rows.spec.path} centred")

    @classmethod
    def of(cls, rows: MappedArray, split: SplitRows | None, offsets: Int64 | None) -> CentredRows:
        """Subtract the mean of the rows of a split, of all rows where it is None or empty.

        Args:
            split: image rows.
            offsets: of captions, [n_images + 1], where rows are captions.
        """
        ranges = list(split.ranges) if split else []
        if offsets is not None:
            ranges = [range(int(offsets[part.start]), int(offsets[part.stop])) for part in ranges]
        return cls(rows, mean_row(rows, [part for part in ranges if len(part)] or [range(len(rows))]))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, start: int, stop: int) -> Float16:
        """Rows [start, stop)."""
        return centred(self.rows.slice(start, stop), self.mean)

    def take(self, rows: Int64) -> Float16:
        """The given rows in the given order, [len(rows), d]."""
        return centred(self.rows.take(rows), self.mean)


def centred(rows: Float16, mean: Float64) -> Float16:
    """unit(unit(x) - mean) of every row, [n, d]; zero rows stay zero."""
    wide = unit64(rows)
    return unit64(wide - mean * wide.any(axis=1, keepdims=True)).astype(np.float16)


def mean_row(rows: MappedArray, ranges: Iterable[range]) -> Float64:
    """Mean of the unit rows of ranges that are not zero, [d]; zero where there is none."""
    total, count = np.zeros(rows.shape[1]), 0
    step = max(1, _PIECE // max(1, rows.shape[1]))
    for chosen in ranges:
        for start in range(chosen.start, chosen.stop, step):
            wide = unit64(rows.slice(start, min(start + step, chosen.stop)))
            total += wide.sum(axis=0)
            count += int(wide.any(axis=1).sum())
    return total / max(count, 1)
