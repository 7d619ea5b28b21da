"""Noisy pairs: captions that probably do not belong to their image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelgen.audit.checks.mismatch import Findings, Replaced
from labelgen.audit.corpus_view import View
from labelgen.audit.frames import pair_columns, ranked
from labelgen.store.reader import Store
from labelgen.types import Int64

if TYPE_CHECKING:
    import polars as pl


def noisy_pairs(store: Store, *, limit: int | None = None) -> pl.DataFrame:
    """Own pairs by how much they look like replaced ones, the worst first.

    See `labelgen.audit.checks.mismatch` for the score and the evidence. Works from the siblings of a caption, from
    the photographs, or from both; with one caption an image it needs photographs.

    Args:
        limit: rows at most; all pairs without it.

    Returns:
        One row a pair: `rank`, `score` (grows with doubt), `suspicion` (a monotone form of it in [0, 1]), ids, text,
        rows, `siblings_text` (the other captions, one a line), and the evidence.

    Raises:
        ConfigError: the store has no text teacher, or neither second captions nor photographs with lists.
    """
    return noise_frame(store, Replaced(View.of(store)).find(), limit=limit)


def noise_frame(store: Store, found: Findings, *, limit: int | None = None) -> pl.DataFrame:
    """Findings named by ids and texts."""
    best = np.argsort(-found.score, kind="stable")[:limit]
    captions = found.captions[best]
    images = np.asarray(store.captions["image_row"].gather(captions).to_numpy(), np.int64)
    columns = pair_columns(store, images, captions)
    del columns["own_image_id"]
    return ranked(
        {
            "suspicion": found.suspicion[best],
            **columns,
            "siblings_text": _siblings(store, captions),
            **{name: values[best] for name, values in found.evidence.items()},
        },
        found.score[best],
    )


def _siblings(store: Store, captions: Int64) -> pl.Series:
    """The other captions of the same images, joined by line ends."""
    import polars as pl

    table = store.captions.select("image_row", "caption_row", "text")
    asked = table.select("image_row", asked="caption_row").filter(pl.col("asked").is_in(captions.tolist()))
    others = (
        asked.join(table, on="image_row")
        .filter(pl.col("asked") != pl.col("caption_row"))
        .sort("asked", "caption_row")
        .group_by("asked", maintain_order=True)
        .agg(pl.col("text").str.join("\n"))
    )
    order = pl.DataFrame({"asked": captions.astype(np.uint32)})
    return order.join(others, on="asked", how="left", maintain_order="left")["text"].rename("siblings_text")
