"""Queries against the stored rows: the definition of similarity, in pieces of the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from labelgen.similarity.exact import aggregate_groups, block_similarity
from labelgen.similarity.groups import cut
from labelgen.similarity.sort_keys import PAD_KEY, decode, merge_tile
from labelgen.store.disk.mapped import MappedArray
from labelgen.types import Aggregation, Float16, Float32, Int64, Relation, UInt32, UInt64

#: Bytes of rows and similarities of a piece of the store.
PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class Ranked:
    """The nearest rows of m queries.

    Attributes:
        rows: image or caption rows, uint32 [m, k], best first, equal scores by row; filled as in `store.neighbors`.
        scores: similarities, float32 [m, k].
    """

    relation: Relation
    alias: str
    rows: UInt32
    scores: Float32


class Best:
    """The k best candidates of m queries so far."""

    def __init__(self, queries: int, k: int) -> None:
        self._keys: UInt64 = np.full((queries, k), PAD_KEY)

    def add(self, scores: Float32, rows: Int64) -> None:
        """Add candidates: scores [m, c] of the rows [c]; -inf is none."""
        self._keys = merge_tile(self._keys, scores, rows)

    def ranked(self, relation: Relation, alias: str) -> Ranked:
        scores, rows = decode(self._keys)
        return Ranked(relation, alias, rows, scores)


def rank_rows(queries: Float16, embeddings: MappedArray, ranges: Iterable[range], best: Best) -> None:
    """Compare queries [m, dim] with the embedding rows of some ranges."""
    limit = _limit(len(queries), embeddings.shape[1])
    for rows in ranges:
        for start in range(rows.start, rows.stop, limit):
            stop = min(start + limit, rows.stop)
            best.add(block_similarity(queries, embeddings.slice(start, stop)), np.arange(start, stop))


def rank_sets(
    queries: Float16,
    embeddings: MappedArray,
    offsets: Int64,
    images: Iterable[range],
    aggregation: Aggregation,
    captions: Best | None,
    best: Best,
) -> None:
    """Compare queries [m, dim] with the captions of some images, and with the images as sets of their captions.

    Args:
        offsets: the captions of image v are rows offsets[v]:offsets[v + 1].
        captions, best: get the captions, and the images.
    """
    for rows in images:
        sizes = np.diff(offsets[rows.start : rows.stop + 1])
        limit = _limit(len(queries), embeddings.shape[1])
        for first, last in cut(sizes, 0, len(sizes), limit):
            start, stop = int(offsets[rows.start + first]), int(offsets[rows.start + last])
            scores = block_similarity(queries, embeddings.slice(start, stop))
            if captions is not None:
                captions.add(scores, np.arange(start, stop))
            by_image = aggregate_groups(np.ascontiguousarray(scores.T), sizes[first:last], aggregation)
            best.add(np.ascontiguousarray(by_image.T), np.arange(rows.start + first, rows.start + last))


def _limit(queries: int, dim: int) -> int:
    """Rows of a piece: each takes 10 bytes a number, and about 24 a query, in both precisions."""
    return max(1, PIECE_BYTES // (10 * dim + 24 * queries))
