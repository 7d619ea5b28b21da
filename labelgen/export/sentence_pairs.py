"""(text, text, score) for sentence-transformers: captions of one image, and listed neighbours by their similarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labelgen.errors import ConfigError
from labelgen.export.base import Options, Written, alive, hub_splits, rows_of_teacher
from labelgen.export.parquet import item_ranges, write_batches
from labelgen.store import choose, layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, Float32, Int64, Relation

#: Captions whose pairs are made at once.
_CAPTIONS = 4096


def write(store: Store, options: Options, written: Written) -> None:
    """`{split}.parquet` with the columns `sentence1`, `sentence2` (text) and `score` (float32), one row a pair.

    Two captions of one image have score 1. A caption and one of its `options.nearest` nearest captions of other images
    have their similarity by the text teacher. A pair is there once, in one of its two orders. Captions without an
    embedding, and pairs of equal texts, are left out.

    Raises:
        ConfigError: no neighbour list of captions for captions, `nearest` below 1, two splits with one name.
    """
    import pyarrow as pa

    if options.nearest < 1:
        raise ConfigError(f"nearest={options.nearest}", expected="at least one neighbour of a caption")
    alias, rows = rows_of_teacher(store, "text", options.text)
    entry = choose.neighbor_list(store.manifest, Relation.T2T, alias=alias, scope="split", aggregation="max", k=None)
    if options.nearest > entry.k:
        written.notes.append(f"{entry.k} neighbours of a caption instead of {options.nearest}: the list has no more")
    schema = pa.schema([("sentence1", pa.string()), ("sentence2", pa.string()), ("score", pa.float32())])
    pairs = _Pairs(store, entry, rows, options.nearest)
    for split, images in hub_splits(store, options).items():
        batches = (batch for captions in item_ranges(store, "text", images) for batch in pairs.batches(captions))
        name = f"{split}.parquet"
        written.add(name, write_batches(written.path(name), schema, batches))
    written.notes.append(f"{pairs.positives:,} pairs of one image, {pairs.listed:,} listed ones")
    if pairs.equal:
        written.notes.append(f"{pairs.equal:,} pairs of equal texts left out")


class _Pairs:
    """Pairs of a list, with counts of what was made."""

    def __init__(self, store: Store, entry: NeighborEntry, rows: MappedArray, nearest: int) -> None:
        self.store, self.rows, self.k = store, rows, min(nearest, entry.k)
        arrays = entry.arrays()
        self.ids, self.scores = store.array(arrays["ids"]), store.array(arrays["scores"])
        self.texts = store.strings(layout.CAPTIONS, "text")
        self.positives = self.listed = self.equal = 0

    def batches(self, captions: range) -> Iterator[dict[str, Any]]:
        """The columns of the pairs that begin with these captions, piece by piece."""
        for start in range(captions.start, captions.stop, _CAPTIONS):
            here = np.arange(start, min(start + _CAPTIONS, captions.stop))
            own, near = self._of_images(here), self._of_lists(here)
            order = np.argsort(np.concatenate([own[0], near[0]]), kind="stable")
            first, second = (np.concatenate([own[side], near[side]])[order] for side in (0, 1))
            score = np.concatenate([own[2], near[2]])[order]
            one, two = self.texts.take(first), self.texts.take(second)
            differ = np.array([left != right for left, right in zip(one, two, strict=True)], bool)
            positive = order < len(own[0])
            self.equal += int((~differ).sum())
            self.positives += int((differ & positive).sum())
            self.listed += int((differ & ~positive).sum())
            kept = np.flatnonzero(differ).tolist()
            yield {
                "sentence1": [one[at] for at in kept],
                "sentence2": [two[at] for at in kept],
                "score": score[differ],
            }

    def _of_images(self, here: Int64) -> tuple[Int64, Int64, Float32]:
        """Every caption with the later ones of its image, score 1."""
        ends = self.store.offsets[self.store.image_of(here) + 1]
        sizes = ends - here - 1
        first = np.repeat(here, sizes)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        living = alive(self.rows, np.arange(here[0], ends[-1]))
        there = living[first - here[0]] & living[second - here[0]]
        return first[there], second[there], np.ones(int(there.sum()), np.float32)

    def _of_lists(self, here: Int64) -> tuple[Int64, Int64, Float32]:
        """Every caption with its nearest ones; a pair that is in both lists with the smaller row first."""
        ids = self.ids.slice(int(here[0]), int(here[-1]) + 1)[:, : self.k]
        scores = self.scores.slice(int(here[0]), int(here[-1]) + 1)[:, : self.k]
        at, place = np.nonzero(ids != PAD_ROW)
        first, second = here[at], ids[at, place].astype(np.int64)
        listed_there = (self.ids.take(second)[:, : self.k] == first[:, None]).any(axis=1)
        once = (first < second) | ~listed_there
        return first[once], second[once], scores[at, place][once]
