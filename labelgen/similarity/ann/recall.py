"""Lists of candidates that an index found, scored exactly, and how many of the true neighbours they hold.

Recall@k of a query is the part of its k nearest candidates that is listed; a listed one that is as similar as the k-th
nearest counts. Queries of one image count once, as their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelgen.similarity import exact
from labelgen.similarity.base import ListRequest, Rows, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.groups import rows_of, sides
from labelgen.similarity.reference import exact_lists
from labelgen.similarity.rescoring import Candidates, Rescorer
from labelgen.similarity.sort_keys import decode
from labelgen.types import PAD_SCORE, Float32, Float64, Int64, UInt64

#: Bytes of the rows of pairs that are scored together.
_PAIR_BYTES = 24 << 20
#: Quantile of the normal distribution for 95 %.
_Z = 1.959964
_UNIT_BITS = 32
Span = tuple[int, int]


def scored(plan: SearchPlan, request: ListRequest, queries: Int64, owner: Int64, rows: Int64) -> UInt64:
    """Sorted keys [queries, k + 1] of the candidates that embedding rows stand for, without the query's own image.

    Args:
        queries: query rows of the relation: images or captions.
        owner: the place in `queries` that every line of `rows` was found for, [m].
        rows: embedding rows of the candidate side, -1 where there is none, [m, any].
    """
    query, candidate = sides(plan, request.relation)
    there = rows >= 0
    places, units = np.broadcast_to(owner[:, None], rows.shape)[there], rows[there]
    images = np.searchsorted(plan.offsets, units, side="right") - 1 if candidate.rows is plan.text else units
    units = images if candidate.grouped else units
    other = images != query.images(queries)[places]
    pairs = np.unique(places[other] << _UNIT_BITS | units[other])
    places, units = pairs >> _UNIT_BITS, pairs & ((1 << _UNIT_BITS) - 1)
    left_dots, right_dots = (np.zeros(side.rows.shape[0]) for side in (query, candidate))

    def dots(left: Rows, left_rows: Int64, right: Rows, right_rows: Int64) -> Float64:
        from labelgen.similarity.tiled.bits import pair_dots, self_dots

        sides = []
        for source, wanted, known in ((left, left_rows, left_dots), (right, right_rows, right_dots)):
            distinct, place = np.unique(wanted, return_inverse=True)
            bits, squares = source.take(distinct).view(np.uint16), np.empty(len(distinct))
            self_dots(bits, squares)
            exact.check_rows(squares, distinct)
            known[distinct] = squares
            sides += [bits, place]
        products = np.empty(len(left_rows))
        pair_dots(*sides, products)
        return products

    members = np.full(len(units), -1) if query.grouped or candidate.grouped else units
    nothing = np.empty(0, np.float32)
    at_once = max(64, _PAIR_BYTES // (4 * plan.dim))
    rescorer = Rescorer(plan, request, left_dots, right_dots, Errors(0.0), at_once, dots)
    return rescorer.listed(Candidates(queries, places, units, members, nothing, nothing))


def query_rows_of(plan: SearchPlan, request: ListRequest, images: Int64) -> tuple[Int64, Int64]:
    """The query rows that images stand for in a relation, and the image of each."""
    if request.relation.query == "image":
        return images, images
    sizes = np.diff(plan.offsets)[images]
    return rows_of(plan.offsets[images], sizes), np.repeat(images, sizes)


def exact_keys(plan: SearchPlan, request: ListRequest, images: Int64, own: Span, spans: Sequence[Span]) -> UInt64:
    """Exact lists [queries, k + 1] of images of the split `own` among those of some image ranges."""
    return exact_lists(plan, Strip(*own, tuple(spans)), request, query_rows_of(plan, request, images)[0])


def recall_by_image(scores: Float32, exact: UInt64, images: Int64) -> Float64:
    """Mean recall@k of the queries of every image that has something to find; one number an image.

    Args:
        scores: of the listed candidates, exact, [n, k].
        exact: sorted keys of the true lists, [n, at least k].
        images: image of every query, [n].
    """
    true, _ = decode(exact[:, : scores.shape[1]])
    there = (true > PAD_SCORE).sum(axis=1)
    last = np.take_along_axis(true, np.maximum(there - 1, 0)[:, None], 1)
    hits = np.minimum(((scores >= last) & (scores > PAD_SCORE)).sum(axis=1), there)
    known = there > 0
    held, place = np.unique(images[known], return_inverse=True)
    parts = hits[known] / there[known]
    means: Float64 = np.bincount(place, parts, len(held)) / np.maximum(1, np.bincount(place, minlength=len(held)))
    return means


def wilson(mean: float, count: int) -> tuple[float, float]:
    """95 % interval of a mean of `count` numbers between 0 and 1."""
    if not count:
        return 0.0, 1.0
    scale = 1 + _Z**2 / count
    middle = (mean + _Z**2 / (2 * count)) / scale
    half = _Z / scale * (mean * (1 - mean) / count + _Z**2 / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, max(mean, middle + half))


def drawn(splits: Sequence[Span], count: int, seed: int, purpose: int) -> Int64:
    """`count` images of the given ranges, or all where there are fewer; ascending."""
    images = np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in splits)])
    return np.sort(np.random.default_rng([seed, purpose]).permutation(images)[:count]).astype(np.int64)
