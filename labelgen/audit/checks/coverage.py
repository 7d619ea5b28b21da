"""Coverage: share of a training batch that the neighbor lists hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.corpus_view import listed
from labelgen.audit.frames import ranked
from labelgen.errors import ConfigError
from labelgen.store import choose
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import Bool, Float32, Float64, Int64

if TYPE_CHECKING:
    import polars as pl

_SEED = 20221105


def coverage(store: Store, *, batch: int = 256, batches: int = 8) -> pl.DataFrame:
    """Measure how much of random batches the neighbor lists hold, for every list and split, the least first.

    A batch is `batch` images of a split (fewer where the split has fewer), each with one of its captions, all drawn at
    random. Its pairs are those of different images. Losses need the similarity of all of them, which is why blocks
    are computed from embeddings; lists are for what needs the nearest items only.

    Returns:
        One row a list and split: `rank`, `score` (1 - `nearest`), `relation`, `alias`, `k`, `split`, `items`
        (candidates in the split), `batch`, `pairs` (in the batches), `pairs_listed` (share of them in the lists),
        `nearest` (share of queries whose most similar item of the batch is listed), `mass` (listed share of the
        positive similarity of the pairs).

    Raises:
        ConfigError: no pairs in a batch of fewer than two.
    """
    if batch < 2 or batches < 1:
        raise ConfigError(f"batch={batch}, batches={batches}", expected="at least two images, at least one batch")
    lists = [entry for entry in choose.lists_over_all(store.manifest) if entry.scope == "split"]
    rows = [_one(store, entry, name, batch, batches) for entry in lists for name in store.splits]
    filled = [row for row in rows if row["pairs"]]
    columns = {name: np.array([row[name] for row in filled]) for name in filled[0]} if filled else {}
    return ranked(columns, 1 - np.array(columns.get("nearest", []), np.float32))


def _one(store: Store, entry: NeighborEntry, split: str, batch: int, batches: int) -> dict[str, Any]:
    draw = np.random.default_rng(_SEED)
    offsets = np.asarray(store.offsets, np.int64)
    images: Int64 = np.asarray(store.splits[split])
    images = images[offsets[images + 1] > offsets[images]]
    sizes = offsets[images + 1] - offsets[images]
    lists = listed(store, entry.relation, entry.alias, k=entry.k, aggregation=entry.aggregation)
    totals, shares = np.zeros(4), []
    for _ in range(batches if len(images) > 1 else 0):
        chosen = np.sort(draw.choice(images, min(batch, len(images)), replace=False))
        captions = offsets[chosen] + (draw.random(len(chosen)) * (offsets[chosen + 1] - offsets[chosen])).astype(
            np.int64
        )
        block, where = _block(store, entry, chosen, captions)
        queries = chosen if entry.relation.query == "image" else captions
        candidates = chosen if entry.relation.candidate == "image" else captions
        counted, share = _counts(lists.ids[queries], candidates, block, where & ~np.eye(len(chosen), dtype=np.bool_))
        totals += counted
        shares.append(share)
    pairs, known, queries_seen, nearest = totals
    return {
        "relation": str(entry.relation),
        "alias": entry.alias,
        "k": entry.k,
        "split": split,
        "items": int(sizes.sum()) if entry.relation.candidate == "text" else len(images),
        "batch": min(batch, len(images)),
        "pairs": int(pairs),
        "pairs_listed": known / max(pairs, 1),
        "nearest": nearest / max(queries_seen, 1),
        "mass": float(np.mean(shares)) if shares else 0.0,
    }


def _block(store: Store, entry: NeighborEntry, images: Int64, captions: Int64) -> tuple[Float32, Bool]:
    sides = {"image_rows": images, "caption_rows": captions}
    used = {"image": "image_rows", "text": "caption_rows"}
    names = {used[entry.relation.query], used[entry.relation.candidate]}
    chosen: dict[str, Any] = {name: sides[name] for name in names}
    block, where = store.block(
        entry.relation, alias=entry.alias, aggregation=entry.aggregation, missing="mask", **chosen
    )
    return block, where


def _counts(ids: Int64, candidates: Int64, block: Float32, where: Bool) -> tuple[Float64, float]:
    """Count pairs, listed pairs, queries, queries whose nearest is listed; then the listed share of similarity."""
    known = np.stack([np.isin(candidates, row) for row in ids]) & where
    open_scores = np.where(where, block, -np.inf)
    counted = where.any(axis=1)
    nearest = known[np.arange(len(ids)), open_scores.argmax(axis=1)] & counted
    positive = np.where(where, np.maximum(block, 0), 0)
    share = float(positive[known].sum()) / max(float(positive.sum()), 1e-9)
    return np.array([where.sum(), known.sum(), counted.sum(), nearest.sum()], np.float64), share
