"""Similarity as the store defines it; the formula is only here.

For two stored float16 rows x, y::

    similarity(x, y) = float32( (x.y) / sqrt((x.x) * (y.y)) )

with the three sums, the product, the root and the quotient in float64. float16 values are multiples of 2^-24, so
products are multiples of 2^-48, and as long as |x||y| <= 32 every partial sum, in whatever order, has magnitude at most
32 = 2^5 and fits into the 53 bits of a float64: the three sums are **exact** for any tiling, BLAS, thread count or
device, and the result is the same bits everywhere. Consequences: it is symmetric; equal rows give exactly 1, because
the root of a correctly rounded square is the number itself; nothing exceeds 1, because by Cauchy-Schwarz the float64
quotient is at most 1 + 2^-51, which rounds to 1.

A row with x.x == 0 is *dead* (an item that failed). It has no similarity: it is -inf where a number is required, and
aggregations skip it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labelgen.errors import StoreError, some
from labelgen.similarity.groups import cut
from labelgen.types import PAD_SCORE, BlockAggregation, Float16, Float32, Float64, Int64

#: Columns converted to float64 at a time: bounds memory for very long rows and changes no bit.
PANEL = 4096

#: Numbers of a float64 operand that is worked on at once: 1 MiB, which stays in a second-level cache.
_SLAB = 1 << 17

#: Largest x.x for which all sums are exact.
MAX_SELF_DOT = 32.0


def self_dots(rows: Float16 | Float32) -> Float64:
    """x.x of every row, exact; [n]."""
    total: Float64 = np.zeros(len(rows))
    for panel in _panels(rows):
        wide = panel.astype(np.float64)
        total += np.einsum("ij,ij->i", wide, wide)
    return total


def check_rows(dots: Float64, rows: Int64) -> None:
    """Refuse rows whose sums would not be exact; `dots` are the self dots of the embedding rows numbered `rows`.

    Raises:
        StoreError: a row is not finite or far from unit length.
    """
    bad = np.flatnonzero(~(dots <= MAX_SELF_DOT))
    if bad.size:
        raise StoreError(
            "embedding rows are not of about unit length",
            found=f"rows {some(rows[bad].tolist())} with squared length {some(dots[bad].tolist())}",
            expected=f"finite rows of squared length at most {MAX_SELF_DOT:g}",
            todo="run `labelgen verify`, or embed again",
        )


def similarity(products: Float64, left: Float64, right: Float64) -> Float32:
    """float32(products / sqrt(left * right)); -inf where either row is dead.

    Args:
        products: x.y.
        left, right: x.x and y.y, of shapes that broadcast to the shape of `products`.
    """
    scores = np.empty(products.shape, np.float32)
    _quotients(products, left, right, scores)
    return scores


def pair_similarities(x: Float16 | Float32, y: Float16 | Float32) -> Float32:
    """Similarity of x[i] with y[i]; two arrays [n, d] -> [n]."""
    scores = np.empty(len(x), np.float32)
    step = max(1, _SLAB // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        sums = np.zeros((3, len(x[part])))
        for panels in zip(_panels(x[part]), _panels(y[part]), strict=True):
            left, right = (panel.astype(np.float64) for panel in panels)
            factors = (left, right), (left, left), (right, right)
            sums += [np.einsum("ij,ij->i", one, other) for one, other in factors]
        scores[part] = similarity(*sums)
    return scores


def block_similarity(x: Float16, y: Float16) -> Float32:
    """Similarity of every row of x with every row of y; [m, d], [n, d] -> [m, n].

    Pass the same object twice for rows against themselves: BLAS then computes half of the product.
    """
    scores = np.empty((len(x), len(y)), np.float32)
    if x.shape[1] > PANEL:
        products, left, right = _panel_sums(x, y)
        _quotients(products, left[:, None], right, scores)
    elif y is x:
        _score_own(x, scores)
    else:
        against = _Against(y)
        for start in range(0, len(x), against.slab):
            against.score(x[start : start + against.slab], scores[start : start + against.slab])
    return scores


def block_group_similarity(members: Float16, sizes: Int64, y: Float16, aggregation: BlockAggregation) -> Float32:
    """Similarity of row sets with rows: max, mean or top2 over the living members of each set.

    Args:
        members: [sizes.sum(), d]; the first sizes[0] rows are the first set, and so on.
        y: [n, d].

    Returns:
        [len(sizes), n]; -inf for a set without a living member and for a dead row of y.
    """
    if members.shape[1] > PANEL:
        return aggregate_groups(block_similarity(members, y), sizes, aggregation)
    against = _Against(y)
    result = np.empty((len(sizes), len(y)), np.float32)
    ends = np.cumsum(sizes)
    for first, last in cut(sizes, 0, len(sizes), against.slab):
        rows = members[ends[first] - sizes[first] : ends[last - 1]]
        scores = np.empty((len(rows), len(y)), np.float32)
        against.score(rows, scores)
        result[first:last] = aggregate_groups(scores, sizes[first:last], aggregation)
    return result


def aggregate_groups(similarities: Float32, sizes: Int64, aggregation: BlockAggregation) -> Float32:
    """Max, mean or top2 over runs of rows: [sizes.sum(), n] -> [len(sizes), n]; see `aggregate`."""
    if not len(sizes) or (sizes == sizes[0]).all():
        return _aggregate_equal(similarities, len(sizes), aggregation)
    starts = np.cumsum(sizes) - sizes
    result = np.full((len(sizes), similarities.shape[1]), PAD_SCORE)
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        rows = (starts[chosen, None] + np.arange(size)).ravel()
        result[chosen] = _aggregate_equal(similarities[rows], len(chosen), aggregation)
    return result


def aggregate(members: Sequence[Float32], aggregation: BlockAggregation) -> Float32:
    """Elementwise max, mean or top2 of equally shaped arrays, the j-th holding the j-th member of every set.

    -inf stands for a member that is not there or dead. `mean` is the sum in float64, member after member in the order
    of the captions, divided by the number of living members and rounded to float32: a fixed order, so the same bits
    everywhere. `top2` is the mean of the two largest, rounded to float32; the largest where there is one. A set without
    a living member gives -inf.
    """
    if aggregation == "top2":
        return _two_largest(members)
    if aggregation == "max":
        best = members[0].copy()
        for member in members[1:]:
            np.maximum(best, member, out=best)
        return best
    total = np.zeros(members[0].shape)
    living = np.zeros(members[0].shape, np.int32)
    for member in members:
        alive = member > PAD_SCORE
        np.add(total, member, out=total, where=True if alive.all() else alive)
        living += alive
    mean = np.full(members[0].shape, PAD_SCORE)
    np.divide(total, living, out=mean, where=living > 0, casting="same_kind")
    return mean


def _two_largest(members: Sequence[Float32]) -> Float32:
    first, second = members[0].copy(), np.full(members[0].shape, PAD_SCORE)
    for member in members[1:]:
        np.maximum(second, np.minimum(first, member), out=second)
        np.maximum(first, member, out=first)
    both = second > PAD_SCORE
    first[both] = (first[both].astype(np.float64) + second[both]) / 2
    return first


def _aggregate_equal(similarities: Float32, groups: int, aggregation: BlockAggregation) -> Float32:
    width = similarities.shape[1]
    if not groups or not len(similarities):
        return np.full((groups, width), PAD_SCORE)
    if groups == len(similarities):
        return similarities
    by_member = similarities.reshape(groups, len(similarities) // groups, width)
    return aggregate([by_member[:, number] for number in range(by_member.shape[1])], aggregation)


class _Against:
    """Rows y in float64, ready to be compared with slabs of other rows."""

    def __init__(self, y: Float16) -> None:
        self._wide = y.astype(np.float64)
        self._dots = np.einsum("ij,ij->i", self._wide, self._wide)
        self.slab = max(1, _SLAB // max(1, *y.shape))

    def score(self, x: Float16, scores: Float32) -> None:
        """Similarities of rows x with y, written to `scores` [len(x), len(y)]."""
        wide = x.astype(np.float64)
        _quotients(wide @ self._wide.T, np.einsum("ij,ij->i", wide, wide)[:, None], self._dots, scores)


def _score_own(x: Float16, scores: Float32) -> None:
    wide = x.astype(np.float64)
    products = wide @ wide.T
    own = products.diagonal().copy()
    _quotients(products, own[:, None], own, scores)


def _quotients(products: Float64, left: Float64, right: Float64, scores: Float32) -> None:
    """The formula; `scores` is the result."""
    dead = None
    if not (left.all() and right.all()):
        dead = (left == 0) | (right == 0)
        left, right = np.where(left == 0, 1.0, left), np.where(right == 0, 1.0, right)
    scale = left * right
    np.sqrt(scale, out=scale)
    np.divide(products, scale, out=scores, casting="same_kind")  # a float64 quotient, rounded once
    if dead is not None:
        scores[dead] = PAD_SCORE


def _panel_sums(x: Float16, y: Float16) -> tuple[Float64, Float64, Float64]:
    """x.y of all pairs [m, n], x.x [m] and y.y [n], panel by panel."""
    products = np.zeros((len(x), len(y)))
    for x_panel, y_panel in zip(_panels(x), _panels(y), strict=True):
        wide = x_panel.astype(np.float64)
        products += wide @ (wide if y is x else y_panel.astype(np.float64)).T
    return products, self_dots(x), self_dots(y)


def _panels(rows: Any) -> Iterator[Any]:
    """Ranges of columns, views."""
    for start in range(0, rows.shape[1], PANEL):
        yield rows[:, start : start + PANEL]
