"""Exact scores of the candidates that an index found, and the part of the true neighbours that they are.

Recall@k of a query is the part of its k nearest candidates that is listed; a listed one that is as similar as the k-th
nearest counts. Queries of one image count once, as their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelgen.similarity import exact
from labelgen.similarity.base import ListRequest, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.groups import sides
from labelgen.similarity.reference import exact_lists, tile_scores
from labelgen.similarity.rescoring import Candidates, Rescorer
from labelgen.similarity.sort_keys import decode
from labelgen.types import PAD_ROW, PAD_SCORE, Float32, Float64, Int64, UInt32, UInt64

#: Quantile of the normal distribution for 95 %.
_Z = 1.959964


def scored(plan: SearchPlan, request: ListRequest, queries: Int64, owner: Int64, rows: Int64) -> UInt64:
    """Sorted keys [queries, k + 1] of the candidates that embedding rows stand for, without the query's own image.

    The rows [m, any], -1 where there is none, were found for the queries at the places `owner` [m] of `queries`.
    """
    from labelgen.similarity.tiled.bits import pair_dots, self_dots

    query, candidate = sides(plan, request.relation)
    places, units = np.broadcast_to(owner[:, None], rows.shape)[rows >= 0], rows[rows >= 0]
    images = np.searchsorted(plan.offsets, units, side="right") - 1 if candidate.rows is plan.text else units
    units = images if candidate.grouped else units
    other = images != query.images(queries)[places]
    places, units = np.divmod(np.unique(places[other] << 32 | units[other]), 1 << 32)
    known = [np.zeros(side.rows.shape[0]) for side in (query, candidate)]

    def dots(left: Int64, right: Int64) -> Float64:
        operands = []
        for side, needed, squares in zip((query, candidate), (left, right), known, strict=True):
            distinct, place = np.unique(needed, return_inverse=True)
            bits, squared = side.rows.take(distinct).view(np.uint16), np.empty(len(distinct))
            self_dots(bits, squared)
            exact.check_rows(squared, distinct)
            squares[distinct] = squared
            operands += [bits, place]
        products = np.empty(len(left))
        pair_dots(*operands, products)
        return products

    rescorer = Rescorer(plan, request, known[0], known[1], Errors(0.0), max(64, (6 << 20) // plan.dim), dots)
    return rescorer.listed(Candidates(queries, places, units, np.empty(0, np.float32)))


def exact_keys(
    plan: SearchPlan, request: ListRequest, images: Int64, spans: Sequence[tuple[int, int]]
) -> tuple[UInt64, Int64, Int64]:
    """Exact lists [queries, k + 1] of some images among candidate images, the query rows, and the image of each."""
    query, first = sides(plan, request.relation)[0], int(images[0])
    queries = np.concatenate([query.units(image, image + 1) for image in images.tolist()])
    keys = exact_lists(plan, Strip(first, first + 1, tuple(spans)), request, queries)
    return keys, queries, query.images(queries)


def listed_scores(plan: SearchPlan, request: ListRequest, queries: Int64, ids: UInt32) -> Float32:
    """Exact similarities of queries with their listed candidates, -inf where there is none; of the shape of `ids`."""
    query, candidate = sides(plan, request.relation)
    units = np.unique(ids[ids != PAD_ROW]).astype(np.int64)
    block = query.rows.take(query.members(queries))
    scores = tile_scores(block, query.sizes(queries), candidate, units, request.aggregation)
    padded = np.pad(scores, ((0, 0), (0, 1)), constant_values=PAD_SCORE)
    return np.take_along_axis(padded, np.searchsorted(units, ids), 1)


def recall_by_image(found: UInt64, exact: UInt64, images: Int64) -> Float64:
    """Mean recall@k of the queries of every image that has something to find; one number an image.

    `found` are keys of the listed candidates [n, k], `exact` those of the true lists, `images` of the queries [n].
    """
    scores, true = decode(found)[0], decode(exact[:, : found.shape[1]])[0]
    there = (true > PAD_SCORE).sum(axis=1)
    last = np.take_along_axis(true, np.maximum(there - 1, 0)[:, None], 1)
    hits = np.minimum(((scores >= last) & (scores > PAD_SCORE)).sum(axis=1), there)
    known = there > 0
    held, place = np.unique(images[known], return_inverse=True)
    means: Float64 = np.bincount(place, hits[known] / there[known], len(held)) / np.bincount(place, minlength=len(held))
    return means


def wilson(mean: float, count: int) -> tuple[float, float]:
    """95 % interval of a mean of `count` numbers between 0 and 1."""
    if not count:
        return 0.0, 1.0
    middle, half = mean + _Z**2 / (2 * count), _Z * (mean * (1 - mean) / count + _Z**2 / (4 * count**2)) ** 0.5
    low, high = ((middle + side) / (1 + _Z**2 / count) for side in (-half, half))
    return max(0.0, low), min(1.0, max(mean, high))


def drawn(spans: Sequence[tuple[int, int]], count: int, *seed: int) -> Int64:
    """`count` images of the given ranges, or all where there are fewer; ascending."""
    images = np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in spans)])
    return np.sort(np.random.default_rng(seed).permutation(images)[:count])
