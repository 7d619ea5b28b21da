"""Inverted lists: rows near one centre lie in one list, and a query looks only into the lists nearest to it.

Everything here is the same bits for any number of threads: products are taken in fixed pieces, each by one thread, and
sums are made in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from labelgen.similarity.base import Rows
from labelgen.similarity.groups import cut
from labelgen.types import Float16, Float32, Int64

#: Runs a function on items with several threads; results in order.
Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]

#: Rows that meet the centres at once.
PIECE = 256
#: float32 bytes of the rows that centres are made of.
_SAMPLE_BYTES = 96 << 20
#: Lists above which centres are made in two levels, and rounds of k-means.
_FLAT, _ROUNDS = 2560, 8
#: Rows of a list, at least on average; lists a root of rows.
_LEAST_ROWS, _PER_ROOT = 32, 4.0
#: Codes of a row at most: sums of more of them lose digits in 16 bits.
_MOST_CODES = 256
#: Stored bytes of one part of an index: what a worker holds in memory.
_PART_BYTES = 48 << 20


@dataclass(frozen=True)
class Trained:
    """What an index is made with: centres [lists, d] of unit length, and the codebook of its codes."""

    centres: Float32
    codebook: Float32


@dataclass
class Index:
    """An index over the embedding rows of a range of images; its parts hold ranges of lists and are opened in turn."""

    trained: Trained
    ranges: Sequence[tuple[int, int]]
    open_part: Callable[[int], Any]
    _held: tuple[int, Any] = field(default=(-1, None), repr=False)

    def part(self, number: int) -> Any:
        """One part, ready to be searched; the last one stays open."""
        if self._held[0] != number:
            self._held = (-1, None)  # before the next one is loaded
            self._held = (number, self.open_part(number))
        return self._held[1]


@dataclass(frozen=True)
class Tuning:
    """How an index is searched: lists a query looks into, rows it fetches; and the recall of the calibration."""

    probes: int
    fetch: int
    recall: float


def n_lists(rows: int, asked: int = 0) -> int:
    """`asked`, or about four times the root of the rows; never so many that lists are nearly empty."""
    most = max(1, rows // _LEAST_ROWS)
    return min(asked, max(1, rows)) if asked else max(1, min(round(_PER_ROOT * rows**0.5), most))


def training_rows(start: int, stop: int, dim: int, seed: int) -> Int64:
    """Some of the embedding rows [start, stop), ascending."""
    count = min(stop - start, max(1024, _SAMPLE_BYTES // (4 * dim)))
    draw = np.random.default_rng([seed, start])
    rows = draw.choice(stop - start, count, replace=False) if count < stop - start else np.arange(count)
    return start + np.sort(rows).astype(np.int64)


def unit_rows(rows: Float16) -> Float32:
    """float32 rows of unit length; dead rows stay zero."""
    wide = rows.astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    np.divide(wide, length[:, None], out=wide, where=length[:, None] > 0)
    return wide


def centres_of(unit: Float32, count: int, seed: int, spread: Spread) -> Float32:
    """Centres of `count` lists by spherical k-means; of many lists in two levels, coarse ones and then each cut again.

    Args:
        unit: living rows of unit length, [n, d]; with fewer rows than lists there are as many lists as rows.
    """
    draw = np.random.default_rng([seed, count])
    count = max(1, min(count, len(unit)))
    if not len(unit):
        return np.zeros((1, unit.shape[1]), np.float32)
    if count <= _FLAT:
        return _kmeans(unit, count, draw, spread)
    coarse = _kmeans(unit, round(count**0.5), draw, spread)
    owner = nearest(unit, coarse, 1, spread)[0][:, 0]
    sizes = np.bincount(owner, minlength=len(coarse))
    shares = _shares(sizes, count)
    parts = [_kmeans(unit[owner == number], share, draw, spread) for number, share in enumerate(shares) if share]
    return np.concatenate(parts)


def nearest(unit: Float32, centres: Float32, probes: int, spread: Spread) -> tuple[Int64, Float32]:
    """The lists nearest to every row and their similarities, best first; [n, probes] twice."""
    probes = min(probes, len(centres))

    def piece(start: int) -> tuple[Int64, Float32]:
        scores = unit[start : start + PIECE] @ centres.T
        if probes == 1:
            best = scores.argmax(1)[:, None]
        else:
            best = np.argpartition(-scores, probes - 1, axis=1)[:, :probes]
            order = np.lexsort((best, -np.take_along_axis(scores, best, 1)), axis=1)
            best = np.take_along_axis(best, order, 1)
        return best.astype(np.int64), np.take_along_axis(scores, best, 1)

    found = spread(piece, range(0, len(unit), PIECE))
    if not found:
        return np.empty((0, probes), np.int64), np.empty((0, probes), np.float32)
    return np.concatenate([lists for lists, _ in found]), np.concatenate([scores for _, scores in found])


def within(lists: Int64, closeness: Float32, span: tuple[int, int]) -> tuple[Int64, Float32]:
    """Of the lists of every query those in [span[0], span[1]), counted from its beginning; -1 fills up.

    Returns:
        Lists and their similarities [n, w]; w is no more than the lists of the span.
    """
    inside = (span[0] <= lists) & (lists < span[1])
    width = max(1, min(lists.shape[1], span[1] - span[0]))
    order = np.argsort(~inside, axis=1, kind="stable")[:, :width]
    chosen = np.where(inside, lists - span[0], -1)
    return np.take_along_axis(chosen, order, 1), np.take_along_axis(closeness, order, 1)


def assign(trained: Trained, rows: Rows, start: int, stop: int, spread: Spread) -> Int64:
    """The list of each of the embedding rows [start, stop); -1 for dead rows."""
    owner = np.full(stop - start, -1, np.int64)
    step = 32 * PIECE
    for low in range(start, stop, step):
        high = min(low + step, stop)
        unit = unit_rows(rows.slice(low, high))
        alive = unit.any(axis=1)
        lists = nearest(unit, trained.centres, 1, spread)[0][:, 0]
        owner[low - start : high - start] = np.where(alive, lists, -1)
    return owner


def code_layout(dim: int) -> tuple[int, int]:
    """Length of the rows that are coded (zeros are added), and parts of a row: a code stands for one part."""
    numbers = max(2, -(-dim // _MOST_CODES))
    parts = -(-dim // numbers)
    return parts * numbers, parts


def padded(unit: Float32) -> Float32:
    """Rows of the length that codes cover."""
    more = code_layout(unit.shape[1])[0] - unit.shape[1]
    return np.ascontiguousarray(np.pad(unit, ((0, 0), (0, more))) if more else unit)


def part_ranges(counts: Int64, row_bytes: float) -> list[tuple[int, int]]:
    """Lists in consecutive ranges, each of which a worker can hold; `counts` are the rows of every list."""
    return cut(counts, 0, len(counts), max(1, int(_PART_BYTES / row_bytes)))


def _kmeans(unit: Float32, count: int, draw: np.random.Generator, spread: Spread) -> Float32:
    count = min(count, len(unit))
    centres = unit[np.sort(draw.choice(len(unit), count, replace=False))]
    for _ in range(_ROUNDS):
        lists, scores = nearest(unit, centres, 1, spread)
        order = np.argsort(lists[:, 0], kind="stable")
        held, first = np.unique(lists[order, 0], return_index=True)
        centres = np.zeros_like(centres)
        centres[held] = np.add.reduceat(unit[order], first, axis=0)
        empty = np.setdiff1d(np.arange(count), held)
        centres[empty] = unit[np.argsort(scores[:, 0], kind="stable")[: len(empty)]]  # those far from all centres
        length = np.sqrt(np.einsum("ij,ij->i", centres, centres))
        np.divide(centres, length[:, None], out=centres, where=length[:, None] > 0)
    return centres


def _shares(sizes: Sequence[int] | Int64, count: int) -> list[int]:
    """`count` lists shared out to coarse clusters by their rows, one at least to every cluster that has some."""
    wanted = np.asarray(sizes) * count / max(1, int(np.sum(sizes)))
    return [max(1, round(share)) if size else 0 for size, share in zip(sizes, wanted.tolist(), strict=True)]
