"""Brute force in float64, written apart from the engines: what a search has to find, straight from the definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.sort_keys import TopK
from labelgen.types import PAD_ROW, Aggregation, Bool, Float32, Float64, Int64, Modality

_QUERIES_AT_ONCE = 128


@dataclass(frozen=True)
class _Side:
    """Images or captions: float64 rows and their x.x, the rows that each is made of, and its image."""

    rows: Float64
    squares: Float64
    members: list[list[int]]
    images: Int64


def brute_force(plan: SearchPlan, request: ListRequest, split_of: Int64 | None = None) -> TopK:
    """The list of `request`: all pairs scored, sorted by score descending, then by row ascending.

    Holds all rows in float64: for thousands of rows, not for millions.

    Args:
        split_of: the split of every image by number, instead of the ranges of the plan; [n_images].
    """
    if split_of is None:
        split_of = np.concatenate([np.full(stop - start, n) for n, (start, stop) in enumerate(plan.splits)])
    query, candidate = _side(plan, request.relation.query), _side(plan, request.relation.candidate)
    ids = np.full((len(query.members), request.k), PAD_ROW)
    scores = np.full((len(query.members), request.k), -np.inf, np.float32)
    following = np.full(len(query.members), -np.inf, np.float32)
    for start in range(0, len(query.members), _QUERIES_AT_ONCE):
        table = _table(query, query.members[start : start + _QUERIES_AT_ONCE], candidate, request.aggregation)
        for number, row in enumerate(table, start):
            allowed = _allowed(split_of, request, int(query.images[number]), candidate.images) & (row > -np.inf)
            best = _best(row, np.flatnonzero(allowed), request.k + 1)
            listed = best[: request.k]
            ids[number, : len(listed)], scores[number, : len(listed)] = listed, row[listed]
            if len(best) > request.k:
                following[number] = row[best[request.k]]
    return TopK(ids, scores, following)


def _side(plan: SearchPlan, modality: Modality) -> _Side:
    source = plan.text if plan.product == "text" or (plan.product == "cross" and modality == "text") else plan.image
    if source is None:
        raise ValueError(f"a {plan.product} plan without the rows of its {modality} side")
    rows = source.take(np.arange(source.shape[0])).astype(np.float64)
    squares = (rows * rows).sum(axis=1)
    n_images = len(plan.offsets) - 1
    captions = [list(range(int(plan.offsets[image]), int(plan.offsets[image + 1]))) for image in range(n_images)]
    if modality == "image":
        members = captions if plan.product == "text" else [[image] for image in range(n_images)]
        return _Side(rows, squares, members, np.arange(n_images))
    owners = [image for image in range(n_images) for _ in captions[image]]
    return _Side(rows, squares, [[row] for row in range(len(owners))], np.array(owners, np.int64))


def _table(query: _Side, some: Sequence[list[int]], candidate: _Side, aggregation: Aggregation) -> Float32:
    """Similarities of some queries with all candidates, -inf where either has no living row."""
    used = [row for members in some for row in members]
    pairs = iter(_similarities(query, used, candidate))
    queries = [_combined([next(pairs) for _ in members], len(candidate.rows), aggregation) for members in some]
    columns = np.array(queries, np.float32).T.copy()
    found = [_combined([columns[row] for row in members], len(some), aggregation) for members in candidate.members]
    return np.array(found, np.float32).reshape(len(candidate.members), len(some)).T


def _similarities(query: _Side, used: Sequence[int], candidate: _Side) -> Float32:
    rows = np.array(used, np.int64)
    squares = np.multiply.outer(query.squares[rows], candidate.squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = ((query.rows[rows] @ candidate.rows.T) / np.sqrt(squares)).astype(np.float32)
    values[squares == 0] = -np.inf
    return values


def _combined(members: Sequence[Float32], width: int, aggregation: Aggregation) -> Float32:
    """One array from those of the members of a set; -inf marks what is not there."""
    if len(members) == 1:
        return members[0]
    if aggregation == "max":
        best = np.full(width, -np.inf, np.float32)
        for member in members:
            best = np.where(member > best, member, best)
        return best
    total, count = np.zeros(width), np.zeros(width)
    for member in members:
        there = np.isfinite(member)
        total = np.where(there, total + np.where(there, member.astype(np.float64), 0.0), total)
        count = count + there
    mean = np.full(width, -np.inf, np.float32)
    mean[count > 0] = (total[count > 0] / count[count > 0]).astype(np.float32)
    return mean


def _allowed(split_of: Int64, request: ListRequest, image: int, images: Int64) -> Bool:
    """Candidates in scope: of other images, of the query's split or of all others."""
    inside = split_of[images] == split_of[image]
    allowed: Bool = inside & (images != image) if request.scope == "split" else ~inside
    return allowed


def _best(scores: Float32, rows: NDArray[Any], count: int) -> NDArray[Any]:
    """The first `count` of `rows` in canonical order."""
    if len(rows) > count:  # sorting those that reach the score of the last place is enough
        last = np.sort(scores[rows])[-count]
        rows = rows[scores[rows] >= last]
    return rows[np.lexsort((rows, -scores[rows]))][:count]
