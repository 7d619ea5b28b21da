"""Aggregations over an image's captions that only training asks for: all others than the compared one, the first."""

from __future__ import annotations

from typing import Literal

import numpy as np

from labelgen.errors import ConfigError
from labelgen.loader.pairs import Batch
from labelgen.relevance.base import BlockRequest
from labelgen.store import blocks, choose
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, Bool, Float32, Int64


def set_block(
    store: Store, need: BlockRequest, batch: Batch, missing: Literal["raise", "mask"], *, exact: bool = True
) -> tuple[Float32, Bool]:
    """The i2t block by `max_other` or `first`, [A, B], and which entries can be compared; 0 elsewhere.

    `max_other` differs from the stored `max` only where a caption meets its own image. An image whose only caption is
    the compared one has no other: that entry cannot be compared, whatever `missing` says.

    Raises:
        ConfigError: the teacher has rows of images: no captions are aggregated.
        MissingItemError: items without an embedding.
    """
    alias, cross = choose.teacher_for(store.manifest, need.relation, need.alias)
    if cross:
        raise ConfigError(
            f"i2t of teacher {alias!r} compares single rows: there is nothing to aggregate",
            found=f"aggregation={need.aggregation!r}",
        )
    block, where = store.block(
        need.relation, image_rows=batch.images, caption_rows=batch.captions, alias=alias, missing="mask", exact=exact
    )
    if missing == "raise" and not where[batch.known].all():
        store.block(need.relation, image_rows=batch.images, caption_rows=batch.captions, alias=alias)  # names them
    embeddings = store.embeddings(alias, "text")
    if need.aggregation == "first":
        return _first(store, embeddings, batch, exact)
    pairs = np.nonzero(batch.images[:, None] == store.image_of(batch.captions)[None, :])
    best = _best_other(store, embeddings, batch.images[pairs[0]], batch.captions[pairs[1]])
    where[pairs] &= best > PAD_SCORE
    block[pairs] = best
    block[~where] = 0
    return block, where


def _first(store: Store, embeddings: MappedArray, batch: Batch, exact: bool) -> tuple[Float32, Bool]:
    starts = store.offsets[batch.images]
    some = store.offsets[batch.images + 1] > starts
    starts = np.minimum(starts, len(embeddings) - 1)  # an image without captions may be the last one
    sides = blocks.single(embeddings, starts), blocks.single(embeddings, batch.captions)
    block = blocks.compare(*sides, "max", exact=exact)
    where = (block > PAD_SCORE) & some[:, None]
    block[~where] = 0
    return block, where


def _best_other(store: Store, embeddings: MappedArray, images: Int64, captions: Int64) -> Float32:
    """Largest similarity of each caption with another caption of the image, [n]; -inf where there is none."""
    starts = store.offsets[images]
    sizes = store.offsets[images + 1] - starts
    best = np.full(len(images), PAD_SCORE)
    queries = embeddings.take(captions)
    for number in range(int(sizes.max(initial=0))):
        there = np.flatnonzero((number < sizes) & (starts + number != captions))
        others = embeddings.take(starts[there] + number)
        best[there] = np.maximum(best[there], blocks.paired(queries[there], others))
    return best
