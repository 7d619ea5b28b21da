"""Blocks of similarities, computed from mapped embeddings. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelgen.similarity.base import Rows
from labelgen.similarity.exact import aggregate, block_group_similarity, block_similarity, pair_similarities
from labelgen.similarity.groups import rows_of
from labelgen.similarity.single_precision import block_group_similarity32, block_similarity32
from labelgen.types import Aggregation, Bool, Float16, Float32, Int64


@dataclass(frozen=True)
class Side:
    """One side of a block: n entries, each a single row, or with `sizes` a set of consecutive rows.

    Attributes:
        rows: embedding rows; zero rows are items without an embedding.
        sizes: how many rows each entry has, [n]; None where it is one.
    """

    rows: Float16
    sizes: Int64 | None = None

    @property
    def alive(self) -> Bool:
        """Which entries can be compared: those with at least one row that is not zero, [n]."""
        present = has_embedding(self.rows)
        if self.sizes is None:
            return present
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        counted: Bool = np.bincount(owner[present], minlength=len(self.sizes)) > 0
        return counted


def single(embeddings: Rows, rows: Int64) -> Side:
    """A side whose entries are the given rows."""
    return Side(embeddings.take(rows))


def sets(embeddings: Rows, starts: Int64, sizes: Int64) -> Side:
    """A side whose entries are the row ranges of the given starts and sizes."""
    return Side(embeddings.take(rows_of(starts, sizes)), sizes)


def compare(queries: Side, candidates: Side, aggregation: Aggregation, *, exact: bool = True) -> Float32:
    """[n_queries, n_candidates] similarities, -inf where an entry is not alive. Only queries may be sets.

    Without `exact` they are float32 products within 1e-6 of the definition, see `similarity.single_precision`.
    """
    if queries.sizes is None:
        one = block_similarity if exact else block_similarity32
        return one(queries.rows, candidates.rows)
    many = block_group_similarity if exact else block_group_similarity32
    return many(queries.rows, queries.sizes, candidates.rows, aggregation)


def paired(rows: Float16, others: Float16) -> Float32:
    """Similarity of rows[i] with others[i], [n]; -inf where either has no embedding."""
    return pair_similarities(rows, others)


def aggregated(members: Sequence[Float32], aggregation: Aggregation) -> Float32:
    """Max or mean over sets whose j-th members are members[j]; -inf stands for a member that is not there."""
    return aggregate(members, aggregation)


def has_embedding(rows: Float16) -> Bool:
    """Which rows are not all zero, [n]. Rows rarely begin with a zero, so few are looked at whole."""
    alive: Bool = rows[:, 0] != 0
    suspects = np.flatnonzero(~alive)
    if suspects.size:
        alive[suspects] = (rows[suspects] != 0).any(axis=1)
    return alive
