"""What the fused engine holds while it searches: ranges of images in blocks of rows, and a growing list a query.

A list is a row of `capacity` places that fills up unsorted. Its *floor* is a key (`fused_kernels`) that whatever may
still be among the k + 1 best exceeds; when the places are taken, the floor rises to what they allow and what is below
it is dropped. A list that cannot drop enough has *failed*: it holds more near ties than places.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.similarity import fused_kernels as kernels
from labelgen.similarity.base import Want
from labelgen.similarity.certificate import Errors
from labelgen.similarity.fused_bits import EVERYTHING, NOTHING
from labelgen.similarity.rescoring import Candidates
from labelgen.types import PAD_SCORE, Float32, Int32, Int64

#: Places beyond two lists of k + 1: so many more near ties a list can hold.
SLACK = 126


def capacity(k: int) -> int:
    """Places of one list."""
    return 2 * (k + 1) + SLACK


def list_bytes(want: Want, grouped: bool) -> int:
    """Bytes of one growing list and of the final one."""
    return capacity(want.k) * (12 if grouped else 8) + 12 + 8 * (want.k + 1)


class Lists:
    """The growing lists of one want for consecutive queries.

    Attributes:
        first: query of the first list; per_image: queries are images that stand for their captions.
        candidates_grouped: candidates are images that stand for their captions.
        counts: entries of every list, -1 where it has failed; limits: entries at which its floor is raised; int32 [n].
        floors: keys, int32 [n].
        entries: key (turned to unsigned) << 32 | candidate, uint64 [n, capacity].
        members: the row of a group that made the maximum, uint32 [n, capacity]; empty where nothing is grouped.
    """

    def __init__(self, want: Want, first: int, count: int, per_image: bool, candidates_grouped: bool) -> None:
        places = capacity(want.k)
        self.want, self.first = want, first
        self.per_image, self.candidates_grouped = per_image, candidates_grouped
        self.counts = np.zeros(count, np.int32)
        self.limits = np.full(count, min(places, want.k + 1 + 16 + (want.k >> 1)), np.int32)
        self.floors = np.full(count, EVERYTHING)
        self.entries = np.empty((count, places), np.uint64)
        grouped = per_image or candidates_grouped
        self.members = np.empty((count, places if grouped else 0), np.uint32)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def places(self) -> tuple[Any, ...]:
        """The arrays in the order the kernels take them."""
        return self.counts, self.limits, self.floors, self.entries, self.members

    def candidates(self, low: int, high: int, errors: Errors) -> Candidates:
        """What the lists [low, high) hold, for exact scoring; nothing of those that have failed."""
        here = slice(low, high)
        kernels.tighten_all(low, high, self.want.k, errors.flat, errors.relative, *self.places)
        owner, place = np.nonzero(np.arange(self.entries.shape[1]) < self.counts[here, None])
        entries = self.entries[here][owner, place]
        ids = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
        if self.members.shape[1]:
            members = self.members[here][owner, place].astype(np.int64)
            members[members == int(kernels.SEVERAL)] = -1
        else:
            members = ids
        dropped = numbers(self.floors[here])
        dropped[self.floors[here] == EVERYTHING] = PAD_SCORE
        keys = ((entries >> np.uint64(32)).astype(np.int64) - 0x80000000).astype(np.int32)
        queries = np.arange(self.first + low, self.first + high)
        return Candidates(queries, owner, ids, members, numbers(keys), dropped)

    def failed(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which of the lists [low, high) could not hold all near ties."""
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
        first, last: images; start: embedding row of the first row.
        unit: the rows in low precision; image: image of every row, -1 for dead rows, int32.
        lists: of the range the block belongs to.
        lock: held while lists of the block's queries change.
    """

    first: int
    last: int
    start: int
    unit: Any
    image: Int32
    lists: list[Lists]
    lock: threading.Lock = field(default_factory=threading.Lock)
    seeded: bool = False

    @cached_property
    def dead(self) -> NDArray[np.bool_]:
        """Rows that are no candidates and have no list."""
        dead: NDArray[np.bool_] = self.image < 0
        return dead

    def floors(self) -> Int32:
        """The lowest floor of the lists that every row offers candidates to, as a query; int32 [rows]."""
        lowest = np.full(len(self.image), NOTHING)
        for held in self.lists:
            if held.per_image:
                np.minimum(lowest, held.floors[np.maximum(self.image - held.first, 0)], out=lowest)
            else:
                start = self.start - held.first
                np.minimum(lowest, held.floors[start : start + len(lowest)], out=lowest)
        lowest[self.dead] = NOTHING
        return lowest


def seed(block: Block, bits: NDArray[Any], other: Block, offsets: Int64, errors: Errors) -> None:
    """First floors of the block's lists, from one tile [block, other]."""
    for held in block.lists:
        bounds = held.want.k, errors.flat, errors.relative, held.floors
        if held.per_image:
            span = block.start, block.first, block.last, -held.first
            kernels.seed_images(bits, block.image, other.image, offsets, *span, *bounds)
        else:
            start = block.start - held.first
            kernels.seed_rows(bits, block.image, other.image, held.candidates_grouped, start, *bounds)
    block.seeded = True


def offer(block: Block, bits: NDArray[Any], other: Block, side: int, hits: Any, met: Any, offsets: Int64,
          errors: Errors) -> None:  # fmt: skip
    """Take hits into the block's lists.

    Args:
        bits: tile [block, other]; side: which number of a hit is a row of the block.
        hits: (positions, keys, count).
        met: for every list, what `fused_kernels.offer_groups` needs.
    """
    places, keys, count = hits
    for held, last_met in zip(block.lists, met, strict=True):
        bounds = held.want.k, errors.flat, errors.relative
        if held.per_image:
            starts = -held.first, other.start, block.start
            kernels.offer_groups(
                bits, places, keys, count, side, 0, block.image, offsets, last_met, *starts, *bounds, *held.places
            )
        elif held.candidates_grouped:
            starts = block.start - held.first, 0, other.start
            kernels.offer_groups(
                bits, places, keys, count, side, 1, other.image, offsets, last_met, *starts, *bounds, *held.places
            )
        else:
            starts2 = block.start - held.first, other.start
            kernels.offer_rows(places, keys, count, side, *starts2, *bounds, *held.places)


def nothing_met(block: Block, other: Block) -> list[Int32]:
    """The start of `met` for one tile: rows of the axis that is not grouped, for every list."""
    return [np.full(len((other if held.per_image else block).image), -1, np.int32) for held in block.lists]
