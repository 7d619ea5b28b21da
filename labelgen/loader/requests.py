"""Serve the requests of a scheme: block readers, the aggregations of training, quantile tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labelgen.errors import ConfigError, CorruptStoreError
from labelgen.relevance.base import BlockRequest, Quantiles
from labelgen.store import choose, layout
from labelgen.store.blocks import BlockReader, block_similarity, block_similarity32, pair_similarities
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.kinds import CaptionKinds, CaptionSets, update_command
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, Bool, Float32, Int64, Relation


def reader_of(store: Store, request: BlockRequest, kinds: CaptionKinds | None = None) -> BlockReader:
    """Return the reader of the block of a request; of `max` for the aggregations of this module, made from it.

    With `kinds` the set of an image holds these captions only.

    Raises:
        ConfigError: no teacher of the store serves it, or the teacher has rows of images: nothing is aggregated.
    """
    how = request.aggregation
    reader = store.block_reader(request.relation, request.alias, "mean" if how == "mean" else "max")
    if how != "max" and reader.offsets is None:
        raise ConfigError(
            f"i2t of teacher {reader.alias!r} compares single rows, so there is nothing to aggregate",
            found=f"aggregation={how!r}",
        )
    return reader if kinds is None or reader.offsets is None else replace(reader, kinds=kinds)


def max_other(
    reader: BlockReader, sets: CaptionSets, block: Float32, images: Int64, captions: Int64, same_image: Bool
) -> Float32:
    """The block by `max`, changed where a caption meets its own image; -inf where the image has no other caption."""
    pairs = np.nonzero(same_image)
    owners, queries = images[pairs[0]], captions[pairs[1]]
    starts, rows = sets.offsets[owners], reader.captions.take(queries)
    sizes = sets.offsets[owners + 1] - starts
    best = np.full(len(owners), PAD_SCORE)
    for number in range(int(sizes.max(initial=0))):
        there = np.flatnonzero(number < sizes)
        others = sets.captions(starts[there] + number)
        there, others = there[others != queries[there]], others[others != queries[there]]
        best[there] = np.maximum(best[there], pair_similarities(rows[there], reader.captions.take(others)))
    block[pairs] = best
    return block


def first(sets: CaptionSets, texts: MappedArray, images: Int64, captions: Int64, *, exact: bool) -> Float32:
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
