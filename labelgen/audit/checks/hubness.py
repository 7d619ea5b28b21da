"""Hubs, which are in very many neighbor lists, and isolated items, which have no similar item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.checks.leakage import split_of
from labelgen.audit.corpus_view import NeighborLists, listed
from labelgen.audit.frames import item_columns, ranked
from labelgen.store import choose
from labelgen.store.reader import Store
from labelgen.types import Float32, Int64, Relation

if TYPE_CHECKING:
    import polars as pl


def hubs(store: Store, relation: str, *, alias: str | None = None, k: int = 10, limit: int = 100) -> pl.DataFrame:
    """Return candidates that are in the first `k` places of the most lists, by default of the first teacher with lists.

    Returns:
        One row an item: `rank`, `score` (standard deviations of `listed` above the mean of its split), `listed`
        (number of lists with the item), `expected` (its mean over the split), ids and texts.

    Raises:
        ConfigError: no such list, or a `k` beyond it.
    """
    wanted, lists = _lists(store, relation, alias, k)
    split = split_of(store, wanted.candidate)
    counts = listed_counts(lists, len(split))
    mean, score = _by_split(counts, split)
    best = np.argsort(-score, kind="stable")[:limit]
    columns = {"listed": counts[best], "expected": mean[best]}
    return ranked({**columns, **item_columns(store, wanted.candidate, best)}, score[best])


def isolated(store: Store, relation: str, *, alias: str | None = None, k: int = 5, limit: int = 100) -> pl.DataFrame:
    """Return queries without a similar item, by the lists of a teacher (by default the first with lists).

    Returns:
        One row an item: `rank`, `score` (1 minus the mean similarity of its `k` nearest), `nearest` (similarity of the
        nearest), `listed` (number of lists with the item, for t2t and i2i), ids and texts. Items
        without an embedding are left out.

    Raises:
        ConfigError: no such list, or a `k` beyond it.
    """
    wanted, lists = _lists(store, relation, alias, k)
    real = lists.ids >= 0
    rows = np.flatnonzero(real.any(axis=1))
    mean = np.where(real[rows], lists.scores[rows], 0).sum(axis=1) / real[rows].sum(axis=1)
    best = rows[np.argsort(mean, kind="stable")[:limit]]
    score = (1 - np.sort(mean, kind="stable")[:limit]).astype(np.float32)
    columns: dict[str, Any] = {"nearest": lists.scores[best, 0]}
    if wanted.query == wanted.candidate:
        columns["listed"] = listed_counts(lists, len(lists.ids))[best]
    return ranked({**columns, **item_columns(store, wanted.query, best)}, score)


def listed_counts(lists: NeighborLists, count: int) -> Int64:
    """Return the number of lists that every candidate is in, [count]."""
    counts: Int64 = np.bincount(lists.ids[lists.ids >= 0], minlength=count).astype(np.int64)
    return counts


def _lists(store: Store, relation: str, alias: str | None, k: int) -> tuple[Relation, NeighborLists]:
    wanted = Relation(relation)
    if alias is None:
        able = (
            entry.alias
            for entry in choose.lists_over_all(store.manifest)
            if (entry.relation, entry.scope) == (wanted, "split")
        )
        alias = next(able, None)
    entry = choose.neighbor_list(store.manifest, wanted, alias=alias, scope="split", aggregation="max", k=k)
    return wanted, listed(store, wanted, entry.alias, k=k)


def _by_split(counts: Int64, split: Int64) -> tuple[Float32, Float32]:
    """Return the mean count of every item's split, and the deviation from it in standard deviations."""
    sizes = np.maximum(np.bincount(split), 1)
    means = np.bincount(split, weights=counts) / sizes
    squares = np.bincount(split, weights=(counts - means[split]) ** 2) / sizes
    deviation = np.sqrt(squares)[split]
    score = np.divide(counts - means[split], deviation, out=np.zeros(len(counts)), where=deviation > 0)
    return means[split].astype(np.float32), score.astype(np.float32)
