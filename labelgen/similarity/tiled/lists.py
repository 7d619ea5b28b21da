"""State of the tiled engine during a search: ranges of rows in blocks, and a growing list for every row.

A list is a row of places that fills up unsorted. It serves up to two *ranks*: the best `rows` candidates, and the best
candidates of the best `images` images. Its *floor* is a key (`bits`) that whatever may still matter to
either exceeds; when the places are taken, the floor rises to what they allow and what is not needed is dropped. A list
that cannot drop enough has *failed*: it holds more near ties than places.

One list is enough for `t2t` and `t2i`: a caption's best images are those of the best captions. And `i2t` needs none: a
caption among the k best of an image is among the k best of one of the image's captions (`scores`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.rescoring import Candidates
from labelgen.similarity.tiled import kernels
from labelgen.similarity.tiled.bits import EVERYTHING, NOTHING
from labelgen.types import PAD_SCORE, Float32, Int32, UInt64

#: Places beyond what the ranks take: so many more near ties a list can hold.
SLACK = 126


@dataclass(frozen=True)
class Ranks:
    """Numbers of best candidates, and of best images of candidates, that a list must determine; 0 is none."""

    rows: int
    images: int

    @property
    def places(self) -> int:
        """Places of one list."""
        return 2 * max(self.rows, self.images) + (self.images if self.rows else 0) + SLACK

    @property
    def list_bytes(self) -> int:
        """Bytes of one growing list and of the final ones."""
        return 8 * self.places + 16 + 8 * (2 * self.rows + self.images)


class Lists:
    """The growing lists of consecutive rows.

    Attributes:
        first: row of the first list.
        counts: entries of every list, -1 where it has failed; limits: entries at which its floor is raised; int32 [n].
        floors, row_floors: keys, int32 [n]: what may matter to any rank exceeds the first, to `ranks.rows` both.
        entries: key (turned to unsigned) << 32 | candidate, uint64 [n, places].
        start, group: first candidate, and the image of every candidate, counted from the first one; int32.
    """

    def __init__(self, ranks: Ranks, first: int, count: int, start: int, group: Int32) -> None:
        self.ranks, self.first, self.start, self.group = ranks, first, start, group
        self.counts = np.zeros(count, np.int32)
        most = max(ranks.rows, ranks.images)
        self.limits = np.full(count, min(ranks.places, most + 16 + (most >> 1)), np.int32)
        self.floors, self.row_floors = np.full(count, EVERYTHING), np.full(count, EVERYTHING)
        self.entries = np.empty((count, ranks.places), np.uint64)

    def __len__(self) -> int:
        return len(self.counts)

    def given(self, errors: Errors, scratch: UInt64) -> tuple[Any, ...]:
        """Ranks, errors, arrays and scratch, a number for every place, in the order the kernels take them."""
        arrays = self.counts, self.limits, self.floors, self.row_floors, self.entries, self.start, self.group
        return self.ranks.rows, self.ranks.images, errors.flat, errors.relative, *arrays, scratch

    def candidates(self, low: int, high: int, errors: Errors, scratch: UInt64, *, means: bool) -> Candidates:
        """Entries of the lists [low, high) for exact scoring; none of those that have failed.

        Args:
            means: candidates or queries are means, of which all members are scored.
        """
        kernels.tighten_all(low, high, *self.given(errors, scratch))
        total = int(np.maximum(self.counts[low:high], 0).sum())
        owner, units, keys = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int32)
        kernels.listed(low, high, self.counts, self.entries, owner, units, keys)
        queries = np.arange(self.first + low, self.first + high)
        members = np.full(total, -1) if means else units
        return Candidates(queries, owner, units, members, numbers(keys), self.dropped(low, high, rows=False))

    def dropped(self, low: int, high: int, *, rows: bool) -> Float32:
        """Bound on the candidates that the lists [low, high) have dropped and a rank may need; -inf: none."""
        floors = self.floors[low:high]
        if rows:
            floors = np.maximum(floors, self.row_floors[low:high])
        dropped = numbers(floors)
        dropped[floors == EVERYTHING] = PAD_SCORE
        return dropped

    def failed(self, low: int, high: int) -> NDArray[np.bool_]:
        """Mask of the lists [low, high) that could not hold all near ties."""
        failed: NDArray[np.bool_] = self.counts[low:high] < 0
        return failed


def numbers(keys: Int32) -> Float32:
    """The float32 numbers of keys."""
    bits = keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32)


@dataclass
class Block:
    """Consecutive rows that are one side of a tile.

    Attributes:
        start: first row.
        unit: the rows in low precision; image: image of every row, -1 for dead rows, int32.
        lists: of the range the block belongs to, None where its rows are candidates only.
        lock: held while lists of the block's rows change.
    """

    start: int
    unit: Any
    image: Int32
    lists: Lists | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    seeded: bool = False

    def floors(self) -> Int32:
        """The floor of every row's list."""
        if self.lists is None:
            return np.full(len(self.image), NOTHING)
        start = self.start - self.lists.first
        floors: Int32 = np.where(self.image < 0, NOTHING, self.lists.floors[start : start + len(self.image)])
        return floors

    def seed(self, bits: NDArray[Any], others: Int32, errors: Errors) -> None:
        """First floors of the block's lists, from the similarities of its rows with rows of the images `others`; once.

        See `Tile.sample`.
        """
        if self.lists is None:
            return
        with self.lock:
            if not self.seeded:  # a second time would bring lists back that have failed
                ranks, start = self.lists.ranks, self.start - self.lists.first
                bounds = ranks.rows, ranks.images, errors.flat, errors.relative
                kernels.seed(np.ascontiguousarray(bits), self.image, others, start, *bounds, self.lists.floors)
                self.seeded = True

    def offer(self, other: Block, side: int, hits: Any, errors: Errors, scratch: UInt64) -> None:
        """Take hits (positions, keys, count) into the block's lists; `side`: which position is a row of the block."""
        if self.lists is not None:
            with self.lock:
                starts = self.start - self.lists.first, other.start
                kernels.offer(*hits, side, *starts, *self.lists.given(errors, scratch))
