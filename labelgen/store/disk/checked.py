"""`labelgen.open(path, check=True)`: arrays whose chunks are compared with their checksums before they are used."""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.errors import CorruptStoreError
from labelgen.store.disk.mapped import Array, MappedArray
from labelgen.store.disk.shards import CRC_BYTES, crc32c
from labelgen.types import Bool, Int64


class CheckedArray(MappedArray):
    """A mapped array that reads the CRC-32C of a chunk the first time that a process needs a row of it."""

    def _take_of(self, shard: int, rows: Int64) -> Array:
        for chunk in np.unique(rows >> self._chunk_bits).tolist():
            self._check(shard, chunk)
        return super()._take_of(shard, rows)

    def _chunk(self, number: int) -> Array:
        per_shard = self._shard_bits - self._chunk_bits
        self._check(number >> per_shard, number & ((1 << per_shard) - 1))
        return super()._chunk(number)

    def _check(self, shard: int, chunk: int) -> None:
        """Compare one chunk of a shard with its checksum.

        Raises:
            CorruptStoreError: they differ; names file, chunk and rows.
        """
        view = self._shard(shard)
        sound: dict[int, Bool] = self.__dict__.setdefault("_sound", {})
        if shard not in sound:
            sound[shard] = np.zeros(len(view), bool)
        if sound[shard][chunk]:
            return
        size = self.spec.chunk_bytes
        mapping: Any = view.base
        raw = np.frombuffer(mapping, np.uint8, size + CRC_BYTES, chunk * (size + CRC_BYTES)).tobytes()
        if crc32c(raw[:-CRC_BYTES]) != raw[-CRC_BYTES:]:
            first = (shard << self._shard_bits) + (chunk << self._chunk_bits)
            last = min(first + self.spec.chunk_rows, len(self)) - 1
            raise CorruptStoreError(
                f"chunk {chunk} of {self._root / self.spec.shard_path(shard)} is damaged",
                found=f"a checksum that does not match, rows {first} to {last}",
                expected="what was sealed",
                todo="run `labelgen verify` on the store, and restore the file from a copy",
            )
        sound[shard][chunk] = True
