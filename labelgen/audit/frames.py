"""Frames of findings: rows of a store with ids and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from labelgen.store.reader import Store
    from labelgen.types import Float32, Int64, Modality


def ranked(columns: dict[str, Any], score: Float32) -> pl.DataFrame:
    """Return columns sorted by score, largest first, ties in the given order, with `rank` (from 1) and `score`."""
    import polars as pl

    order = np.argsort(-score, kind="stable")
    head = {"rank": np.arange(1, len(score) + 1, dtype=np.uint32), "score": score[order]}
    frame = pl.DataFrame({**head, **{name: taken(values, order) for name, values in columns.items()}})
    return frame.fill_nan(None)


def taken(values: Any, order: Int64) -> Any:
    """Return a column, an array or a series, in another order."""
    return values.gather(order) if hasattr(values, "gather") else values[order]


def pair_columns(store: Store, images: Int64, captions: Int64) -> dict[str, Any]:
    """Return columns of pairs: ids and rows of both sides, the caption's text, its split, and its annotated image."""
    table, texts = store.images, store.captions
    owners = texts["image_row"].gather(captions)
    return {
        "image_id": table["image_id"].gather(images),
        "caption_id": texts["caption_id"].gather(captions),
        "text": texts["text"].gather(captions),
        "split": table["split"].gather(images),
        "annotated_image_id": table["image_id"].gather(owners),
        "image_row": images.astype(np.uint32),
        "caption_row": captions.astype(np.uint32),
    }


def item_columns(store: Store, modality: Modality, rows: Int64, prefix: str = "") -> dict[str, Any]:
    """Return columns of images (id, split, first caption, row) or captions (id, text, split, image, row)."""
    table, texts = store.images, store.captions
    if modality == "text":
        return {
            f"{prefix}caption_id": texts["caption_id"].gather(rows),
            f"{prefix}text": texts["text"].gather(rows),
            f"{prefix}split": texts["split"].gather(rows),
            f"{prefix}image_id": table["image_id"].gather(texts["image_row"].gather(rows)),
            f"{prefix}caption_row": rows.astype(np.uint32),
        }
    return {
        f"{prefix}image_id": table["image_id"].gather(rows),
        f"{prefix}split": table["split"].gather(rows),
        f"{prefix}text": _first_texts(store, rows, texts["text"]),
        f"{prefix}image_row": rows.astype(np.uint32),
    }


def _first_texts(store: Store, images: Int64, texts: pl.Series) -> pl.Series:
    import polars as pl

    offsets = np.asarray(store.offsets, np.int64)
    first = np.where(offsets[images] < offsets[images + 1], offsets[images], -1)
    return texts.gather(pl.Series(first).replace(-1, None))
