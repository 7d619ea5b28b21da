"""Read the zarr arrays of a store as mapped files: no threads, no locks, no zarr.

A shard file holds its chunks at regular distances (`labelgen.store.disk.shards`), so a mapping of it is an array of
shape [n_chunks, chunk_rows, ...] whose first stride skips the four bytes of each checksum. Pages belong to the system's
file cache: they are shared by all processes and cost no anonymous memory.
"""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import CorruptStoreError, StoreError
from labelgen.store.disk.files import open_below
from labelgen.store.disk.shards import ABSENT, CRC_BYTES, chunk_offsets, is_sound, live_chunks, shard_bytes
from labelgen.store.guard import Guard
from labelgen.store.layout import ArraySpec
from labelgen.types import Bool, Int64

Array: TypeAlias = NDArray[Any]


class MappedArray:
    """A read-only array of a store; implements `labelgen.similarity.base.Rows`.

    Shards are mapped when one of their rows is first read. Instances are picklable (shards are mapped again), and a
    forked process may use those that it inherits. `np.asarray(mapped)` copies the whole array into memory.

    With a `guard` a shard that is mapped is one of the store that was opened, or an error is raised.
    """

    def __init__(self, root: Path | str, spec: ArraySpec, guard: Guard | None = None) -> None:
        self._root = Path(root)
        self._guard = guard
        self.spec = spec
        self.dtype = np.dtype(spec.dtype)
        self._shards: dict[int, Array] = {}
        self._rows, self._n_shards = spec.shape[0], spec.n_shards
        self._shard_bits, self._shard_mask = spec.shard_rows.bit_length() - 1, spec.shard_rows - 1
        self._chunk_bits, self._chunk_mask = spec.chunk_rows.bit_length() - 1, spec.chunk_rows - 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, as an array in memory would have."""
        return self.spec.shape[0] * self.spec.row_bytes

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"MappedArray({self.spec.path!r}, shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> tuple[type[MappedArray], tuple[Path, ArraySpec, Guard | None]]:
        paths = (self.spec.shard_path(shard) for shard in range(self._n_shards))
        return type(self), (self._root, self.spec, self._guard.only(paths) if self._guard else None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole = self.slice(0, len(self))
        return np.array(whole, dtype=dtype, copy=copy)

    def slice(self, start: int, stop: int) -> Array:
        """Rows [start, stop): a read-only view where they are in one chunk, else a copy.

        Raises:
            IndexError: not 0 <= start <= stop <= len(self).
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start}:{stop} of {self.spec.path}, which has {len(self)}")
        first = start >> self._chunk_bits
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        if (stop - 1) >> self._chunk_bits == first:
            low = first << self._chunk_bits
            return self._chunk(first)[start - low : stop - low]
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for number in range(first, ((stop - 1) >> self._chunk_bits) + 1):
            low = number << self._chunk_bits
            a, b = max(start, low), min(stop, low + self._chunk_mask + 1)
            rows[a - start : b - start] = self._chunk(number)[a - low : b - low]
        return rows

    def take(self, rows: Int64) -> Array:
        """The given rows in the given order, copied; [len(rows), ...].

        Raises:
            IndexError: a row below 0 or beyond the array.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self._rows):
            bad = rows[(rows < 0) | (rows >= self._rows)][0]
            raise IndexError(f"row {bad} of {self.spec.path}, which has {self._rows}")
        if self._n_shards == 1:
            return self._take_of(0, rows)
        taken = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        shards = rows >> self._shard_bits
        for shard in np.unique(shards):
            here = shards == shard
            taken[here] = self._take_of(int(shard), rows[here] & self._shard_mask)
        return taken

    def _take_of(self, shard: int, rows: Int64) -> Array:
        view = self._shards.get(shard)
        if view is None:
            view = self._shard(shard)
        taken: Array = view[0][rows] if len(view) == 1 else view[rows >> self._chunk_bits, rows & self._chunk_mask]
        return taken

    def _chunk(self, number: int) -> Array:
        """One chunk by its number in the whole array, [chunk_rows, ...]."""
        per_shard = self._shard_bits - self._chunk_bits
        chunk: Array = self._shard(number >> per_shard)[number & ((1 << per_shard) - 1)]
        return chunk

    def _shard(self, shard: int) -> Array:
        view = self._shards.get(shard)
        if view is None:
            view = self._shards[shard] = self._mapped(shard)
        return view

    def _mapped(self, shard: int) -> Array:
        if self._guard is None:
            return map_shard(self._root, self.spec, shard)
        path = self.spec.shard_path(shard)
        try:
            view = map_shard(self._root, self.spec, shard)
        except StoreError:
            self._guard.check(path)  # a changed store goes before a missing file
            raise
        self._guard.check(path)
        return view


class CheckedArray(MappedArray):
    """A mapped array that reads the CRC-32C of a chunk when a process first reads a row of it."""

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
        if not is_sound(raw):
            first = (shard << self._shard_bits) + (chunk << self._chunk_bits)
            last = min(first + self.spec.chunk_rows, len(self)) - 1
            raise CorruptStoreError(
                f"chunk {chunk} of {self._root / self.spec.shard_path(shard)} is damaged",
                found=f"a checksum that does not match, rows {first} to {last}",
                expected="what was sealed",
                todo="run `labelgen verify` on the store, and restore the file from a copy",
            )
        sound[shard][chunk] = True


def map_shard(root: Path, spec: ArraySpec, shard: int) -> Array:
    """One shard file as a read-only array [n_chunks, chunk_rows, ...].

    Raises:
        CorruptStoreError: the file is missing, has another size, or its index is not the one our writer makes.
    """
    n_chunks = live_chunks(spec, shard)
    mapping = _map_file(root, spec.shard_path(shard), shard_bytes(spec, shard))
    tail = mapping[n_chunks * (spec.chunk_bytes + CRC_BYTES) :]
    _check_index(root / spec.shard_path(shard), tail, spec, n_chunks)
    return shard_view(spec, mapping, n_chunks)


def shard_view(spec: ArraySpec, mapping: mmap.mmap, n_chunks: int) -> Array:
    """The rows of a mapped shard file, [n_chunks, chunk_rows, ...]."""
    stride = spec.chunk_bytes + CRC_BYTES
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    inner = [spec.row_bytes // math.prod(spec.shape[1 : 1 + axis]) for axis in range(len(spec.shape))]
    view: Array = np.ndarray(
        (n_chunks, spec.chunk_rows, *spec.shape[1:]), dtype, buffer=mapping, strides=(stride, *inner)
    )
    return view


def _map_file(root: Path, below: str, expected: int) -> mmap.mmap:
    path = root / below
    try:
        with open_below(root, below) as file:
            size = file.seek(0, 2)
            if size != expected:
                raise _corrupt(path, f"{size} bytes", f"{expected} bytes")
            return _read_only_map(file.fileno(), expected)
    except FileNotFoundError as error:
        raise _corrupt(path, "no such file", "a shard of the sealed store") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot map {path}", found=str(error)) from error


def _read_only_map(descriptor: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):  # earlier versions keep a duplicate of the descriptor
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)


def _check_index(path: Path, tail: bytes, spec: ArraySpec, n_chunks: int) -> None:
    if not is_sound(tail):
        raise _corrupt(path, "an index that does not match its checksum", "the index that was sealed")
    entries = np.frombuffer(tail[:-CRC_BYTES], "<u8").reshape(-1, 2)
    regular = (entries[:n_chunks, 0] == chunk_offsets(spec, n_chunks)).all()
    whole = (entries[:n_chunks, 1] == spec.chunk_bytes + CRC_BYTES).all()
    if not (regular and whole and (entries[n_chunks:] == ABSENT).all()):
        raise _corrupt(path, "chunks at irregular places", "chunks in row order, one after the other")


def _corrupt(path: Path, found: str, expected: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} is not what was sealed", found=found, expected=expected, todo="run `labelgen verify` on the store"
    )
