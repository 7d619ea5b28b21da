"""Retrieval by a label, with all right answers of a query: mAP@R, R-Precision and R@1 (ECCV Caption).

A query with R right answers ranks every candidate of its split, best first, equal scores by row. With rel(k) = 1 where
the k-th is right::

    mAP@R = mean over queries of  1/R sum_{k <= R} rel(k) * (right ones among the first k) / k
    R-Precision = mean of  1/R sum_{k <= R} rel(k)          R@1 = mean of  rel(1)

Intervals draw images with all their queries: captions of one image are not independent.

`with annotated` includes the query's annotated captions (or image) as the file does; a caption is left out of its own
image's set. `without annotated` removes them from the answers and from the candidates, which leaves the pairs that COCO
does not annotate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from labelgen.audit.card.labels import image_caption_values
from labelgen.audit.card.pairs import JudgedPairs
from labelgen.relevance.base import CAPTION_LENGTH, BlockRequest
from labelgen.relevance.fusion import Fusion, row_ranks
from labelgen.similarity.caption_sets import set_sums, unit64
from labelgen.similarity.exact import aggregate_groups, block_similarity
from labelgen.store.blocks import ReadRows, has_embedding
from labelgen.store.kinds import AllCaptions
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.types import BlockAggregation, Bool, Float16, Float32, Float64, Int64, Relation

RETRIEVAL_MEASURES = ("map_at_r", "r_precision", "r_at_1")
SUBSETS = ("with annotated", "without annotated")
_PIECE = 1_000_000

Label: TypeAlias = "BlockRequest | Fusion"


@dataclass(frozen=True)
class Answers:
    """Queries and their right answers.

    Attributes:
        queries: rows, int64 [q].
        candidates: rows of the items that are ranked, int64 [c].
        right: columns of the right answers of every query.
        annotated: columns of every query's annotated partners.
        images: number of every query's image, from 0, int64 [q].
    """

    queries: Int64
    candidates: Int64
    right: tuple[Int64, ...]
    annotated: tuple[Int64, ...]
    images: Int64


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
    right = [np.unique(place[rows]) for rows in np.split(pairs.right[order], borders[1:])]
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
        np.unique(images[answered], return_inverse=True)[1].astype(np.int64),
    )


#: (subset, measure) -> the measure of every query [q], and which queries have an answer in this subset [q].
Measured: TypeAlias = Mapping[tuple[str, str], tuple[Float64, Bool]]


def retrieval_values(
    store: Store,
    labels: Sequence[Label],
    relation: Relation,
    answers: Answers,
) -> Iterator[int | list[Measured]]:
    """Yield the number of queries that are done, and at the end the measures of every label.

    Similarities that several labels use are computed once.
    """
    count = len(answers.queries)
    answered = {
        "with annotated": np.ones(count, bool),
        "without annotated": np.array(
            [np.setdiff1d(*both).size > 0 for both in zip(answers.right, answers.annotated, strict=True)], bool
        ),
    }
    values = np.zeros((len(labels), len(SUBSETS), len(RETRIEVAL_MEASURES), count))
    for here, scored in _Blocks(store, relation, answers).pieces(labels):
        for number, scores in enumerate(scored):
            for row, query in enumerate(here):
                found = ranked_twice(scores[row], answers.right[query], answers.annotated[query])
                values[number, :, :, query] = found
        yield here.stop
    yield [
        {
            (subset, measure): (values[number, place, column], answered[subset])
            for place, subset in enumerate(SUBSETS)
            for column, measure in enumerate(RETRIEVAL_MEASURES)
        }
        for number in range(len(labels))
    ]


def ranked_twice(scores: Float64, right: Int64, annotated: Int64) -> tuple[tuple[float, float, float], ...]:
    """Return AP@R, R-Precision and R@1 of one query, from the scores of all candidates and the right columns.

    Twice: with the annotated columns and, zeros where no answer is left, without them.
    """
    near = _best(scores, len(right) + len(annotated))
    kind = np.zeros(len(scores), np.int8)
    kind[right] = 1
    hits = kind[near[: len(right)]] == 1
    kind[annotated] = 2
    others = kind[near]
    others = others[others != 2]
    count = int((kind[right] == 1).sum())
    return _measures(hits, len(right)), _measures(others[:count] == 1, count)


def _best(scores: Float64, count: int) -> Int64:
    """Return the columns of the largest scores, best first, equal scores by column."""
    count = min(count, len(scores))
    border = np.partition(scores, len(scores) - count)[len(scores) - count]
    near = np.flatnonzero(scores >= border)  # every candidate that could be among them, ties included
    return near[np.lexsort((near, -scores[near]))][:count]


def _measures(hit: Bool, count: int) -> tuple[float, float, float]:
    if not count:
        return 0.0, 0.0, 0.0
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / count), float(hit.sum() / count), float(hit[0])


class _Blocks:
    """Blocks of labels of pieces of the queries with all candidates; rows of the candidates are read once."""

    def __init__(self, store: Store, relation: Relation, answers: Answers) -> None:
        self._store, self._forward, self._answers = store, relation is Relation.I2T, answers
        self._kept: dict[tuple[str, bool], Float16] = {}
        self._sums: dict[tuple[str, bool], Float64] = {}
        #: Similarities of the rows of images with captions, and how many rows each image has; of the last piece.
        self._members: dict[tuple[str | None, bool], tuple[Float32, Int64 | None]] = {}

    def pieces(self, labels: Sequence[Label]) -> Iterator[tuple[range, Iterator[Float64]]]:
        """Yield scores of the candidates for pieces of the queries, [piece, c] a label; -inf where one is unknown."""
        count = len(self._answers.queries)
        step = max(1, _PIECE // max(1, len(self._answers.candidates)))
        for start in range(0, count, step):
            here = range(start, min(start + step, count))
            self._members.clear()
            yield here, self._labels(labels, here)

    def _labels(self, labels: Sequence[Label], here: range) -> Iterator[Float64]:
        blocks: dict[BlockRequest, Float64] = {}
        for label in labels:
            needs = label.inputs if isinstance(label, Fusion) else (label,)
            for need in needs:
                if need not in blocks:
                    blocks[need] = self._block(need, here)
            parts = [blocks[need] for need in needs]
            if isinstance(label, Fusion):
                known = np.logical_and.reduce([np.isfinite(part) for part in parts])
                with np.errstate(invalid="ignore"):  # what is unknown is set below
                    fused = label.combine([row_ranks(part) for part in parts] if label.uses_ranks else parts)
                yield np.where(known, np.nan_to_num(fused, nan=-np.inf), -np.inf)
            else:
                yield parts[0]

    def _block(self, need: BlockRequest, here: range) -> Float64:
        """Return a label of queries and candidates."""
        answers = self._answers
        queries = answers.queries[here.start : here.stop]
        if need == CAPTION_LENGTH:
            captions = answers.candidates if self._forward else queries
            lengths = self._store.caption_lengths[captions]
            shape = len(queries), len(answers.candidates)
            return np.broadcast_to(lengths if self._forward else lengths[:, None], shape)
        if need.relation is Relation.I2I:
            return self._photographs(need, queries)
        scores = self._sets(need, queries) if need.aggregation == "sets" else self._aggregated(need, queries)
        # annotated pairs are recomputed without the caption in its image's set
        rows = np.repeat(np.arange(len(queries)), [len(answers.annotated[query]) for query in here])
        columns = np.concatenate([answers.annotated[query] for query in here])
        left, right = queries[rows], answers.candidates[columns]
        values = image_caption_values(self._store, need, *((left, right) if self._forward else (right, left)))
        scores[rows, columns] = np.where(np.isnan(values), -np.inf, values)
        return scores

    def _aggregated(self, need: BlockRequest, queries: Int64) -> Float64:
        """Return a label of rows, or of rows and sets; the aggregations of a teacher share the similarities."""
        key = need.alias, need.centred
        reader = self._store.block_reader(Relation.I2T, need.alias, centred=need.centred)
        if key not in self._members:
            candidates = self._answers.candidates
            images, captions = (queries, candidates) if self._forward else (candidates, queries)
            rows, sizes = reader.members(images)
            kept = self._rows(reader.captions if self._forward else reader.images, captions if self._forward else rows)
            pair = (reader.images.take(rows), kept) if self._forward else (kept, reader.captions.take(captions))
            self._members[key] = block_similarity(*pair), sizes
        similar, sizes = self._members[key]
        how: BlockAggregation = need.aggregation if need.aggregation in ("mean", "top2") else "max"  # type: ignore[assignment]  # checked
        block = similar if sizes is None else aggregate_groups(similar, sizes, how)
        return (block if self._forward else block.T).astype(np.float64, order="C")

    def _rows(self, source: ReadRows, rows: Int64) -> Float16:
        key = source.spec.path, self._forward
        if key not in self._kept:
            self._kept[key] = source.take(rows)
        return self._kept[key]

    def _sets(self, need: BlockRequest, queries: Int64) -> Float64:
        """Return the similarity of caption sets; of annotated pairs it is not what it should be."""
        reader = self._store.block_reader(Relation.I2T, need.alias, centred=need.centred)
        key = reader.alias, need.centred
        if key not in self._sums:
            sets = AllCaptions(np.asarray(self._store.offsets, np.int64))
            every = np.arange(self._store.manifest.corpus.n_images)
            self._sums[key] = unit64(set_sums(reader.captions, sets, every))
        images, others = self._images(queries)
        left, right = self._sums[key][images], self._sums[key][others]
        scores: Float64 = (left @ right.T).astype(np.float32).astype(np.float64)
        captions = self._answers.candidates if self._forward else queries
        alive = np.asarray(has_embedding(reader.captions.take(captions)))
        lost = (
            ~left.any(axis=1, keepdims=True)
            | ~right.any(axis=1, keepdims=True).T
            | ~(alive if self._forward else alive[:, None])
        )
        scores[lost] = -np.inf
        return scores

    def _images(self, queries: Int64) -> tuple[Int64, Int64]:
        """Return images of the queries and of the candidates; a caption is represented by its image."""
        candidates = self._answers.candidates
        if self._forward:
            return queries, self._store.image_of(candidates)
        return self._store.image_of(queries), candidates

    def _photographs(self, need: BlockRequest, queries: Int64) -> Float64:
        """Compare images with images."""
        images, others = self._images(queries)
        distinct, place = np.unique(others, return_inverse=True)
        rows = self._store.block_reader(Relation.I2I, need.alias, centred=need.centred).images
        scores = block_similarity(rows.take(images), rows.take(distinct))
        found: Float64 = scores[:, place].astype(np.float64)
        return found
