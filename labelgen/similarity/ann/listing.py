"""Lists from candidates that nothing is proven of: exact scores, canonical order."""

from __future__ import annotations

import numpy as np

from labelgen.similarity import exact
from labelgen.similarity.ann.ivf import Spread
from labelgen.similarity.base import ListRequest, Rows, SearchPlan
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.groups import cut, sides
from labelgen.similarity.rescoring import Candidates, Rescorer
from labelgen.similarity.tiled.bits import pair_dots, self_dots
from labelgen.types import Float32, Float64, Int64, UInt64

#: Bytes of the rows of pairs that are scored together.
_PAIR_BYTES = 24 << 20
#: Query rows that are scored at once.
_SCORED = 256
_UNIT_BITS = 32


def listed(
    plan: SearchPlan, want: ListRequest, images: Int64, sizes: Int64, rows: Int64, fetched: Int64, spread: Spread
) -> tuple[UInt64, int]:
    """Sorted keys [queries, k + 1] of the queries of some images, and how many pairs of rows were scored.

    Args:
        images: ascending.
        sizes: query embedding rows of every image.
        rows: these rows, image after image; where queries are captions, they are the queries.
        fetched: embedding rows of the candidate side that each of them found, -1 where there is none; [rows, any].
    """
    ends = np.cumsum(sizes)
    by_image = want.relation.query == "image"

    def piece(span: tuple[int, int]) -> tuple[UInt64, int]:
        first, last = span
        low, high = int(ends[first] - sizes[first]), int(ends[last - 1])
        queries = images[first:last] if by_image else rows[low:high]
        owner = np.repeat(np.arange(last - first), sizes[first:last]) if by_image else np.arange(high - low)
        return keys_of(plan, want, queries, owner, fetched[low:high])

    found = spread(piece, cut(np.maximum(sizes, 1), 0, len(images), _SCORED))
    empty = np.empty((0, want.k + 1), np.uint64)
    return np.concatenate([empty, *(keys for keys, _ in found)]), sum(scored for _, scored in found)


def take_in(best: Float32, ids: Int64, values: Float32, rows: Int64) -> None:
    """The best of two lists by value, equal values by row; the first one is overwritten."""
    both, names = np.concatenate([best, values], axis=1), np.concatenate([ids, rows], axis=1)
    both[names < 0] = -np.inf
    order = np.lexsort((names, -both), axis=1)[:, : best.shape[1]]
    best[:], ids[:] = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)


def keys_of(plan: SearchPlan, want: ListRequest, queries: Int64, owner: Int64, rows: Int64) -> tuple[UInt64, int]:
    """Sorted keys [queries, k + 1] from embedding rows found for them, and how many pairs of rows were scored.

    What belongs to the query's own image is left out; rows of a candidate image stand for the image.

    Args:
        queries: query rows of the relation: images or captions.
        owner: the place in `queries` that every line of `rows` was found for, [m].
        rows: embedding rows of the candidate side, -1 where there is none, [m, any].
    """
    query, candidate = sides(plan, want.relation)
    there = rows >= 0
    places = np.broadcast_to(owner[:, None], rows.shape)[there]
    units = rows[there]
    images = np.searchsorted(plan.offsets, units, side="right") - 1 if candidate.rows is plan.text else units
    if candidate.grouped:
        units = images
    other = images != query.images(queries)[places]
    pairs = np.unique(places[other] << _UNIT_BITS | units[other])
    places, units = pairs >> _UNIT_BITS, pairs & ((1 << _UNIT_BITS) - 1)
    grouped = query.grouped or candidate.grouped
    nothing = np.empty(0, np.float32)
    found = Candidates(queries, places, units, np.full(len(units), -1) if grouped else units, nothing, nothing)
    return score(plan, want, found)


def score(plan: SearchPlan, want: ListRequest, found: Candidates) -> tuple[UInt64, int]:
    """Sorted keys [queries, k + 1] of candidates, and how many pairs of rows were scored."""
    query, candidate = sides(plan, want.relation)
    left_dots = np.zeros(query.rows.shape[0])  # pages of rows that are never looked at stay untouched
    right_dots = left_dots if candidate.rows is query.rows else np.zeros(candidate.rows.shape[0])

    def dots(left: Rows, left_rows: Int64, right: Rows, right_rows: Int64) -> Float64:
        xs, x = np.unique(left_rows, return_inverse=True)
        ys, y = np.unique(right_rows, return_inverse=True)
        x_bits, y_bits = left.take(xs).view(np.uint16), right.take(ys).view(np.uint16)
        for rows, bits, known in ((xs, x_bits, left_dots), (ys, y_bits, right_dots)):
            squares = np.empty(len(rows))
            self_dots(bits, squares)
            exact.check_rows(squares, rows)
            known[rows] = squares
        products = np.empty(len(left_rows))
        pair_dots(x_bits, x, y_bits, y, products)
        return products

    pairs = max(64, _PAIR_BYTES // (4 * plan.dim))
    rescorer = Rescorer(plan, want, left_dots, right_dots, Errors(0.0), pairs, dots)
    return rescorer.listed(found), rescorer.facts.rescored
