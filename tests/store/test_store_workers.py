"""Stores in other processes: pickled, forked, spawned; and how little memory an open store takes."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import StoreMismatchError
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.shards import chunk_offsets, crc32c, live_chunks, shard_bytes
from labelgen.store.manifest import EmbeddingEntry, load_manifest, save_manifest
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

#: Python 3.12 warns of what this test is about.
FORK_WARNING = "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"


def everything(store: Store) -> list[Any]:
    """What a loader worker reads."""
    found = store.neighbors("t2t", ["cap-0", "cap-20"], alias="text")
    return [
        store.block("i2t", ["img-0", "img-4"], ["cap-0", "cap-9"], alias="text").tolist(),
        store.block("i2i", image_rows=[0, 1], alias="image").tolist(),
        found.rows.tolist(),
        found.scores.tolist(),
        store.caption_ids([3, 1]),
        store.caption_rows(["cap-5"]).tolist(),
        store.offsets.tolist(),
    ]


def _answer(store: Store, answers: Queue[Any]) -> None:
    answers.put(everything(store))


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same(made_store: Path, method: str) -> None:
    """The parent has used everything before, polars and its threads included."""
    store = labelgen.open(made_store)
    expected = everything(store)
    assert store.images.height == 8
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    workers = [context.Process(target=_answer, args=(store, answers), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        assert [answers.get(timeout=60) for _ in workers] == [expected, expected]
    finally:
        for worker in workers:
            worker.join(timeout=20)
            worker.kill()
        answers.close()
        answers.join_thread()
        for worker in workers:
            worker.join()
            worker.close()


def test_a_pickle_is_a_path(made_store: Path) -> None:
    store = labelgen.open(made_store)
    _ = store.images
    data = pickle.dumps(store)
    assert len(data) < 500
    assert everything(pickle.loads(data)) == everything(store)


def test_a_pickle_of_another_content_is_refused(made_store: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made_store, tmp_path / "store")
    data = pickle.dumps(labelgen.open(root))
    manifest = load_manifest(root)
    save_manifest(root, replace(manifest, labelgen="9.9"))
    pickle.loads(data)  # the same content, described anew
    save_manifest(root, replace(manifest, content_digest="0" * 32))
    with pytest.raises(StoreMismatchError, match="changed"):
        pickle.loads(data)


def _sparse_embedding(root: Path, spec: layout.ArraySpec) -> None:
    """Files of the right size and index, with holes instead of rows."""
    for shard in range(spec.n_shards):
        path = root / spec.shard_path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        n_chunks = live_chunks(spec, shard)
        index = np.full((spec.shard_rows // spec.chunk_rows, 2), 2**64 - 1, np.uint64)
        index[:n_chunks, 0], index[:n_chunks, 1] = chunk_offsets(spec, n_chunks), spec.chunk_bytes + 4
        with path.open("wb") as file:
            file.truncate(n_chunks * (spec.chunk_bytes + 4))
            file.seek(0, 2)
            file.write(index.tobytes() + crc32c(index.tobytes()))


MEMORY = """
import sys
import numpy as np
import labelgen

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssFile")) << 10

labelgen.open
before, files = anonymous(), resident()
store = labelgen.open(sys.argv[1])
array = store.embeddings("text")
for start in range(0, len(array), 256):
    array.take(np.arange(start, min(start + 256, len(array))))
print(len(array), array.nbytes, anonymous() - before, resident() - files)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_memory_is_that_of_the_file_cache(tmp_path: Path) -> None:
    """Every page of 300 MB of embeddings is touched: anonymous memory stays at a few MB."""
    root = make_store(tmp_path / "store", n_images=2, captions_per_image=1)
    manifest = load_manifest(root)
    spec = layout.embedding_spec("text", "text", 150_000, 1024)
    specs = [spec, *layout.index_specs("corpus", 2, 150_000).values()]
    for sparse in specs:
        _sparse_embedding(root, sparse)
    shards = {one.shard_path(shard): shard_bytes(one, shard) for one in specs for shard in range(one.n_shards)}
    (image,) = (entry for entry in manifest.embeddings if entry.alias == "image")
    changed = replace(
        manifest,
        corpus=replace(manifest.corpus, n_captions=150_000),
        counts={},
        teachers={**manifest.teachers, "text": replace(manifest.teachers["text"], dim=1024)},
        embeddings=(EmbeddingEntry("text", "text", spec, "0" * 32), image),
        neighbors=(),
        files={**manifest.files, **{path: FileFact(size, "0" * 32) for path, size in shards.items()}},
    )
    save_manifest(root, changed)
    printed = subprocess.run(
        [sys.executable, "-c", MEMORY, str(root)], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    rows, size, anonymous, files = (int(word) for word in printed.split())
    assert (rows, size) == (150_000, 307_200_000)
    assert files > 290e6
    assert anonymous < 8e6


def _use_frames(store: Store, answers: Queue[Any]) -> None:
    try:
        answers.put(store.captions.height)
    except OSError as error:
        answers.put(str(error))


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize(("method", "told"), [("fork", "forked process"), ("spawn", "24")])
def test_frames_in_workers(made_store: Path, method: str, told: str) -> None:
    """Spawned workers read their own; forked ones are told to let the parent read first."""
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_use_frames, args=(labelgen.open(made_store), answers), daemon=True)
    worker.start()
    try:
        assert told in str(answers.get(timeout=60))
    finally:
        worker.join(timeout=20)
        worker.kill()
        worker.join()
        worker.close()
        answers.close()
        answers.join_thread()
