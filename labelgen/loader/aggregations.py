"""Aggregations over an image's captions that only training requests: all others than the compared one, the first."""

from __future__ import annotations

import numpy as np

from labelgen.errors import ConfigError
from labelgen.relevance.base import BlockRequest
from labelgen.store.blocks import BlockReader, block_similarity, block_similarity32, pair_similarities
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, Bool, Float32, Int64


def reader_of(store: Store, request: BlockRequest) -> BlockReader:
    """What makes the block of a request; by `max` for the aggregations of this module, which change that block.

    Raises:
        ConfigError: no teacher of the store serves it, or the teacher has rows of images: nothing is aggregated.
    """
    how = request.aggregation
    reader = store.block_reader(request.relation, request.alias, "mean" if how == "mean" else "max")
    if how != "max" and reader.offsets is None:
        raise ConfigError(
            f"i2t of teacher {reader.alias!r} compares single rows: there is nothing to aggregate",
            found=f"aggregation={how!r}",
        )
    return reader


def max_other(
    reader: BlockReader, offsets: Int64, block: Float32, images: Int64, captions: Int64, same_image: Bool
) -> Float32:
    """The block by `max`, changed where a caption meets its own image; -inf where the image has no other caption."""
    pairs = np.nonzero(same_image)
    owners, queries = images[pairs[0]], captions[pairs[1]]
    starts, rows = offsets[owners], reader.captions.take(queries)
    sizes = offsets[owners + 1] - starts
    best = np.full(len(owners), PAD_SCORE)
    for number in range(int(sizes.max(initial=0))):
        there = np.flatnonzero((number < sizes) & (starts + number != queries))
        others = reader.captions.take(starts[there] + number)
        best[there] = np.maximum(best[there], pair_similarities(rows[there], others))
    block[pairs] = best
    return block


def first(offsets: Int64, texts: MappedArray, images: Int64, captions: Int64, *, exact: bool) -> Float32:
    """Similarity of the first caption of every image with captions, [A, B]; -inf where either is missing."""
    starts = offsets[images]
    empty = offsets[images + 1] == starts
    starts = np.minimum(starts, len(texts) - 1)  # an image without captions may be the last one
    block = (block_similarity if exact else block_similarity32)(texts.take(starts), texts.take(captions))
    block[empty] = PAD_SCORE
    return block
