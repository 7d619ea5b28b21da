"""Serve the requests of a scheme: block readers, the aggregations of training, quantile tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labelgen.errors import ConfigError, CorruptStoreError
from labelgen.relevance.base import BlockRequest, Quantiles
from labelgen.store import choose, layout
from labelgen.store.blocks import (
    BlockReader,
    ReadRows,
    block_similarity,
    block_similarity32,
    pair_set_similarities,
)
from labelgen.store.kinds import CaptionKinds, CaptionSets, update_command
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, BlockAggregation, Bool, Float32, Int64, Relation


def reader_of(store: Store, request: BlockRequest, kinds: CaptionKinds | None = None) -> BlockReader:
    """Return the reader of the rows of a request; its blocks are of `max` for the aggregations made here from them.

    With `kinds` the set of an image holds these captions only.

    Raises:
        ConfigError: no teacher of the store serves it, or the teacher has rows of images: nothing is aggregated.
    """
    how = request.aggregation
    if request.of_two_sets:
        raise ConfigError(f"{request} is a label of the card, not of batches", expected="i2t...sets, or t2t")
    aggregation: BlockAggregation = "mean" if how == "mean" else "top2" if how == "top2" else "max"
    centred = request.centred
    single = request.relation is not Relation.I2T or choose.teacher_for(store.manifest, Relation.I2T, request.alias)[1]
    reader = store.block_reader(request.relation, request.alias, "max" if single else aggregation, centred=centred)
    # of a single row `max_other` leaves nothing out
    if how not in ("max", "max_other") and reader.offsets is None:
        raise ConfigError(
            f"i2t of teacher {reader.alias!r} compares single rows, so there is nothing to aggregate",
            found=f"aggregation={how!r}",
        )
    return reader if kinds is None or reader.offsets is None else replace(reader, kinds=kinds)


def without_itself(
    reader: BlockReader, sets: CaptionSets, block: Float32, images: Int64, captions: Int64, same_image: Bool
) -> Float32:
    """The block of a reader, changed where a caption meets its own image: it is not compared with itself.

    -inf where the image has no other caption.
    """
    pairs = np.nonzero(same_image)
    owners, queries = images[pairs[0]], captions[pairs[1]]
    block[pairs] = pair_set_similarities(reader.captions, sets, owners, queries, reader.aggregation)
    return block


def first(sets: CaptionSets, texts: ReadRows, images: Int64, captions: Int64, *, exact: bool) -> Float32:
    """Similarity of the first caption of every image with captions, [A, B]; -inf where either is missing."""
    starts = sets.offsets[images]
    empty = sets.offsets[images + 1] == starts
    starts = np.minimum(starts, sets.offsets[-1] - 1)  # an image without captions may be the last one
    block = (block_similarity if exact else block_similarity32)(texts.take(sets.captions(starts)), texts.take(captions))
    block[empty] = PAD_SCORE
    return block


def quantile_table(store: Store, request: BlockRequest, kinds: Sequence[str] = ()) -> Quantiles:
    """Level in [0, 1] -> similarity of random pairs of different images, for the relation and teacher of a request.

    A random pair never holds a caption of the image itself, so `max_other` has the table of `max`. With `kinds`, or a
    store of some kinds, the table is that of a build of lists over these captions.

    Raises:
        ConfigError: the store has no such table.
        CorruptStoreError: the table is not what a build writes.
    """
    alias, _ = choose.teacher_for(store.manifest, request.relation, request.alias)
    mark = {"max": "", "max_other": "", "mean": ".mean"}.get(request.aggregation, f".{request.aggregation}")
    mark = f".centred{mark}" if request.centred else mark
    folder = layout.numbered(layout.STATS, store.manifest.generation)
    over = () if request.relation is Relation.I2I else tuple(kinds) or store.chosen
    mark += f".{layout.kinds_mark(over)}" if over else ""
    path = f"{folder}/{request.relation.value}.{alias}{mark}.json"
    if path not in store.manifest.files:
        listed = [name for name in store.manifest.files if name.startswith(f"{folder}/")]
        raise ConfigError(
            f"this store has no quantile table of {request} by teacher {alias!r}"
            + (f" over captions of kinds {', '.join(over)}" if over else ""),
            found=", ".join(listed) or "no tables",
            todo="use a threshold that is a similarity, or build the relation into the store"
            + (f": {update_command(store.storage.name, over)}" if over else ""),
        )
    file = store.file(path)
    try:
        levels = json.loads(file.read_bytes())["quantiles"]
        return {float(level): float(value) for level, value in levels.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{path} of the store at {store.storage.name} cannot be read",
            found=str(error),
            todo="run `labelgen verify` on the store",
        ) from error
