"""State of the tiled engine during a search: blocks of rows, and an unsorted list of candidates for each query row.

A list has a fixed number of places and serves up to two *ranks*: the best `rows` candidates, and the best candidates of
the best `images` images. Its *floor* is a key (`bits`) below everything that can still matter to a rank. When the list
is full, the floor is raised as far as its entries allow and the entries below are dropped. A list that cannot drop
enough has *failed*: it holds more near ties than it has places.

One list serves `t2t` and `t2i`, because the best images of a caption are those of its best captions. `i2t` needs no
list: a caption among the k best of an image is among the k best of one of the image's captions (`scores`).
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
from labelgen.types import PAD_SCORE, Float32, Int32, Int64, UInt64

#: Places beyond those for the ranks: the number of near ties a list can hold.
SLACK = 126


@dataclass(frozen=True)
class Ranks:
    """Numbers of best candidates and of best images that a list must determine; 0 if not requested."""

    rows: int
    images: int

    @property
    def places(self) -> int:
        """Places of one list."""
        return 2 * max(self.rows, self.images) + (self.images if self.rows else 0) + SLACK

    @property
    def list_bytes(self) -> int:
        """Bytes of one list during the search, and of the sorted lists made from it."""
        return 8 * self.places + 16 + 8 * (2 * self.rows + self.images)


class Lists:
    """Lists of consecutive rows, filled during a search.

    Attributes:
        rows_rank, images_rank: numbers of best candidates and images that a list determines; 0 if not requested.
        counts: entries of each list, -1 if it failed; limits: entries at which its floor is raised; int32 [n].
        floors: keys that all entries exceed, int32 [n]; row_floors: keys that all entries for `ranks.rows` exceed too.
        entries: key (turned to unsigned) << 32 | candidate, uint64 [n, places].
        group: of each candidate, see `matrix.Part`; int32 [candidates, 2].
    """

    def __init__(self, ranks: Ranks, spare: tuple[int, int], count: int, group: Int32) -> None:
        self.ranks, self.group = ranks, group
        self.rows_rank, self.images_rank = (
            rank + more if rank else 0 for rank, more in zip((ranks.rows, ranks.images), spare, strict=True)
        )
        self.counts = np.zeros(count, np.int32)
        most = max(self.rows_rank, self.images_rank)
        self.limits = np.full(count, min(ranks.places, most + 16 + (most >> 1)), np.int32)
        self.floors, self.row_floors = np.full(count, EVERYTHING), np.full(count, EVERYTHING)
        self.entries = np.empty((count, ranks.places), np.uint64)

    def __len__(self) -> int:
        return len(self.counts)

    def given(self, errors: Errors, scratch: UInt64) -> tuple[Any, ...]:
        """Arguments of the kernels, in their order: ranks, errors, arrays, and scratch as long as a list."""
        arrays = self.counts, self.limits, self.floors, self.row_floors, self.entries, self.group
        return self.rows_rank, self.images_rank, errors.flat, errors.relative, *arrays, scratch

    def candidates(
        self, low: int, high: int, errors: Errors, scratch: UInt64, queries: Int64, rows: Int64
    ) -> Candidates:
        """Entries of the lists [low, high) for exact scoring, without the lists that failed.

        Args:
            queries: row of each of these lists; rows: row of each candidate.
        """
        kernels.tighten_all(low, high, *self.given(errors, scratch))
        total = int(np.maximum(self.counts[low:high], 0).sum())
        owner, units, keys = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total, np.int32)
        kernels.listed(low, high, self.counts, self.entries, owner, units, keys)
        return Candidates(queries, owner, rows[units], numbers(keys))

    def dropped(self, low: int, high: int, *, rows: bool) -> Float32:
        """Upper bound of the similarities that the lists [low, high) dropped, -inf if none."""
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
    """Convert keys to the float32 numbers they encode."""
    bits = keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32)


@dataclass
class Block:
    """Consecutive rows that form one side of a tile.

    Attributes:
        start: first unit.
        unit: the rows in low precision; image: what keeps pairs of one image apart, -1 for dead rows, int32.
        group: first image of each, counted from the first one of the part, int32.
        lists: lists of the range the block belongs to, None if its rows are candidates only.
        lock: held while the lists of the block change.
    """

    start: int
    unit: Any
    image: Int32
    group: Int32
    lists: Lists | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    seeded: bool = False

    def floors(self) -> Int32:
        """Floor of the list of each row."""
        if self.lists is None:
            return np.full(len(self.image), NOTHING)
        own = self.lists.floors[self.start : self.start + len(self.image)]
        floors: Int32 = np.where(self.image < 0, NOTHING, own)
        return floors

    def seed(self, bits: NDArray[Any], others: Int32, group: Int32, errors: Errors) -> None:
        """Set the first floors of the lists, once, from similarities with some of the others (`Tile.sample`)."""
        if self.lists is None:
            return
        with self.lock:
            if not self.seeded:  # a second time would reset lists that failed
                bounds = self.lists.rows_rank, self.lists.images_rank, errors.flat, errors.relative
                given = self.image, others, group, self.start
                kernels.seed(np.ascontiguousarray(bits), *given, *bounds, self.lists.floors)
                self.seeded = True

    def offer(self, other: Block, side: int, hits: Any, errors: Errors, scratch: UInt64) -> None:
        """Append hits (positions, keys, count) to the lists; `side`: which of the two positions is in this block."""
        if self.lists is not None:
            with self.lock:
                kernels.offer(*hits, side, self.start, other.start, *self.lists.given(errors, scratch))
