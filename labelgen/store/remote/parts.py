"""The copy of one shard in the cache: a file with holes that is filled as its rows are read, and a tag for every row.

The file has the bytes of the shard at their places, so that it is mapped as a shard of a folder is. A second file holds
a tag for every granule (a row, or some rows where they are short): 0, or a number made from the bytes of the granule. A
granule is there if its tag fits its bytes. So no order of writing, no two processes that write the same rows, no lost
page after a power cut and no removed file can make wrong rows: what does not fit is fetched again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import CorruptStoreError, StoreMismatchError
from labelgen.fingerprint import digest
from labelgen.store.disk.atomic import disk_error
from labelgen.store.disk.shards import CRC_BYTES, is_sound, live_chunks, shard_bytes, shard_index
from labelgen.store.layout import ArraySpec
from labelgen.store.remote import cache
from labelgen.types import Bool, Int64, UInt64

#: Bytes of a granule at least, and of a request at most.
_LEAST, _MOST = 64, 8 << 20
_HEADER = 16
#: Bytes between ranges that are read with them are at most one part in so many of what is needed.
_SPARE = 5


class Span(NamedTuple):
    """Granules [first, last], and their bytes [start, stop) in the shard."""

    first: int
    last: int
    start: int
    stop: int


def granule_bits(spec: ArraySpec) -> int:
    """Binary logarithm of the rows of a granule."""
    return min(spec.chunk_rows, max(1, _LEAST // spec.row_bytes)).bit_length() - 1


class Part:
    """One shard of an array in the cache.

    Args:
        folder: where the copies of shards are.
        name: how messages call the shard.
        sound: of its granules; True where this process knows that they are there.
        checked: chunks are compared with their checksums before their granules are sound.
    """

    def __init__(self, folder: Path, spec: ArraySpec, shard: int, name: str, sound: Bool, checked: bool) -> None:
        self.spec, self.shard, self.name = spec, shard, name
        self._sound, self._checked = sound, checked
        self.inner = spec.shard_path(shard)
        self.path = folder / self.inner
        self._tags_path = self.path.with_name(f"{self.path.name}.tags")
        self.size = shard_bytes(spec, shard)
        self._bits = granule_bits(spec)
        self._bytes = spec.row_bytes << self._bits
        self._per_chunk, self._stride = spec.chunk_rows >> self._bits, spec.chunk_bytes + CRC_BYTES
        self._n_chunks = live_chunks(spec, shard)
        self._open()

    def missing(self, granules: Int64) -> Int64:
        """Those to read of some granules, ascending; of a checked shard all those of their chunks."""
        granules = np.unique(granules)
        if not self._checked:
            there = self._there(granules)
            self._sound[granules[there]] = True
            return granules[~there]
        chunks = np.unique(granules // self._per_chunk)
        found: Int64 = chunks[:, None] * self._per_chunk + np.arange(self._per_chunk)
        absent = np.ones(len(chunks), bool)
        for number, chunk in enumerate(chunks.tolist()):
            bounds = slice(chunk * self._stride, (chunk + 1) * self._stride)
            if self._there(found[number]).all() and is_sound(self.mapping[bounds]):
                self._sound[found[number]], absent[number] = True, False
        return found[absent].ravel()

    def spans(self, granules: Int64, gap: int) -> list[Span]:
        """Ranges that hold granules (ascending). Ranges with at most `gap` bytes between them are joined, the nearest
        ones first, as long as the bytes between them are few against those that are needed."""
        if not granules.size:
            return []
        tail, total = (self._n_chunks - 1) * self._per_chunk, self._n_chunks * self._per_chunk
        rows = self.spec.shard_range(self.shard)
        live = -(-(rows[1] - rows[0]) >> self._bits)
        if granules[-1] == live - 1 and len(granules) - np.searchsorted(granules, tail) == live - tail:
            granules = np.concatenate([granules, np.arange(live, total)])  # with its filling the last chunk is whole
        starts = self._offset(granules)
        between = starts[1:] - starts[:-1] - self._bytes
        order = np.argsort(between, kind="stable")
        spare = np.cumsum(between[order])
        joined = np.zeros(len(between), bool)
        near = between[order] <= max(gap, CRC_BYTES)
        joined[order[near & (spare <= len(granules) * self._bytes // _SPARE)]] = True
        joined |= between <= CRC_BYTES
        breaks = np.flatnonzero(~joined)
        firsts = granules[np.concatenate([[0], breaks + 1])]
        lasts = granules[np.concatenate([breaks, [len(granules) - 1]])]
        return [span for pair in zip(firsts.tolist(), lasts.tolist(), strict=True) for span in self._cut(*pair)]

    def take(self, span: Span, data: bytes, validator: str) -> None:
        """Keep the bytes of a span.

        Raises:
            StoreMismatchError: they are of another object than those that were read before.
            CorruptStoreError: a chunk that is whole differs from its checksum.
            DiskError: the cache cannot be written.
        """
        self._refuse_other(validator)
        chunks = range(span.first // self._per_chunk, span.last // self._per_chunk + 1)
        for chunk in chunks:
            low = chunk * self._stride - span.start
            raw = data[max(low, 0) : low + self._stride]
            if low >= 0 and len(raw) == self._stride and not is_sound(raw):
                raise self._damaged(chunk)
        self._write(self._file, data, span.start)
        for chunk in chunks:
            first = max(span.first, chunk * self._per_chunk)
            last = min(span.last, (chunk + 1) * self._per_chunk - 1)
            low = int(self._offset(np.array([first]))[0]) - span.start
            count = last - first + 1
            raw_rows = np.frombuffer(data, np.uint8, count * self._bytes, low).reshape(count, self._bytes)
            self._write(self._tags_file, _tags(raw_rows).tobytes(), _HEADER + 8 * first)
            self._sound[first : last + 1] = True
        cache.added(len(data))

    def _there(self, granules: Int64) -> Bool:
        """Whether the tags of granules fit their bytes, [n]."""
        tags, there = self._tags[granules], np.zeros(len(granules), bool)
        known = np.flatnonzero(tags)
        raw = self._rows[granules[known] // self._per_chunk, granules[known] % self._per_chunk]
        there[known] = _tags(raw) == tags[known]
        return there

    def _offset(self, granules: Int64) -> Int64:
        offsets: Int64 = (granules // self._per_chunk) * self._stride + (granules % self._per_chunk) * self._bytes
        return offsets

    def _cut(self, first: int, last: int) -> list[Span]:
        step = max(1, _MOST // self._bytes)
        if last - first >= step > self._per_chunk:
            step -= step % self._per_chunk  # whole chunks stay whole
        bounds = [first, *range((first // step + 1) * step, last + 1, step), last + 1]
        made = []
        for low, high in pairwise(bounds):
            start, stop = self._offset(np.array([low, high - 1])).tolist()
            whole = high % self._per_chunk == 0 and high - low >= self._per_chunk
            made.append(Span(low, high - 1, start, stop + self._bytes + (CRC_BYTES if whole else 0)))
        return made

    def _damaged(self, chunk: int) -> CorruptStoreError:
        first = self.spec.shard_range(self.shard)[0] + chunk * self.spec.chunk_rows
        last = min(first + self.spec.chunk_rows, self.spec.shape[0]) - 1
        return CorruptStoreError(
            f"chunk {chunk} of {self.name} is damaged",
            found=f"a checksum that does not match, rows {first} to {last}",
            expected="what was sealed",
            todo="its owner has to upload the store again",
        )

    def _refuse_other(self, validator: str) -> None:
        """The rows of one shard are of one object, those in the cache included."""
        mark = digest(validator.encode()).encode()[:_HEADER] if validator else bytes(_HEADER)
        kept = os.pread(self._tags_file, _HEADER, 0)
        if kept == bytes(_HEADER):
            self._write(self._tags_file, mark, 0)
        elif mark not in (kept, bytes(_HEADER)):
            self._tags_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            if self._sound.any():
                raise StoreMismatchError(
                    f"{self.name} was changed after its first rows were read",
                    found="another ETag",
                    todo="open the store again",
                )
            self._open()
            self._write(self._tags_file, mark, 0)

    def _open(self) -> None:
        self._sound[:] = False
        entries = shard_index(self.spec, self._n_chunks)
        self._file, self.mapping = self._mapped(self.path, self.size, entries)
        cells = self._n_chunks * self._per_chunk
        self._tags_file, tags = self._mapped(self._tags_path, _HEADER + 8 * cells, b"")
        self._tags: UInt64 = np.frombuffer(tags, "<u8", cells, _HEADER)
        self._rows: NDArray[np.uint8] = np.ndarray(
            (self._n_chunks, self._per_chunk, self._bytes),
            np.uint8,
            buffer=self.mapping,
            strides=(self._stride, self._bytes, 1),
        )

    def _mapped(self, path: Path, size: int, tail: bytes) -> tuple[int, mmap.mmap]:
        """A file of the cache, of its full size and mostly holes when it is new; its last bytes are known."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if os.fstat(handle).st_size != size:
                os.ftruncate(handle, size)
            if tail:
                self._write(handle, tail, size - len(tail))
        except OSError as error:
            raise disk_error(path, error) from error
        cache.touch(path)
        return _Handle(handle), mmap.mmap(handle, size, access=mmap.ACCESS_READ)

    def _write(self, handle: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(handle, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise disk_error(self.path, error) from error


class _Handle(int):
    """A file descriptor that is closed when nothing refers to it."""

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python ends
        _close(self)


def _tags(raw: NDArray[np.uint8]) -> UInt64:
    """The tag of every granule, uint64 [n], never 0; `raw` are their bytes, [n, bytes]."""
    width = next(width for width in (8, 4, 2, 1) if raw.shape[1] % width == 0)
    words = np.ascontiguousarray(raw).view(f"<u{width}")
    sums = np.add.reduce(words, axis=1, dtype=np.uint64)
    tags: UInt64 = (sums << np.uint64(1)) | np.uint64(1)
    return tags
