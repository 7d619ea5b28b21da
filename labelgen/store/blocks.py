"""Blocks of similarities, computed exactly from mapped embeddings. Pure: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.similarity.base import Rows
from labelgen.similarity.exact import block_group_similarity, block_similarity
from labelgen.types import Aggregation, Bool, Float16, Float32, Int64


@dataclass(frozen=True)
class Side:
    """One side of a block: `n` entries made of rows, and which of them can be compared.

    Attributes:
        rows: embedding rows of the living entries, in order; the members of all groups for a grouped side.
        alive: [n]; False where an entry has no embedding (a zero row, or a set without one).
        sizes: members of each living entry, None where every entry is a single row.
    """

    rows: Float16
    alive: Bool
    sizes: Int64 | None = None


def single(embeddings: Rows, rows: Int64) -> Side:
    """A side whose entries are the given rows."""
    taken = embeddings.take(rows)
    alive = has_embedding(taken)
    return Side(taken if alive.all() else taken[alive], alive)


def grouped(embeddings: Rows, rows: Int64, sizes: Int64) -> Side:
    """A side whose entries are sets: the first `sizes[0]` rows, the next `sizes[1]`, and so on.

    Members without an embedding are left out; an entry without any is not alive.
    """
    taken = embeddings.take(rows)
    present = has_embedding(taken)
    if present.all() and sizes.all():
        return Side(taken, np.ones(len(sizes), bool), sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(owner[present], minlength=len(sizes)).astype(np.int64)
    return Side(taken[present], counts > 0, counts[counts > 0])


def compare(queries: Side, candidates: Side, aggregation: Aggregation) -> Float32:
    """[n_queries, n_candidates] similarities; 0 where an entry is not alive. Only queries may be grouped."""
    if queries.sizes is None:
        block = block_similarity(queries.rows, candidates.rows)
    else:
        block = block_group_similarity(queries.rows, queries.sizes, candidates.rows, aggregation)
    if queries.alive.all() and candidates.alive.all():
        return block
    whole = np.zeros((len(queries.alive), len(candidates.alive)), np.float32)
    whole[np.ix_(queries.alive, candidates.alive)] = block
    return whole


def has_embedding(rows: Float16) -> Bool:
    """Which rows are not all zero, [n]. Rows rarely begin with a zero, so few are looked at whole."""
    alive: Bool = rows[:, 0] != 0
    suspects = np.flatnonzero(~alive)
    if suspects.size:
        alive[suspects] = rows[suspects].any(axis=1)
    return alive


def ranges(starts: Int64, sizes: Int64) -> Int64:
    """starts[0], starts[0] + 1, ... (sizes[0] of them), starts[1], ...: the rows of consecutive ranges."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    rows: Int64 = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - sizes), sizes)
    return rows
