"""Rows that are equal bit for bit: searched as one *unit*, and listed as often as they stand.

Copies of a row have the same similarity to everything, and exactly 1 to one another (`exact`). So a unit is a query for
all of its copies and a candidate in place of all of them: one row of every tile and one place of a list. At the end
`listed` writes the copies in its place, in the order of `sort_keys`, and leaves out those of the image of the query,
which differs between the copies of a query.

Let a unit be *whole* if all its copies belong to one image. During the search

- a pair of units is left out if both are whole and of the same image. A query that is not whole also meets the whole
  units of its images, which are no candidates of the copy there: `spare` of them, and as many more are kept;
- an image counts by the units that begin in it, each as good as one of its own captions, so never too often. Only the
  image of a query may be among them, where a copy elsewhere makes a unit a candidate: one more image is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from labelgen.similarity.base import Rows
from labelgen.similarity.sort_keys import PAD_KEY, ROW_MASK, encode
from labelgen.similarity.tiled.bits import compiled
from labelgen.types import Bool, Int32, Int64

#: Numbers of rows that are read at once.
_PIECE = 1 << 20
#: The upper half of the key of a similarity of 1.
_EQUAL = np.uint64(encode(np.ones(1, np.float32), np.zeros(1, np.int64))[0])


@dataclass(frozen=True)
class EqualRows:
    """Consecutive rows as units.

    Attributes:
        firsts: first copy of each unit, counted from the first row, ascending; int64 [units].
        unit: unit of each row; int32 [rows].
        bounds, copies: unit u is the rows copies[bounds[u]:bounds[u + 1]], ascending; int64 [units + 1], int32 [rows].
    """

    firsts: Int64
    unit: Int32
    bounds: Int64
    copies: Int32

    @classmethod
    def none(cls, count: int) -> EqualRows:
        """Every row is a unit."""
        every = np.arange(count, dtype=np.int32)
        return cls(np.arange(count), every, np.arange(count + 1), every)

    @classmethod
    def of(cls, rows: Rows, start: int, stop: int) -> EqualRows:
        """The rows [start, stop) by their bits."""
        first = _first_copies(rows, start, stop)
        firsts = np.flatnonzero(first == np.arange(len(first)))
        if len(firsts) == len(first):
            return cls.none(len(first))
        number = np.cumsum(first == np.arange(len(first))) - 1
        unit = number[first].astype(np.int32)
        bounds = np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=len(firsts)))])
        return cls(firsts, unit, bounds, np.argsort(unit, kind="stable").astype(np.int32))

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def arrays(self) -> tuple[Int32, Int64, Int32]:
        """`unit`, `bounds` and `copies`."""
        return self.unit, self.bounds, self.copies

    def whole(self, image: Int32) -> Bool:
        """Mask of the units whose copies all belong to one image; `image` of each row."""
        whole = np.ones(len(self), bool)
        whole[self.unit[image != image[self.firsts][self.unit]]] = False
        return whole


def _first_copies(rows: Rows, start: int, stop: int) -> Int64:
    """The first row with the bits of each row, counted from `start`; [rows].

    A row may be taken for one of its own although it has a copy (where sums of bits agree by chance), never for a copy.
    """
    dim, count = rows.shape[1], stop - start
    factors = np.random.default_rng(0).integers(0, 2**64, dim, np.uint64)
    sums = np.empty(count, np.uint64)
    step = max(1, _PIECE // dim)
    for low in range(0, count, step):
        bits = rows.slice(start + low, min(start + low + step, stop)).view(np.uint16)
        _sums(bits, factors, sums[low : low + step])
    order = np.argsort(sums, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(sums[order]) != 0)[:count])
    first = np.empty(count, np.int64)
    first[order] = np.repeat(order[begins], np.diff(np.append(begins, count)))
    later = np.flatnonzero(first != np.arange(count))
    for low in range(0, len(later), step):
        here = later[low : low + step]
        same = rows.take(start + here).view(np.uint16) == rows.take(start + first[here]).view(np.uint16)
        other = here[~same.all(axis=1)]
        first[other] = other
    return first


@compiled
def _sums(bits: Any, factors: Any, sums: Any) -> None:
    """Weighted sum of the numbers of each row, modulo 2^64; rows that differ rarely have the same."""
    for row in range(len(bits)):
        total = np.uint64(0)
        for place in range(bits.shape[1]):
            total += np.uint64(bits[row, place]) * factors[place]
        sums[row] = total


@compiled
def _tied(line: Any, place: Any, score: Any, theirs: Any, start: Any, heads: Any, ends: Any, held: Any) -> Any:
    """Take in the copies of all candidates from `place` on whose score is `score`; return the new place and number."""
    unit, bounds, _ = theirs
    while place < len(line) and line[place] & ~ROW_MASK == score and line[place] != PAD_KEY:
        other = unit[np.int64(line[place] & ROW_MASK) - start]
        heads[held], ends[held] = bounds[other], bounds[other + 1]
        held, place = held + 1, place + 1
    return place, held


@compiled
def _next_copy(copies: Any, heads: Any, ends: Any, held: Any) -> Any:
    """Take the first row of those taken in; return it and how many units are left."""
    best = 0
    for head in range(1, held):
        if copies[heads[head]] < copies[heads[best]]:
            best = head
    candidate = np.int64(copies[heads[best]])
    heads[best] += 1
    if heads[best] == ends[best]:
        held -= 1
        heads[best], ends[best] = heads[held], ends[held]
    return candidate, held


@compiled
def listed(
    table: Any, units: Any, ours: Any, images: Any, theirs: Any, their_images: Any, start: Any, itself: Any,
    first_image: Any, seen: Any, by_row: Any, by_image: Any,
) -> None:  # fmt: skip
    """Write the lists of all copies of some units.

    Args:
        table: sorted keys of the candidates of each unit, a candidate being the first row of its unit.
        units: these units, which are alive.
        ours, theirs: `EqualRows.arrays` of the queries and of the candidates.
        images, their_images: image of each row.
        start: row of the first candidate.
        itself: queries and candidates are the same rows, so that copies of a query are candidates.
        first_image, seen: first image of the candidates, and scratch, int32, -1 for each image from there.
        by_row, by_image: lists to write, padded, uint64 [rows, rank]; candidates of the second are images.
    """
    _, bounds, copies = ours
    rows_rank, images_rank = by_row.shape[1], by_image.shape[1]
    heads, ends = np.empty(table.shape[1] + 1, np.int64), np.empty(table.shape[1] + 1, np.int64)
    for line in range(len(units)):
        unit = units[line]
        for row in copies[bounds[unit] : bounds[unit + 1]]:
            place, held, rows, found, score = 0, 0, 0, 0, _EQUAL
            if itself and bounds[unit + 1] - bounds[unit] > 1:
                heads[0], ends[0], held = bounds[unit], bounds[unit + 1], 1
                place, held = _tied(table[line], place, score, theirs, start, heads, ends, held)
            while rows < rows_rank or found < images_rank:
                if held == 0:
                    if place == table.shape[1] or table[line, place] == PAD_KEY:
                        break
                    score = table[line, place] & ~ROW_MASK
                    place, held = _tied(table[line], place, score, theirs, start, heads, ends, held)
                candidate, held = _next_copy(theirs[2], heads, ends, held)
                image = their_images[candidate]
                if image == images[row]:
                    continue
                if rows < rows_rank:
                    by_row[row, rows] = score | np.uint64(start + candidate)
                    rows += 1
                if found < images_rank and seen[image - first_image] != row:
                    seen[image - first_image] = row
                    by_image[row, found] = score | np.uint64(image)
                    found += 1
