"""Retrieval by a label, against all right answers of a query: mAP@R, R-Precision and R@1 (ECCV Caption).

A query with R right answers ranks every candidate of its split, best first, equal scores by row. With rel(k) = 1 where
the k-th is right::

    mAP@R = mean over queries of  1/R sum_{k <= R} rel(k) * (right ones among the first k) / k
    R-Precision = mean of  1/R sum_{k <= R} rel(k)          R@1 = mean of  rel(1)

`with own` counts the query's own captions (or image) as the file does; a caption is left out of its own image's set.
`without own` takes them from the answers and from the candidates: what is left are the pairs that COCO does not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from labelgen.audit.card.labels import label_values
from labelgen.audit.card.pairs import JudgedPairs
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import Fusion, row_ranks
from labelgen.similarity.exact import block_similarity
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.types import Aggregation, Bool, Float64, Int64, Relation

RETRIEVAL_MEASURES = ("map_at_r", "r_precision", "r_at_1")
_PIECE = 4_000_000


@dataclass(frozen=True)
class Answers:
    """Queries and their right answers.

    Attributes:
        queries: rows, int64 [q].
        candidates: rows of everything that may be found, int64 [c].
        right: columns of the right answers of every query.
        own: columns of every query's own partners.
    """

    queries: Int64
    candidates: Int64
    right: tuple[Int64, ...]
    own: tuple[Int64, ...]


def answers_of(store: Store, pairs: JudgedPairs) -> Answers:
    """What the positives of a file ask of a store: candidates are the items of the queries' splits."""
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
    kept = [n for n, columns in enumerate(right) if (columns >= 0).any()]
    return Answers(
        queries[kept],
        pool,
        tuple(right[n][right[n] >= 0] for n in kept),
        tuple(place[partners[n]] for n in kept),
    )


def retrieval_values(
    store: Store, label: BlockRequest | Fusion, pairs: JudgedPairs, answers: Answers
) -> Mapping[tuple[str, str], tuple[Float64, Bool]]:
    """(subset, measure) -> the measure of every query [q], and which queries have an answer in this subset."""
    found = {(subset, name): np.zeros(len(answers.queries)) for subset in _SUBSETS for name in RETRIEVAL_MEASURES}
    counts = {subset: np.zeros(len(answers.queries), bool) for subset in _SUBSETS}
    for here, scores in _scored(store, label, pairs.relation, answers):
        for row, query in enumerate(range(here.start, here.stop)):
            right, own = answers.right[query], answers.own[query]
            left = scores[row].copy()
            left[own] = -np.inf
            for subset, line, wanted in (
                ("with own", scores[row], right),
                ("without own", left, np.setdiff1d(right, own)),
            ):
                if wanted.size:
                    counts[subset][query] = True
                    for name, value in zip(RETRIEVAL_MEASURES, ranked(line, wanted), strict=True):
                        found[subset, name][query] = value
    return {key: (values, counts[key[0]]) for key, values in found.items()}


_SUBSETS = ("with own", "without own")


def ranked(scores: Float64, right: Int64) -> tuple[float, float, float]:
    """AP@R, R-Precision and R@1 of one query, from the scores of all candidates and the columns of the right ones."""
    count = len(right)
    top = (
        np.argpartition(-scores, min(count, len(scores) - 1))[: count + 1]
        if count < len(scores)
        else np.arange(len(scores))
    )
    border = np.sort(scores[top])[::-1][min(count, len(top)) - 1]
    near = np.flatnonzero(scores >= border)  # every candidate that could be among the first R, ties included
    order = near[np.lexsort((near, -scores[near]))][:count]
    hit = np.isin(order, right)
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / count), float(hit.sum() / count), float(hit[0])


def _scored(
    store: Store, label: BlockRequest | Fusion, relation: Relation, answers: Answers
) -> Iterator[tuple[range, Float64]]:
    """Scores of the candidates for pieces of the queries, [piece, c]; -inf where an item has no embedding."""
    step = max(1, _PIECE // max(1, len(answers.candidates)))
    for start in range(0, len(answers.queries), step):
        here = range(start, min(start + step, len(answers.queries)))
        if isinstance(label, Fusion):
            parts = [_need_block(store, need, relation, answers, here) for need in label.inputs]
            fused = label.combine([row_ranks(part) for part in parts] if label.uses_ranks else parts)
            alive = np.isfinite(np.stack(parts)).all(axis=0)
            yield here, np.where(alive, np.nan_to_num(fused, nan=-np.inf), -np.inf)
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
    _leave_out(store, need, forward, queries, answers, here, scores)
    return scores


def _leave_out(
    store: Store, need: BlockRequest, forward: bool, queries: Int64, answers: Answers, here: range, scores: Float64
) -> None:
    """Own pairs anew, the caption left out of its image's set."""
    sizes = [len(answers.own[query]) for query in here]
    rows = np.repeat(np.arange(len(queries)), sizes)
    columns = np.concatenate([answers.own[query] for query in here])
    if not len(rows):
        return
    left, right = queries[rows], answers.candidates[columns]
    images, captions = (left, right) if forward else (right, left)
    values = label_values(store, need, own_pairs(images, captions))
    scores[rows, columns] = np.where(np.isnan(values), -np.inf, values)


def own_pairs(images: Int64, captions: Int64) -> JudgedPairs:
    """Pairs without judgements, for `label_values`."""
    from labelgen.audit.judgements.judgements import Judgements, graded_frame

    empty = np.ones(len(images), bool)
    frame = graded_frame([""], [""], [0.0])
    nobody = Judgements("own pairs", "the store", Relation.I2T, ("image", "caption"), "graded", frame, None, "")
    return JudgedPairs(nobody, images, captions, np.zeros(len(images)), empty, np.zeros(len(images), np.int64), empty)


def _photographs(store: Store, need: BlockRequest, forward: bool, queries: Int64, candidates: Int64) -> Float64:
    """Photographs against photographs: a caption stands for its image."""
    images = queries if forward else store.image_of(queries)
    others = store.image_of(candidates) if forward else candidates
    distinct, place = np.unique(others, return_inverse=True)
    rows = store.embeddings(need.alias or "", "image")
    scores = block_similarity(rows.take(images), rows.take(distinct))
    found: Float64 = scores[:, place].astype(np.float64)
    return found
