"""The canonical order of candidates, as integers.

A candidate (score float32, row uint32) is one uint64 key, `descending(score) << 32 | row`: ascending keys are scores
descending, and equal scores by row ascending. 0.0 and -0.0 are one score. The pair (-inf, PAD_ROW) fills lists that are
too short; no candidate has a larger key. So sorting, cutting and merging lists are integer operations with exactly one
result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import LabelgenError
from labelgen.similarity.base import Partial
from labelgen.types import PAD_ROW, PAD_SCORE, Float32, Int64, UInt32, UInt64

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ROW_BITS = np.uint64(32)


def encode(scores: Float32, rows: NDArray[Any]) -> UInt64:
    """Keys of candidates; the two arrays broadcast. Rows are integers below 2^32."""
    bits = (scores + np.float32(0.0)).view(np.uint32)  # the sum turns -0.0 into 0.0
    # Negative numbers already grow in magnitude as they descend; the others are turned round below them.
    turned = np.where(bits > _MAGNITUDE, bits, bits ^ _MAGNITUDE)
    keys: UInt64 = turned.astype(np.uint64) << _ROW_BITS
    return keys | rows.astype(np.uint64)


def decode(keys: UInt64) -> tuple[Float32, UInt32]:
    """Scores and rows of keys."""
    turned = (keys >> _ROW_BITS).astype(np.uint32)
    bits = np.where(turned > _MAGNITUDE, turned, turned ^ _MAGNITUDE)
    return bits.view(np.float32), keys.astype(np.uint32)


#: The row of a key.
ROW_MASK = np.uint64(0xFFFFFFFF)

#: Fills short lists: the key of (-inf, PAD_ROW).
PAD_KEY = np.uint64(encode(np.array([PAD_SCORE]), np.array([PAD_ROW]))[0])


def smallest(keys: UInt64, k: int) -> UInt64:
    """The k smallest keys of every row, sorted, padded where there are fewer: [m, c] -> [m, k]."""
    rows, count = keys.shape
    if count > k:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    found = np.full((rows, k), PAD_KEY)
    found[:, : min(count, k)] = np.sort(keys, axis=1)
    return found


def merge(lists: Sequence[UInt64], k: int) -> UInt64:
    """The k best of several key lists [m, c_i] of the same rows, sorted: [m, k].

    A candidate that several lists hold (with equal keys: similarities are exact) counts once.
    """
    keys = np.sort(np.concatenate(lists, axis=1), axis=1)
    keys[:, 1:][keys[:, 1:] == keys[:, :-1]] = PAD_KEY
    return smallest(keys, k)


def by_query(owner: Int64, keys: UInt64, queries: int) -> UInt64:
    """Keys [c] in a table [queries, most of one query], padded; the row of each is `owner` [c], ascending."""
    counts = np.bincount(owner, minlength=queries)
    place = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((queries, int(counts.max(initial=1))), PAD_KEY)
    table[owner, place] = keys
    return table


def merge_tile(lists: UInt64, scores: Float32, rows: NDArray[Any]) -> UInt64:
    """Sorted lists [m, k] of keys with the best of more candidates, given by scores [m, c] and rows [c]; -inf is none.

    Only scores that reach the last one of a list are made keys: few, once the lists are full of good ones.
    """
    last, _ = decode(lists[:, -1])
    reaching = scores >= np.maximum(last, np.finfo(np.float32).min)[:, None]
    width = int(np.count_nonzero(reaching, axis=1).max(initial=0))
    if width > scores.shape[1] // 4:
        keys = np.where(reaching, encode(scores, rows), PAD_KEY)
        return merge([lists, smallest(keys, lists.shape[1])], lists.shape[1])
    query, column = np.nonzero(reaching)
    keys = by_query(query, encode(scores[query, column], rows[column]), len(lists))
    return merge([lists, keys], lists.shape[1])


@dataclass(frozen=True)
class TopK:
    """A neighbour list as the store keeps it.

    Attributes:
        ids: uint32 [n, k], candidate rows, PAD_ROW where a list is short.
        scores: float32 [n, k], descending, -inf where a list is short.
        next: float32 [n], the (k+1)-th score: no unlisted candidate exceeds it; -inf when all are listed.
    """

    ids: UInt32
    scores: Float32
    next: Float32

    @classmethod
    def from_keys(cls, keys: UInt64, k: int) -> TopK:
        """From sorted keys [n, k + 1]."""
        scores, rows = decode(keys)
        return cls(np.ascontiguousarray(rows[:, :k]), np.ascontiguousarray(scores[:, :k]), scores[:, k].copy())

    def to_keys(self, later: int) -> UInt64:
        """Sorted keys [n, k + 1] that may be merged with those of candidates whose rows are `later` or above.

        All listed candidates, and the one behind `next`, must have rows below `later`. The row behind `next` is not
        known and not needed: k candidates come before it whatever is merged in, so it never gets into the list, and its
        score is all that a new `next` can take over. Of later candidates with the same score none comes before it; so
        the row `later - 1`, the largest it can have, puts it where it belongs: behind every listed candidate and before
        every later one of the same score.
        """
        scores = np.concatenate([self.scores, self.next[:, None]], axis=1)
        rows = np.concatenate([self.ids, np.full((len(self.ids), 1), max(later - 1, 0), np.uint32)], axis=1)
        return np.where(scores == PAD_SCORE, PAD_KEY, encode(scores, rows))


def assemble(partials: Iterable[Partial], start: int, stop: int, k: int) -> TopK:
    """The list of the query rows [start, stop) from all partial lists of one request, whatever their number and order.

    Raises:
        LabelgenError: a row that no partial list holds.
    """
    keys = np.full((stop - start, k + 1), PAD_KEY)
    covered = np.zeros(stop - start, bool)
    for partial in partials:
        first = max(start, partial.first_row)
        last = min(stop, partial.first_row + len(partial.keys))
        if first < last:
            here = slice(first - start, last - start)
            held = partial.keys[first - partial.first_row : last - partial.first_row]
            keys[here] = merge([keys[here], held], k + 1)
            covered[here] = True
    if not covered.all():
        missing = int(start + np.flatnonzero(~covered)[0])
        raise LabelgenError(f"no partial list holds row {missing}", expected=f"lists of the rows {start} to {stop - 1}")
    return TopK.from_keys(keys, k)
