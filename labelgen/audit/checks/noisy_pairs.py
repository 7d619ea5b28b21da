"""Noisy pairs: annotated pairs whose caption probably does not describe the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelgen.audit.checks.mismatch import Mismatches, MismatchModel
from labelgen.audit.corpus_view import View
from labelgen.audit.frames import pair_columns, ranked
from labelgen.store.reader import Store
from labelgen.types import Int64

if TYPE_CHECKING:
    import polars as pl


def noisy_pairs(store: Store, *, limit: int | None = None) -> pl.DataFrame:
    """Return annotated pairs by how much they look like mismatched ones, the worst first.

    See `labelgen.audit.checks.mismatch` for the score and the evidence. Uses the siblings of a caption, the images, or
    both; with one caption an image it needs image embeddings.

    Args:
        limit: maximum number of rows; all pairs by default.

    Returns:
        One row a pair: `rank`, `score` (larger is more suspect), `suspicion` (a monotone form of it in [0, 1]), ids,
        text, rows, `siblings_text` (the other captions, one a line), and the evidence.

    Raises:
        ConfigError: the store has no text teacher, or neither second captions nor images with lists.
    """
    return noise_frame(store, MismatchModel(View.of(store)).find(), limit=limit)


def noise_frame(store: Store, found: Mismatches, *, limit: int | None = None) -> pl.DataFrame:
    """Return mismatches as a frame with ids and texts."""
    best = np.argsort(-found.score, kind="stable")[:limit]
    captions = found.captions[best]
    columns = pair_columns(store, store.image_of(captions), captions)
    del columns["annotated_image_id"]
    evidence = {name: values[best] for name, values in found.evidence.items()}
    siblings = {"siblings_text": _siblings(store, captions)}
    return ranked({"suspicion": found.suspicion[best], **columns, **siblings, **evidence}, found.score[best])


def _siblings(store: Store, captions: Int64) -> pl.Series:
    """Return the other captions of the same images, joined by line breaks."""
    import polars as pl

    table = store.captions.select("image_row", "caption_row", "text")
    order = pl.DataFrame({"chosen": captions.astype(np.uint32)})
    others = (
        table.select("image_row", chosen="caption_row")
        .join(order, on="chosen", how="semi")
        .join(table, on="image_row")
        .filter(pl.col("chosen") != pl.col("caption_row"))
        .sort("chosen", "caption_row")
        .group_by("chosen", maintain_order=True)
        .agg(pl.col("text").str.join("\n"))
    )
    return order.join(others, on="chosen", how="left", maintain_order="left")["text"].rename("siblings_text")
