"""Arrays of a store at a distance: rows are fetched into the cache when they are first read, then mapped from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.store.disk.mapped import Array, MappedArray, shard_view
from labelgen.store.disk.shards import live_chunks
from labelgen.store.layout import ArraySpec
from labelgen.store.remote import client
from labelgen.store.remote.answers import Source, Wanted
from labelgen.store.remote.parts import Part, Span, granule_bits
from labelgen.types import Int64


class RemoteArray(MappedArray):
    """An array whose shards are at a distance; `slice` and `take` fetch the rows that are not in the cache.

    Args:
        source: where the shards are.
        ranges: folder of the cache with parts of shards.
        checked: fetch whole chunks, and compare each with its checksum once a process.
    """

    def __init__(self, source: Source, ranges: Path, spec: ArraySpec, checked: bool) -> None:
        super().__init__(ranges, spec)
        self.source, self._checked = source, checked
        self._parts: dict[int, Part] = {}
        self._bits = granule_bits(spec)
        self._part_bits = self._shard_bits - self._bits
        chunks = -(-self._rows // spec.chunk_rows)
        self._sound = np.zeros(chunks * spec.chunk_rows >> self._bits, bool)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), (self.source, self._root, self.spec, self._checked)

    def slice(self, start: int, stop: int) -> Array:
        """Rows [start, stop): a read-only view where they are in one chunk, else a copy."""
        if 0 <= start < stop <= len(self):
            fetch([(self, np.arange(start, stop))])
        return super().slice(start, stop)

    def take(self, rows: Int64) -> Array:
        """The given rows in the given order, copied; [len(rows), ...]."""
        fetch([(self, rows)])
        return super().take(rows)

    def unsure(self, rows: Int64) -> Int64:
        """The granules of rows that this process has not seen in the cache yet, in any order."""
        if not rows.size or rows.min() < 0 or rows.max() >= self._rows:
            return np.empty(0, np.int64)  # refused by whoever takes them
        granules = rows >> self._bits
        sound = self._sound[granules]
        return granules[:0] if sound.all() else granules[~sound]

    def missing(self, granules: Int64) -> list[tuple[Part, Span]]:
        """The ranges to read for granules."""
        found, shards = [], granules >> self._part_bits
        for shard in np.unique(shards).tolist():
            part = self._part(shard)
            absent = part.missing(granules[shards == shard] - (shard << self._part_bits))
            found += [(part, span) for span in part.spans(absent, 0 if self._checked else client.gap())]
        return found

    def _part(self, shard: int) -> Part:
        part = self._parts.get(shard)
        if part is None:
            name = self.source.name(self.spec.shard_path(shard))
            sound = self._sound[shard << self._part_bits : (shard + 1) << self._part_bits]
            part = self._parts[shard] = Part(self._root, self.spec, shard, name, sound, self._checked)
        return part

    def _mapped(self, shard: int) -> Array:
        part = self._part(shard)
        return shard_view(self.spec, part.mapping, live_chunks(self.spec, shard))

    def renew(self) -> None:
        """Look at the copies of shards as they are now."""
        self._shards.clear()


def fetch(wanted: Iterable[tuple[MappedArray, Int64]]) -> None:
    """Fetch rows of several arrays at once, those of remote arrays that are not in the cache.

    Raises:
        StoreMismatchError, CorruptStoreError, StoreError: see `Part.take` and `client.read`.
    """
    unsure: dict[RemoteArray, list[Int64]] = {}
    for array, rows in wanted:
        if isinstance(array, RemoteArray) and (granules := array.unsure(np.asarray(rows, np.int64))).size:
            unsure.setdefault(array, []).append(granules)
    ranges = [
        Wanted(array.source, part.inner, part.size, span.start, span.stop, (part, span))
        for array, granules in unsure.items()
        for part, span in array.missing(np.concatenate(granules))
    ]
    if not ranges:
        return
    for item, answer in client.read_all(ranges):
        part, span = item.key
        part.take(span, answer.data, answer.validator)
    for array in unsure:
        array.renew()
