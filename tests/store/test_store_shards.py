"""The bytes of a shard are those of the zarr v3 specification: zarr-python reads what was written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelgen.errors import DiskError, StoreError
from labelgen.fingerprint import digest_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.shards import metadata_paths, write_array, write_array_metadata, write_shard
from labelgen.store.layout import ArraySpec

Cut = Callable[[int, int], AbstractContextManager[None]]
ABSENT = 2**64 - 1


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Random bits of any kind but NaN."""
    draw = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def pieces(array: NDArray[Any], cuts: list[int]) -> list[NDArray[Any]]:
    borders = [0, *sorted(min(cut, len(array)) for cut in cuts), len(array)]
    return [array[start:stop] for start, stop in pairwise(borders)]


def test_a_shard_byte_by_byte(tmp_path: Path, small_cut: Cut) -> None:
    """Three rows of two uint32, two rows a chunk, a shard with room for two chunks, by hand."""
    with small_cut(64, 16):
        spec = ArraySpec("a", (3, 2), "uint32")
        assert (spec.shard_rows, spec.chunk_rows, spec.n_shards) == (4, 2, 1)
        write_shard(tmp_path, spec, 0, np.array([[1, 2], [3, 4], [5, 6]], np.uint32))
    first, second = struct.pack("<4I", 1, 2, 3, 4), struct.pack("<4I", 5, 6, 0, 0)
    index = struct.pack("<4Q", 0, 20, 20, 20)
    expected = b"".join(part + struct.pack("<I", google_crc32c.value(part)) for part in (first, second, index))
    assert (tmp_path / "a" / "c" / "0" / "0").read_bytes() == expected


def test_chunks_beyond_the_array_are_absent(tmp_path: Path, small_cut: Cut) -> None:
    """Five rows of one uint64 in a shard of eight rows: three of its four chunks exist."""
    with small_cut(64, 16):
        spec = ArraySpec("a", (5,), "uint64")
        assert (spec.shard_rows, spec.chunk_rows) == (8, 2)
        write_shard(tmp_path, spec, 0, np.arange(5, dtype=np.uint64))
    data = (tmp_path / "a" / "c" / "0").read_bytes()
    index = struct.unpack("<8Q", data[-68:-4])
    assert index == (0, 20, 20, 20, 40, 20, ABSENT, ABSENT)
    assert len(data) == 3 * 20 + 68


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 70),
    tail=st.sampled_from([(), (1,), (3,), (5, 2)]),
    dtype=st.sampled_from(["float16", "float32", "uint32", "uint64", "int64"]),
    cuts=st.lists(st.integers(0, 70), max_size=6),
    sizes=st.sampled_from([(64, 16), (128, 128), (256, 32), (1 << 28, 1 << 20)]),
    whole=st.booleans(),
)
def test_zarr_reads_the_source_array(
    small_cut: Cut,
    rows: int,
    tail: tuple[int, ...],
    dtype: str,
    cuts: list[int],
    sizes: tuple[int, int],
    whole: bool,
) -> None:
    """Any shape, dtype, cut and splitting: source == zarr-python == mapped file, and the facts are the file's."""
    source = values((rows, *tail), dtype)
    with TemporaryDirectory() as folder, small_cut(*sizes):
        root, spec = Path(folder), ArraySpec("deep/array", source.shape, dtype, whole)
        write_array_metadata(root, spec)
        for shard in range(spec.n_shards):
            start, stop = spec.shard_range(shard)
            fact = write_shard(root, spec, shard, pieces(source[start:stop], cuts))
            path = root / spec.shard_path(shard)
            assert fact == (path.stat().st_size, digest_file(path))
        np.testing.assert_array_equal(zarr.open_array(root / "deep/array", mode="r")[:], source)
        np.testing.assert_array_equal(np.asarray(MappedArray(root, spec)), source)


def test_pieces_do_not_change_the_bytes(tmp_path: Path, small_cut: Cut) -> None:
    source = values((23, 3), "float16")
    with small_cut(128, 32):
        spec = ArraySpec("a", (23, 3), "float16")
        whole = write_shard(tmp_path, spec, 0, source[:16])
        split = write_shard(tmp_path, spec, 0, (source[row : row + 1] for row in range(16)))
    assert whole == split


def test_metadata_is_what_zarr_would_write(tmp_path: Path, small_cut: Cut) -> None:
    """The same array made by zarr-python has the same `zarr.json`."""
    with small_cut(1024, 256):
        spec = ArraySpec("ours", (300, 4), "float16")
        assert (spec.shard_rows, spec.chunk_rows) == (128, 32)
        write_array_metadata(tmp_path, spec)
    zarr.create_array(
        tmp_path / "theirs",
        shape=(300, 4),
        dtype="float16",
        chunks=(32, 4),
        shards=(128, 4),
        compressors=[zarr.codecs.Crc32cCodec()],
        filters=None,
        fill_value=0,
    )
    ours, theirs = (json.loads((tmp_path / name / "zarr.json").read_text()) for name in ("ours", "theirs"))
    assert ours == {key: value for key, value in theirs.items() if key != "storage_transformers"}


def test_every_folder_is_a_group(tmp_path: Path) -> None:
    facts = write_array(tmp_path, ArraySpec("embeddings/text/text", (3, 2), "float16"), values((3, 2), "float16"))
    assert set(facts) == {
        "zarr.json",
        "embeddings/zarr.json",
        "embeddings/text/zarr.json",
        "embeddings/text/text/zarr.json",
        "embeddings/text/text/c/0/0",
    }
    assert zarr.open_group(tmp_path, mode="r")["embeddings/text/text"].shape == (3, 2)
    assert list(zarr.open_group(tmp_path / "embeddings", mode="r").group_keys()) == ["text"]


def test_metadata_that_is_there_stays_untouched(tmp_path: Path) -> None:
    spec = ArraySpec("a/b", (3, 2), "float16")
    first = write_array_metadata(tmp_path, spec)
    before = {path: (tmp_path / path).stat().st_ino for path in metadata_paths(spec)}
    assert write_array_metadata(tmp_path, spec) == first
    assert {path: (tmp_path / path).stat().st_ino for path in metadata_paths(spec)} == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((2, 2), np.float16), "number of rows"),
        (np.zeros((4, 2), np.float16), "number of rows"),
        (np.zeros((3, 3), np.float16), "wrong kind"),
        (np.zeros((3, 2), np.float32), "wrong kind"),
        (np.zeros(3, np.float16), "wrong kind"),
    ],
)
def test_wrong_rows_are_refused_and_leave_nothing(tmp_path: Path, rows: NDArray[Any], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        write_shard(tmp_path, ArraySpec("a", (3, 2), "float16"), 0, rows)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_memory_is_one_chunk(tmp_path: Path, small_cut: Cut) -> None:
    """Rows are consumed as they come: when row n is drawn, all chunks before it are on their way to the disk."""
    drawn: list[int] = []
    with small_cut(1 << 20, 1 << 10):
        spec = ArraySpec("a", (4096, 16), "float16")

        def rows() -> Any:
            for start in range(0, 4096, 32):
                drawn.append(start)
                if start == 2048:
                    temporary = next((tmp_path / "a" / "c" / "0").glob(".*.tmp"))
                    assert temporary.stat().st_size > 32 << 10
                yield np.ones((32, 16), np.float16)

        write_shard(tmp_path, spec, 0, rows())
    assert len(drawn) == 128


def test_a_full_disk_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError):
        write_shard(tmp_path, ArraySpec("a", (3, 2), "float16"), 0, np.zeros((3, 2), np.float16))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
