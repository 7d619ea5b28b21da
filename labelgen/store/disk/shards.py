"""Write zarr v3 arrays: metadata, and shard files as a stream.

zarr's own writer is not used, for three reasons: the bytes of a shard are the same under every version of zarr
(they decide the content digest), memory is one inner chunk however large the shard, and a shard appears atomically
with its checksum known.

A shard file is, in this order: the inner chunks in row order, each as raw little-endian C-order bytes and their
CRC-32C (4 bytes); the index, two uint64 (offset, length) for every chunk of a full shard; the CRC-32C of the
index. The last chunk is filled up with zeros, chunks beyond the array are absent (offset and length 2^64 - 1). So the
chunks that exist are at regular distances, which lets `labelgen.store.disk.mapped` map the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from labelgen.errors import StoreError
from labelgen.fingerprint import digest
from labelgen.store.disk.atomic import FileFact, atomic_file, write_atomic
from labelgen.store.layout import ZARR_JSON, ArraySpec
from labelgen.types import UInt64

CRC_BYTES = 4
#: Offset and length of a chunk that a shard does not hold.
ABSENT = np.uint64(2**64 - 1)


def array_metadata(spec: ArraySpec) -> dict[str, Any]:
    """The `zarr.json` of an array."""
    inner = [spec.chunk_rows, *spec.shape[1:]]
    raw_bytes, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [spec.shard_rows, *spec.shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if np.dtype(spec.dtype).kind == "f" else 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": inner,
                    "codecs": [raw_bytes, checksum],
                    "index_codecs": [raw_bytes, checksum],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
    }


def group_metadata() -> dict[str, Any]:
    """The `zarr.json` of a folder of arrays or groups."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def metadata_paths(spec: ArraySpec) -> list[str]:
    """Every `zarr.json` of an array, relative to the store: those of the folders above it, then its own."""
    folders = spec.path.split("/")
    return ["/".join([*folders[:depth], ZARR_JSON]) for depth in range(len(folders) + 1)]


def write_array_metadata(root: Path, spec: ArraySpec) -> dict[str, FileFact]:
    """Write the `zarr.json` of an array and of every folder above it, that of the store included.

    Returns the facts of these files by path. Files with equal content stay untouched.
    """
    *groups, last = metadata_paths(spec)
    facts = {path: _write_json(root / path, group_metadata()) for path in groups}
    return facts | {last: _write_json(root / last, array_metadata(spec))}


def write_shard(root: Path, spec: ArraySpec, shard: int, rows: Iterable[NDArray[Any]] | NDArray[Any]) -> FileFact:
    """Write one shard from its rows, given as one array or as pieces in order, of any lengths.

    Raises:
        StoreError: rows of another dtype or shape, too few or too many of them.
        DiskError: the disk is full or read-only.
    """
    start, stop = spec.shard_range(shard)
    pieces = [rows] if isinstance(rows, np.ndarray) else rows
    checked = (_checked(spec, piece) for piece in pieces)
    n_chunks = 0
    with atomic_file(root / spec.shard_path(shard)) as file:
        for chunk in _chunks(spec, checked, stop - start):
            raw = chunk.tobytes()
            file.write(raw)
            file.write(crc32c(raw))
            n_chunks += 1
        file.write(shard_index(spec, n_chunks))
    return file.fact


def write_array(root: Path, spec: ArraySpec, rows: NDArray[Any]) -> dict[str, FileFact]:
    """Write a whole array that is in memory: its metadata and all its shards. Returns the facts by path."""
    facts = write_array_metadata(root, spec)
    for shard in range(spec.n_shards):
        start, stop = spec.shard_range(shard)
        facts[spec.shard_path(shard)] = write_shard(root, spec, shard, rows[start:stop])
    return facts


def crc32c(data: bytes) -> bytes:
    """CRC-32C as it is stored, 4 bytes little-endian."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def is_sound(raw: bytes) -> bool:
    """Whether bytes of a shard file, a chunk or the index, fit the checksum that they end with."""
    return crc32c(raw[:-CRC_BYTES]) == raw[-CRC_BYTES:]


def chunk_offsets(spec: ArraySpec, n_chunks: int) -> UInt64:
    """Offsets of the chunks of a shard file, [n_chunks]."""
    return np.arange(n_chunks, dtype=np.uint64) * np.uint64(spec.chunk_bytes + CRC_BYTES)


def live_chunks(spec: ArraySpec, shard: int) -> int:
    """Number of chunks of a shard: fewer than in a full one where the array ends in it."""
    start, stop = spec.shard_range(shard)
    return -(-(stop - start) // spec.chunk_rows)


def shard_bytes(spec: ArraySpec, shard: int) -> int:
    """Size of a shard file: chunks with their checksums, then the index with its own."""
    index = 16 * (spec.shard_rows // spec.chunk_rows) + CRC_BYTES
    return live_chunks(spec, shard) * (spec.chunk_bytes + CRC_BYTES) + index


def shard_index(spec: ArraySpec, n_chunks: int) -> bytes:
    """What follows the chunks of a shard file: their offsets and lengths, and the checksum of these."""
    index = np.full((spec.shard_rows // spec.chunk_rows, 2), ABSENT, dtype="<u8")
    index[:n_chunks, 0] = chunk_offsets(spec, n_chunks)
    index[:n_chunks, 1] = spec.chunk_bytes + CRC_BYTES
    raw = index.tobytes()
    return raw + crc32c(raw)


def _chunks(spec: ArraySpec, pieces: Iterable[NDArray[Any]], expected: int) -> Iterator[NDArray[Any]]:
    """Whole chunks cut from pieces; the buffer of one chunk is all that is held."""
    buffer = np.zeros((spec.chunk_rows, *spec.shape[1:]), dtype=_stored_dtype(spec))
    filled = total = 0
    for piece in pieces:
        total += len(piece)
        position = 0
        while position < len(piece):
            taken = min(spec.chunk_rows - filled, len(piece) - position)
            buffer[filled : filled + taken] = piece[position : position + taken]
            filled, position = filled + taken, position + taken
            if filled == spec.chunk_rows:
                yield buffer
                filled = 0
    if total != expected:
        raise StoreError(f"wrong number of rows for a shard of {spec.path}", found=str(total), expected=str(expected))
    if filled:
        buffer[filled:] = 0
        yield buffer


def _checked(spec: ArraySpec, piece: NDArray[Any]) -> NDArray[Any]:
    if piece.dtype != np.dtype(spec.dtype) or piece.shape[1:] != spec.shape[1:] or piece.ndim != len(spec.shape):
        raise StoreError(
            f"rows of the wrong kind for {spec.path}",
            found=f"{piece.dtype} {list(piece.shape)}",
            expected=f"{spec.dtype} {['rows', *spec.shape[1:]]}",
        )
    return piece


def _stored_dtype(spec: ArraySpec) -> np.dtype[Any]:
    return np.dtype(spec.dtype).newbyteorder("<")


def _write_json(path: Path, document: Mapping[str, Any]) -> FileFact:
    data = (json.dumps(document, indent=2) + "\n").encode()
    if path.is_file() and path.read_bytes() == data:
        return FileFact(len(data), digest(data))
    return write_atomic(path, data)
