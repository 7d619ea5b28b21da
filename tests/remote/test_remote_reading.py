"""A store behind a web server reads as the folder does, and fetches what a batch needs."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError, MissingExtraError, StoreError, StoreNotFoundError
from labelgen.loader.blocks import SoftLabeler
from labelgen.store.remote import client
from labelgen.store.remote.address import hidden, parse
from labelgen.testing.servers import FolderServer

Serve = Callable[..., FolderServer]


def batch(seed: int, images: int = 31_014, size: int = 256) -> tuple[list[str], list[str]]:
    """Random images, each with one of its five captions."""
    draw = np.random.default_rng(seed)
    chosen = draw.choice(images, size, replace=False)
    return [f"img-{row}" for row in chosen], [f"cap-{5 * row + draw.integers(5)}" for row in chosen]


def test_everything_is_as_in_the_folder(small: Path, serve: Serve) -> None:
    near, far = labelgen.open(small / "store"), labelgen.open(serve(small).url + "/store")
    for relation in ("t2t", "i2i", "i2t", "t2i"):
        for here, there in zip(near.neighbors(relation), far.neighbors(relation), strict=True):
            np.testing.assert_array_equal(here, there)
    rows = {"image_rows": range(7), "caption_rows": range(40, 3, -3)}
    np.testing.assert_array_equal(near.block("i2t", **rows), far.block("i2t", **rows))
    np.testing.assert_array_equal(np.asarray(near.embeddings("text")), np.asarray(far.embeddings("text")))
    assert far.captions.equals(near.captions)
    assert far.image_ids([3, 1]) == ["img-3", "img-1"]
    np.testing.assert_array_equal(far.zarr("embeddings/text/text")[:], np.asarray(near.embeddings("text")))
    chosen = labelgen.open(far.storage.place, kinds="human")
    np.testing.assert_array_equal(
        chosen.block("t2t", caption_rows=range(9)),
        labelgen.open(small / "store", kinds="human").block("t2t", caption_rows=range(9)),
    )
    assert serve(small).url.partition("//")[2].split(":")[0] in repr(far)
    assert labelgen.diff(small / "store", far.storage.place).equal


def test_the_first_batch_takes_few_round_trips_and_few_bytes(
    wide: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(wide)
    trips: list[str] = []

    def counted(name: str) -> None:
        """Requests of one call wait for nothing but a connection: they are one round trip."""
        call = getattr(client, name)

        def counting(wanted: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                trips.append(name)
            return call(wanted)

        monkeypatch.setattr(client, name, counting)

    counted("read")
    counted("read_all")
    images, captions = batch(0)
    store = labelgen.open(server.url + "/store")
    labels = labelgen.soft_labels(store, images, captions, scheme="rsc()")
    expected = labelgen.soft_labels(wide / "store", images, captions, scheme="rsc()")
    np.testing.assert_array_equal(labels.relevance, expected.relevance)
    rows = [request for request in server.requests if "/embeddings/" in request.path]
    assert trips == ["read", "read_all", "read_all"]  # the manifest, the index, the rows
    needed = 256 * 5 * 96 * 2
    assert needed <= sum(request.bytes for request in rows) <= 1.5 * needed
    before = len(server.requests)
    labelgen.soft_labels(store, images, captions, scheme="rsc()")
    assert len(server.requests) == before  # the second time nothing is fetched
    again = labelgen.open(server.url + "/store")
    labelgen.soft_labels(again, images, captions, scheme="rsc()")
    assert len(server.requests) == before + 1  # nor after the store is opened again: its manifest


def test_near_rows_are_one_request(wide: Path, serve: Serve) -> None:
    server = serve(wide)
    rows = labelgen.open(server.url + "/store").embeddings("text")
    near = labelgen.open(wide / "store").embeddings("text")
    before = len(server.requests)
    np.testing.assert_array_equal(rows.slice(1_000, 60_000), near.slice(1_000, 60_000))
    sent = server.requests[before:]
    assert len(sent) < 8
    # one row is left out after every ten: its bytes are read too
    chosen = np.array([row for row in range(100_000, 101_000) if row % 11])
    np.testing.assert_array_equal(rows.take(chosen), near.take(chosen))
    assert len(server.requests) <= before + len(sent) + 1  # none where the requests before read this far


def test_check_reads_whole_chunks(wide: Path, serve: Serve) -> None:
    server = serve(wide)
    store = labelgen.open(server.url + "/store", check=True)
    spec = store.embeddings("text").spec
    found = store.embeddings("text").take(np.array([3, 70_000]))
    np.testing.assert_array_equal(found, labelgen.open(wide / "store").embeddings("text").take(np.array([3, 70_000])))
    sizes = [request.bytes for request in server.requests if "/embeddings/" in request.path]
    assert sizes == [spec.chunk_bytes + 4] * 2


def read_batches(store: Any, batches: int, results: Any) -> None:
    labeler = store if isinstance(store, SoftLabeler) else SoftLabeler(store, "rsc()")
    results.put([float(labeler(*batch(seed, 40, 16)).relevance.sum()) for seed in range(batches)])


def test_processes_read_after_their_parent_has(small: Path, serve: Serve, processes: BaseContext) -> None:
    store = labelgen.open(serve(small).url + "/store")
    labeler = SoftLabeler(store, "rsc()")
    labeler(*batch(99, 40, 16))
    results: Any = processes.Queue()
    workers = [processes.Process(target=read_batches, args=(labeler, 20, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    near = SoftLabeler(labelgen.open(small / "store"), "rsc()")
    expected = [float(near(*batch(seed, 40, 16)).relevance.sum()) for seed in range(20)]
    assert found == [expected, expected]
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_pickled_store_is_the_same_store(small: Path, serve: Serve) -> None:
    store = labelgen.open(serve(small).url + "/store")
    again = pickle.loads(pickle.dumps(store))
    assert again.manifest.content_digest == store.manifest.content_digest
    rows = pickle.loads(pickle.dumps(store.embeddings("text")))
    np.testing.assert_array_equal(rows.slice(0, 9), store.embeddings("text").slice(0, 9))


def test_credentials_are_nowhere_to_be_read(
    small: Path, serve: Serve, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(small, key="s3cret")
    caplog.set_level("DEBUG")
    store = labelgen.open(f"{server.url}/store?token=s3cret")
    store.neighbors("i2t", rows=[1])
    labeler = SoftLabeler(store)
    server.key = "another"
    with pytest.raises(StoreError, match="may not be read") as refused:
        store.neighbors("t2t", rows=[1])
    texts = [repr(store), repr(store.storage.place), str(refused.value), caplog.text, repr(labeler)]
    texts += [path.read_text(errors="replace") for path in cache_folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "s3cret" in text]
    assert parse("https://me:pw@host/a").name == "https://host/a"
    assert hidden("https://me:pw@host/a?sig=1") == "https://host/a"
    with pytest.raises(ConfigError, match="over plain http"):
        labelgen.open("http://me:pw@example.com/store")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///tmp/store", "not read over 'file'"),
        ("ftp://host/store", "not read over 'ftp'"),
        ("https://", "without a host"),
        ("https://host/a/../b", "dotted part"),
        ("s3://", "no bucket"),
        ("hf://models/a/b", "no data set of the hub"),
        ("hf://datasets/a", "no data set of the hub"),
    ],
)
def test_what_is_no_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labelgen.open(address)


def test_an_address_is_not_a_path() -> None:
    with pytest.raises(ConfigError, match="not a path"):
        labelgen.open(Path("https://host/store"))


def test_nothing_there(small: Path, serve: Serve) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no store at"):
        labelgen.open(serve(small).url + "/nothing")


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(MissingExtraError, match=r'pip install "labelgen\[remote\]"'):
        labelgen.open("https://127.0.0.1:1/store")


def test_opening_a_folder_loads_no_client(small: Path) -> None:
    code = (
        f"import sys, labelgen; labelgen.open({str(small / 'store')!r}).block('t2t', caption_rows=[1, 2]);"
        "assert not {'urllib3', 'botocore', 'huggingface_hub', 'labelgen.store.remote.client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
