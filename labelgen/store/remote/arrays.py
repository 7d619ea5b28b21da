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
from labelgen.store.remote.parts import Part, Span
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

    def missing(self, rows: Int64) -> list[tuple[Part, Span]]:
        """The ranges to read for some rows."""
        if not rows.size or rows.min() < 0 or rows.max() >= self._rows:
            return []  # refused by whoever takes them
        found = []
        shards = rows >> self._shard_bits
        for shard in (0,) if self._n_shards == 1 else np.unique(shards).tolist():
            part, inner = self._part(shard), rows & self._shard_mask
            inner = inner if self._n_shards == 1 else inner[shards == shard]
            granules = part.unchecked(inner) if self._checked else part.missing(inner)
            if granules.size:
                found += [(part, span) for span in part.spans(granules, 0 if self._checked else client.gap())]
        return found

    def _part(self, shard: int) -> Part:
        part = self._parts.get(shard)
        if part is None:
            name = self.source.name(self.spec.shard_path(shard))
            part = self._parts[shard] = Part(self._root, self.spec, shard, name)
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
    rows_of: dict[RemoteArray, list[Int64]] = {}
    for array, rows in wanted:
        if isinstance(array, RemoteArray):
            rows_of.setdefault(array, []).append(np.asarray(rows, np.int64).ravel())
    ranges = [
        Wanted(array.source, part.inner, part.size, span.start, span.stop, (part, span))
        for array, rows in rows_of.items()
        for part, span in array.missing(np.concatenate(rows) if len(rows) > 1 else rows[0])
    ]
    if not ranges:
        return
    for item, answer in client.read_all(ranges):
        part, span = item.key
        part.take(span, answer.data, answer.validator)
    for array in rows_of:
        array.renew()
