"""Agreement of two teachers or two stores, query by query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelgen.audit.corpus_view import NeighborLists, listed
from labelgen.audit.frames import item_columns, ranked
from labelgen.errors import ConfigError
from labelgen.store import choose
from labelgen.store.reader import Store
from labelgen.types import Bool, Float32, Float64, Int64, Modality, Relation

if TYPE_CHECKING:
    import polars as pl


def agreement(
    a: Store,
    b: Store | None = None,
    *,
    relation: str,
    alias_a: str | None = None,
    alias_b: str | None = None,
    k: int = 10,
) -> pl.DataFrame:
    """Compare two neighbor lists of every query; the queries with the least overlap first.

    Args:
        a, b: the stores; without `b` two teachers of `a` are compared. Items are matched by id; neighbors that only
            one store holds count as disagreement.
        relation: of the lists, the same for both.
        alias_a, alias_b: the teachers; optional where only one has such a list (or, in one store, two have).
        k: number of places compared.

    Returns:
        One row a query of both: `rank`, `score` (1 - overlap), `overlap` (share of the first `k` that both list),
        `correlation` (Spearman's, over the union of both lists, items that a list lacks at its place k + 1; null where
        it is not defined), ids and texts of `a`.

    Raises:
        ConfigError: no such lists, or one list twice.
    """
    wanted = Relation(relation)
    other = a if b is None else b
    alias_a, alias_b = _aliases(a, other, wanted, alias_a, alias_b, b is None)
    left, right = listed(a, wanted, alias_a, k=k), listed(other, wanted, alias_b, k=k)
    queries = np.arange(len(left.ids))
    if b is not None:
        queries, right = _matched(a, b, wanted, right)
        left = NeighborLists(left.ids[queries], left.scores[queries])
    overlap, correlation = compared(left.ids, right.ids)
    columns = {"overlap": overlap, "correlation": correlation, **item_columns(a, wanted.query, queries)}
    return ranked(columns, 1 - overlap)


def compared(left: Int64, right: Int64) -> tuple[Float32, Float32]:
    """Return overlap and rank correlation of two lists a row, [n, k] each; -1 is padding, -2 matches nothing."""
    k = left.shape[1]
    real_left, real_right = left != -1, right != -1
    same = (left[:, :, None] == right[:, None, :]) & real_left[:, :, None] & real_right[:, None, :]
    longest = np.maximum(real_left.sum(axis=1), real_right.sum(axis=1))
    overlap = np.where(longest > 0, same.sum(axis=(1, 2)) / np.maximum(longest, 1), 1.0)
    place = np.arange(1, k + 1)
    there = np.where(same.any(axis=2), same.argmax(axis=2) + 1, k + 1)  # places of the left ones in the right list
    only_right = real_right & ~same.any(axis=1)
    x = np.concatenate([np.broadcast_to(place, left.shape), np.full(left.shape, k + 1)], axis=1).astype(np.float64)
    y = np.concatenate([there, np.broadcast_to(place, left.shape)], axis=1).astype(np.float64)
    weight = np.concatenate([real_left, only_right], axis=1)
    return overlap.astype(np.float32), _correlation(_mean_ranks(x, weight), _mean_ranks(y, weight), weight)


def _mean_ranks(values: Float64, real: Bool) -> Float64:
    """Return ranks of the real entries of every row; ties share their mean rank."""
    below = (values[:, None, :] < values[:, :, None]) & real[:, None, :]
    equal = (values[:, None, :] == values[:, :, None]) & real[:, None, :]
    ranks: Float64 = below.sum(axis=2) + (equal.sum(axis=2) + 1) / 2
    return ranks


def _correlation(x: Float64, y: Float64, real: Bool) -> Float32:
    """Return Pearson's correlation over the real entries of every row; NaN where one side does not vary."""
    count = np.maximum(real.sum(axis=1, keepdims=True), 1)
    x = np.where(real, x - np.where(real, x, 0).sum(axis=1, keepdims=True) / count, 0)
    y = np.where(real, y - np.where(real, y, 0).sum(axis=1, keepdims=True) / count, 0)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(axis=1) / scale, np.nan).astype(np.float32)


def _aliases(
    a: Store, b: Store, relation: Relation, alias_a: str | None, alias_b: str | None, one: bool
) -> tuple[str, str]:
    able = sorted(
        {
            entry.alias
            for entry in choose.lists_over_all(a.manifest)
            if entry.relation == relation and entry.scope == "split"
        }
    )
    if one and alias_a is None and alias_b is None and len(able) == 2:
        alias_a, alias_b = able
    names = [
        choose.neighbor_list(store.manifest, relation, alias=alias, scope="split", aggregation="max", k=None).alias
        for store, alias in ((a, alias_a), (b, alias_b))
    ]
    if one and names[0] == names[1]:
        raise ConfigError(
            f"the agreement of teachers needs two of them, and {names[0]!r} is one",
            found=f"lists {relation} of {', '.join(able)}",
            expected="two teachers, or two stores",
            todo="name them: alias_a=, alias_b="
            if len(able) > 1
            else "add a second teacher with these lists to the store, or compare with another store",
        )
    return names[0], names[1]


def _matched(a: Store, b: Store, relation: Relation, lists: NeighborLists) -> tuple[Int64, NeighborLists]:
    """Return queries of `a` that `b` holds, and the lists of `b` for them, in rows of `a` (-2: not in `a`)."""
    queries, candidates = _rows_in(a, b, relation.query), _rows_in(a, b, relation.candidate)
    known = np.flatnonzero(queries >= 0)
    known = known[np.argsort(queries[known])]
    named = np.where(candidates >= 0, candidates, -2) if len(candidates) else candidates
    ids = lists.ids[known]
    return queries[known], NeighborLists(np.where(ids < 0, ids, named[np.maximum(ids, 0)]), lists.scores[known])


def _rows_in(a: Store, b: Store, modality: Modality) -> Int64:
    """Return the row in `a` of every item of `b`, -1 where it has none."""
    if modality == "image":
        return a.image_rows(b.images["image_id"].to_list(), missing_ok=True)
    return a.caption_rows(b.captions["caption_id"].to_list(), missing_ok=True)
