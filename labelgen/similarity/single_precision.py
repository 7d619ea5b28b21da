"""Similarities of training batches: float32 products of the stored rows, within 1e-6 of the definition.

`labelgen.similarity.exact` is the definition and takes twice as long as a float32 product. Soft labels need less: here
a similarity is the float32 product divided by the lengths of the two rows, clipped to [-1, 1], and exactly 1 for rows
of equal bytes, as in the definition. Bits depend on BLAS and its threads.
"""

from __future__ import annotations

import numpy as np

from labelgen.similarity.exact import PANEL, aggregate_groups
from labelgen.similarity.groups import rows_of
from labelgen.types import PAD_SCORE, BlockAggregation, Float16, Float32, Int64, UInt64

#: Numbers of rows with equal keys that are compared at a time.
_COMPARED = 1 << 20


def block_similarity32(x: Float16, y: Float16) -> Float32:
    """Similarity of every row of x with every row of y; [m, d], [n, d] -> [m, n], -inf for dead rows."""
    scores, scale = _half_scaled(x, y)
    return _finished(scores, scale, _equal_rows(x, y))


def block_group_similarity32(members: Float16, sizes: Int64, y: Float16, aggregation: BlockAggregation) -> Float32:
    """Similarity of row sets with rows; arguments and result as of `exact.block_group_similarity`."""
    if aggregation != "max":
        return aggregate_groups(block_similarity32(members, y), sizes, aggregation)
    scores, scale = _half_scaled(members, y)
    rows, columns = _equal_rows(members, y)
    owners = np.repeat(np.arange(len(sizes)), sizes)[rows]
    # The scale of a column is positive and common to all members of a set: the maximum comes first.
    return _finished(aggregate_groups(scores, sizes, "max"), scale, (owners, columns))


def _half_scaled(x: Float16, y: Float16) -> tuple[Float32, Float32]:
    """x.y / |x| [m, n], -inf for a dead x, and 1 / |y| [n], 0 for a dead y."""
    products = np.zeros((0, 0), np.float32)
    left, right = np.zeros(len(x), np.float32), np.zeros(len(y), np.float32)
    for start in range(0, max(1, x.shape[1]), PANEL):
        a = x[:, start : start + PANEL].astype(np.float32)
        b = a if y is x else y[:, start : start + PANEL].astype(np.float32)
        products = a @ b.T if not start else products + a @ b.T
        left += np.einsum("ij,ij->i", a, a)
        right += np.einsum("ij,ij->i", b, b)
    alive = left > 0
    products /= np.sqrt(np.where(alive, left, 1))[:, None]
    if not alive.all():
        products[~alive] = PAD_SCORE
    return products, np.divide(1, np.sqrt(right), out=np.zeros_like(right), where=right > 0)


def _finished(scores: Float32, scale: Float32, equal: tuple[Int64, Int64]) -> Float32:
    """Columns scaled, clipped, 1 for pairs of equal rows and -inf where a row is dead; in place."""
    dead = scores == PAD_SCORE if np.isneginf(scores[:, :1]).any() else None
    scores *= np.where(scale > 0, scale, 1)
    np.clip(scores, -1, 1, out=scores)
    scores[equal] = 1
    if dead is not None:
        scores[dead] = PAD_SCORE
    scores[:, scale == 0] = PAD_SCORE
    return scores


def _equal_rows(x: Float16, y: Float16) -> tuple[Int64, Int64]:
    """Positions (in x, in y) of all pairs of rows with equal bytes."""
    keys, wanted = _keys(y), _keys(x)
    order = np.argsort(keys, kind="stable")
    first, last = (np.searchsorted(keys[order], wanted, side=side) for side in ("left", "right"))
    counts = last - first
    rows, columns = np.repeat(np.arange(len(x)), counts), order[rows_of(first, counts)]
    bits = [np.ascontiguousarray(side).view(np.uint16) for side in (x, y)]
    step = max(1, _COMPARED // max(1, x.shape[1]))
    equal = [
        (bits[0][rows[start : start + step]] == bits[1][columns[start : start + step]]).all(axis=1)
        for start in range(0, len(rows), step)
    ]
    same = np.concatenate(equal) if equal else np.zeros(0, np.bool_)
    return rows[same], columns[same]


def _keys(rows: Float16) -> UInt64:
    """A number that rows of equal bytes share: the sum of their bits, four numbers at a time; [n]."""
    lanes = np.ascontiguousarray(rows[:, : rows.shape[1] // 4 * 4]).view(np.uint64)
    keys: UInt64 = lanes.sum(axis=1, dtype=np.uint64)
    return keys
