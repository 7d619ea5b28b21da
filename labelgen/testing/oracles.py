"""Brute force in float64, written apart from the engines: what a search has to find, straight from the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.similarity.base import SearchPlan, Want
from labelgen.similarity.keys import TopK
from labelgen.types import PAD_ROW, Aggregation, Bool, Float32, Float64, Relation

_QUERIES_AT_ONCE = 128


def brute_force(plan: SearchPlan, want: Want) -> TopK:
    """The list of `want`: all pairs scored, sorted by score descending, then by row ascending.

    Holds all rows in float64: for thousands of rows, not for millions.
    """
    queries, candidates = _groups(plan, want.relation.query), _groups(plan, want.relation.candidate)
    query_rows, candidate_rows = _rows(plan, want.relation.query), _rows(plan, want.relation.candidate)
    query_images, candidate_images = _images(plan, want.relation.query), _images(plan, want.relation.candidate)
    ids = np.full((len(queries), want.k), PAD_ROW)
    scores = np.full((len(queries), want.k), -np.inf, np.float32)
    following = np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[start : start + _QUERIES_AT_ONCE]
        similarities = _combined(_similarities(query_rows, some, candidate_rows), some, want.aggregation, one_query=True)
        table = _combined(similarities.T, candidates, want.aggregation, one_query=False).T
        for number, row in enumerate(table, start):
            allowed = _allowed(plan, want, int(query_images[number]), candidate_images) & (row > -np.inf)
            best = _sorted(row, np.flatnonzero(allowed), want.k + 1)
            count = min(len(best), want.k)
            ids[number, :count], scores[number, :count] = best[:count], row[best[:count]]
            if len(best) > want.k:
                following[number] = row[best[want.k]]
    return TopK(ids, scores, following)


def _groups(plan: SearchPlan, modality: str) -> list[range]:
    """Embedding rows of every image or caption."""
    n_images = len(plan.offsets) - 1
    if modality == "text":
        return [range(row, row + 1) for row in range(int(plan.offsets[-1]))]
    if plan.product == "text":
        return [range(int(plan.offsets[image]), int(plan.offsets[image + 1])) for image in range(n_images)]
    return [range(row, row + 1) for row in range(n_images)]


def _rows(plan: SearchPlan, modality: str) -> Float64:
    source = plan.text if plan.product == "text" or (plan.product == "cross" and modality == "text") else plan.image
    if source is None:
        raise ValueError(f"a {plan.product} plan without the rows of its {modality} side")
    return source.take(np.arange(source.shape[0])).astype(np.float64)
