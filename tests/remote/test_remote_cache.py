"""The cache of remote stores: shared by processes, bounded, and never wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError, DiskError
from labelgen.store.layout import ArraySpec
from labelgen.store.remote import cache, parts
from labelgen.store.remote.parts import Part, granule_bits
from labelgen.testing.servers import FolderServer

Serve = Callable[..., FolderServer]


def read_rows(url: str, rows: list[int], results: Any) -> None:
    results.put(labelgen.open(url).embeddings("text").take(np.array(rows)).tobytes())


def test_two_processes_share_it(small: Path, serve: Serve, processes: BaseContext) -> None:
    server = serve(small)
    url = server.url + "/store"
    results: Any = processes.Queue()
    near = labelgen.open(small / "store").embeddings("text")
    choices = [list(range(120)), list(range(60, 200))]
    workers = [processes.Process(target=read_rows, args=(url, rows, results)) for rows in choices]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert found == {near.take(np.array(rows)).tobytes() for rows in choices}
    before = len(server.requests)
    np.testing.assert_array_equal(labelgen.open(url).embeddings("text").slice(0, 200), near.slice(0, 200))
    assert len(server.requests) == before + 1  # the manifest


def test_lost_bytes_are_fetched_again(small: Path, serve: Serve, cache_folder: Path) -> None:
    """A power cut may keep the tags and lose the rows, or a part of them."""
    url = serve(small).url + "/store"
    near = np.asarray(labelgen.open(small / "store").embeddings("text"))
    np.testing.assert_array_equal(np.asarray(labelgen.open(url).embeddings("text")), near)
    (part,) = cache_folder.glob("*/ranges/embeddings/text/text/c/0/0")
    raw = bytearray(part.read_bytes())
    raw[:90] = bytes(90)
    part.write_bytes(raw)
    np.testing.assert_array_equal(np.asarray(labelgen.open(url).embeddings("text")), near)
    (tags,) = cache_folder.glob("*/ranges/embeddings/text/text/c/0/0.tags")
    tags.write_bytes(os.urandom(tags.stat().st_size))
    np.testing.assert_array_equal(np.asarray(labelgen.open(url).embeddings("text")), near)


def test_check_compares_rows_of_the_cache_too(small: Path, serve: Serve, cache_folder: Path) -> None:
    """Other bytes with a tag that fits are found by the checksum of their chunk, which is then fetched again."""
    url = serve(small).url + "/store"
    rows = labelgen.open(url).embeddings("text")
    near = rows.take(np.arange(200))
    size = rows.spec.row_bytes << granule_bits(rows.spec)
    (part,) = cache_folder.glob("*/ranges/embeddings/text/text/c/0/0")
    tags = part.with_name("0.tags")
    raw, tag = bytearray(part.read_bytes()), bytearray(tags.read_bytes())
    raw[:size] = bytes(size)
    tag[16:24] = parts._tags(np.zeros((1, size), np.uint8)).tobytes()
    part.write_bytes(raw)
    tags.write_bytes(tag)
    assert not np.asarray(labelgen.open(url).embeddings("text"))[0].any()
    np.testing.assert_array_equal(np.asarray(labelgen.open(url, check=True).embeddings("text")), near)


def test_it_is_read_while_it_is_emptied(small: Path, serve: Serve, cache_folder: Path) -> None:
    store = labelgen.open(serve(small).url + "/store")
    near = labelgen.open(small / "store")
    rows = store.embeddings("text")
    np.testing.assert_array_equal(rows.slice(0, 50), near.embeddings("text").slice(0, 50))
    for path in sorted(cache_folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()
    np.testing.assert_array_equal(rows.slice(0, 200), near.embeddings("text").slice(0, 200))
    assert store.caption_rows(["cap-7"]).tolist() == [7]
    assert store.captions.equals(near.captions)


def test_room_is_made_of_what_was_not_used_for_the_longest_time(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32) / "files"
    folder.mkdir(parents=True)
    other = tmp_path / "mine.txt"
    other.write_bytes(bytes(50_000))
    for number, name in enumerate(("old", "older", "oldest", "new", "manifest.json")):
        (folder / name).write_bytes(bytes(40_960))
        age = time.time() - 1_000 * (number + 1) if name != "new" else time.time()
        os.utime(folder / name, (age, age))
    removed = cache.make_room(tmp_path, 100_000)
    assert [path.name for path in removed] == ["oldest", "older"] or [path.name for path in removed] == ["oldest"]
    assert other.exists()
    cache.make_room(tmp_path, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "new"]


def test_the_limit_is_kept(wide: Path, serve: Serve, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "8M")
    monkeypatch.setattr(cache, "_RECENT_SECONDS", -1.0)
    url = serve(wide).url + "/store"
    for _ in range(2):
        rows = labelgen.open(url).embeddings("text")
        near = labelgen.open(wide / "store").embeddings("text")
        for start in range(0, 150_000, 30_000):
            np.testing.assert_array_equal(rows.slice(start, start + 25_000), near.slice(start, start + 25_000))
    used = sum(512 * path.stat().st_blocks for path in cache_folder.rglob("*") if path.is_file())
    assert used < 24 * 10**6  # less than the 30 MB that were read


@pytest.mark.parametrize(("text", "size"), [("", 20 * 10**9), ("5G", 5 * 10**9), ("1.5 MB", 1_500_000), ("7", 7)])
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, text)
    assert cache.limit() == size


def test_a_limit_that_is_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "much")
    with pytest.raises(ConfigError, match="not a size"):
        cache.limit()


def test_a_full_disk_is_a_disk_error(small: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    store = labelgen.open(serve(small).url + "/store")
    store.embeddings("text").take(np.arange(2))

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskError, match="the disk is full"):
        store.embeddings("text").take(np.arange(50, 60))


@pytest.mark.parametrize(("dim", "dtype"), [(384, "float16"), (3, "float16"), (64, "uint32"), (0, "float32")])
def test_spans_cover_what_is_needed_and_little_else(
    tmp_path: Path, dim: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the plain bytes of a shard, for rows of any length; random rows, gaps and validators."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    draw = np.random.default_rng(dim)
    shape = (5_000, dim) if dim else (5_000,)
    spec = ArraySpec("array", shape, dtype)
    bits = granule_bits(spec)
    part = Part(tmp_path, spec, 0, "name", np.zeros(spec.shard_rows >> bits, bool), checked=False)
    values = draw.integers(0, 255, (spec.shape[0], spec.row_bytes), dtype=np.uint8)
    whole = np.zeros((part._n_chunks * spec.chunk_rows, spec.row_bytes), np.uint8)
    whole[: len(values)] = values
    from labelgen.store.disk.shards import crc32c

    chunks = whole.reshape(part._n_chunks, -1)
    raw = b"".join(chunk.tobytes() + crc32c(chunk.tobytes()) for chunk in chunks)
    for count in (1, 40, 700, 5_000):
        rows = np.sort(draw.choice(5_000, count, replace=False))
        granules = part.missing(rows >> bits)
        spans = part.spans(granules, gap=1_000)
        read = sum(span.stop - span.start for span in spans)
        assert read <= 1.25 * len(granules) * part._bytes + 8 * len(spans) + (spec.chunk_bytes if count > 4_000 else 0)
        for span in spans:
            part.take(span, raw[span.start : span.stop], '"etag"')
        assert not part.missing(rows >> bits).size
        view = part._rows.reshape(part._n_chunks * spec.chunk_rows, spec.row_bytes)
        np.testing.assert_array_equal(view[rows], values[rows])
