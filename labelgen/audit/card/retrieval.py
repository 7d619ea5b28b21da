"""Retrieval by a label, with all right answers of a query: mAP@R, R-Precision and R@1 (ECCV Caption).

A query with R right answers ranks every candidate of its split, best first, equal scores by row. With rel(k) = 1 where
the k-th is right::

    mAP@R = mean over queries of  1/R sum_{k <= R} rel(k) * (right ones among the first k) / k
    R-Precision = mean of  1/R sum_{k <= R} rel(k)          R@1 = mean of  rel(1)

`with annotated` includes the query's annotated captions (or image) as the file does; a caption is left out of its own
image's set. `without annotated` removes them from the answers and from the candidates, which leaves the pairs that COCO
does not annotate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from labelgen.audit.card.labels import image_caption_values
from labelgen.audit.card.pairs import JudgedPairs
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import Fusion, row_ranks
from labelgen.similarity.exact import block_similarity
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.types import Aggregation, Bool, Float64, Int64, Relation

RETRIEVAL_MEASURES = ("map_at_r", "r_precision", "r_at_1")
SUBSETS = ("with annotated", "without annotated")
_PIECE = 4_000_000


@dataclass(frozen=True)
class Answers:
    """Queries and their right answers.

    Attributes:
        queries: rows, int64 [q].
        candidates: rows of the items that are ranked, int64 [c].
        right: columns of the right answers of every query.
        annotated: columns of every query's annotated partners.
    """

    queries: Int64
    candidates: Int64
    right: tuple[Int64, ...]
    annotated: tuple[Int64, ...]


def answers_of(store: Store, pairs: JudgedPairs) -> Answers:
    """Return the queries of a file of positives; candidates are the items of the queries' splits."""
    queries = np.unique(pairs.left)
    forward = pairs.relation is Relation.I2T
    images = queries if forward else store.image_of(queries)
    split_of = split_numbers(store.splits, store.manifest.corpus.n_images)
    pool = np.flatnonzero(np.isin(split_of, split_of[images]))
    if forward:
        pool = store.captions_in(pool)
    place = np.full(int(max(pool.max(), pairs.right.max())) + 1, -1, np.int64)
    place[pool] = np.arange(len(pool))
    order = np.argsort(pairs.left, kind="stable")
    borders = np.searchsorted(pairs.left[order], queries)
    right = [place[rows] for rows in np.split(pairs.right[order], borders[1:])]
    partners = (
        [store.captions_of(int(query)) for query in queries]
        if forward
        else [images[n : n + 1] for n in range(len(images))]
    )
    answered = [n for n, columns in enumerate(right) if (columns >= 0).any()]
    return Answers(
        queries[answered],
        pool,
        tuple(right[n][right[n] >= 0] for n in answered),
        tuple(place[partners[n]] for n in answered),
    )


def retrieval_values(
    store: Store, label: BlockRequest | Fusion, pairs: JudgedPairs, answers: Answers
) -> Mapping[tuple[str, str], tuple[Float64, Bool]]:
    """Return (subset, measure) -> the measure of every query [q], and which queries have an answer in this subset."""
    found = {(subset, name): np.zeros(len(answers.queries)) for subset in SUBSETS for name in RETRIEVAL_MEASURES}
    counts = {subset: np.zeros(len(answers.queries), bool) for subset in SUBSETS}
    for here, scores in _scored(store, label, pairs.relation, answers):
        for row, query in enumerate(range(here.start, here.stop)):
            right, annotated = answers.right[query], answers.annotated[query]
            left = scores[row].copy()
            left[annotated] = -np.inf
            lines = ((scores[row], right), (left, np.setdiff1d(right, annotated)))
            for subset, (line, wanted) in zip(SUBSETS, lines, strict=True):
                if wanted.size:
                    counts[subset][query] = True
                    for name, value in zip(RETRIEVAL_MEASURES, ranked(line, wanted), strict=True):
                        found[subset, name][query] = value
    return {key: (values, counts[key[0]]) for key, values in found.items()}


def ranked(scores: Float64, right: Int64) -> tuple[float, float, float]:
    """Return AP@R, R-Precision and R@1 of one query, from the scores of all candidates and the right columns."""
    count = len(right)
    border = np.partition(scores, len(scores) - count)[len(scores) - count]
    near = np.flatnonzero(scores >= border)  # every candidate that could be among the first R, ties included
    order = near[np.lexsort((near, -scores[near]))][:count]
    hit = np.isin(order, right)
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / count), float(hit.sum() / count), float(hit[0])


def _scored(
    store: Store, label: BlockRequest | Fusion, relation: Relation, answers: Answers
) -> Iterator[tuple[range, Float64]]:
    """Yield scores of the candidates for pieces of the queries, [piece, c]; -inf where an item has no embedding."""
    step = max(1, _PIECE // max(1, len(answers.candidates)))
    for start in range(0, len(answers.queries), step):
        here = range(start, min(start + step, len(answers.queries)))
        if isinstance(label, Fusion):
            parts = [_need_block(store, need, relation, answers, here) for need in label.inputs]
            fused = label.combine([row_ranks(part) for part in parts] if label.uses_ranks else parts)
            known = np.isfinite(np.stack(parts)).all(axis=0)
            yield here, np.where(known, np.nan_to_num(fused, nan=-np.inf), -np.inf)
        else:
            yield here, _need_block(store, label, relation, answers, here)


def _need_block(store: Store, need: BlockRequest, relation: Relation, answers: Answers, here: range) -> Float64:
    queries = answers.queries[here.start : here.stop]
    forward = relation is Relation.I2T
    if need.relation is Relation.I2I:
        return _photographs(store, need, forward, queries, answers.candidates)
    images, captions = (queries, answers.candidates) if forward else (answers.candidates, queries)
    how: Aggregation = "mean" if need.aggregation == "mean" else "max"
    block, where = store.block(
        relation.value,
        image_rows=images.tolist(),
        caption_rows=captions.tolist(),
        alias=need.alias,
        aggregation=how,
        missing="mask",
    )
    scores = np.where(where, block, -np.inf).astype(np.float64)
    # annotated pairs are recomputed without the caption in its image's set
    rows = np.repeat(np.arange(len(queries)), [len(answers.annotated[query]) for query in here])
    columns = np.concatenate([answers.annotated[query] for query in here])
    left, right = queries[rows], answers.candidates[columns]
    values = image_caption_values(store, need, *((left, right) if forward else (right, left)))
    scores[rows, columns] = np.where(np.isnan(values), -np.inf, values)
    return scores


def _photographs(store: Store, need: BlockRequest, forward: bool, queries: Int64, candidates: Int64) -> Float64:
    """Compare images with images; a caption is represented by its image."""
    images = queries if forward else store.image_of(queries)
    others = store.image_of(candidates) if forward else candidates
    distinct, place = np.unique(others, return_inverse=True)
    rows = store.embeddings(need.alias or "", "image")
    scores = block_similarity(rows.take(images), rows.take(distinct))
    found: Float64 = scores[:, place].astype(np.float64)
    return found
