"""Lost connections, answers that end early, busy servers, changed objects, wrong bytes, other directions."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.errors import CorruptStoreError, StoreError, StoreMismatchError
from labelgen.store.remote import client
from labelgen.store.remote.answers import redirected
from labelgen.testing.servers import FolderServer

Serve = Callable[..., FolderServer]


@pytest.fixture
def changed(small: Path, tmp_path: Path) -> Path:
    """A copy of the small store, to damage."""
    shutil.copytree(small / "store", tmp_path / "served" / "store")
    return tmp_path / "served"


def shard_of(folder: Path) -> Path:
    return folder / "store" / "embeddings" / "text" / "text" / "c" / "0" / "0"


@pytest.mark.parametrize("fault", ["cut", "drop", 503, 429, 500])
def test_a_fault_that_passes_is_not_seen(small: Path, serve: Serve, fault: int | str) -> None:
    server = serve(small)
    # By path: of requests side by side, one could meet every fault of a count over all of them.
    asked: Counter[str] = Counter()

    def first_two(_method: str, path: str, _number: int) -> int | str | None:
        asked[path] += 1
        return fault if asked[path] <= 2 else None

    server.fault = first_two
    store = labelgen.open(server.url + "/store")
    near = labelgen.open(small / "store")
    np.testing.assert_array_equal(np.asarray(store.embeddings("text")), np.asarray(near.embeddings("text")))
    np.testing.assert_array_equal(store.neighbors("t2t").rows, near.neighbors("t2t").rows)
    assert store.captions.equals(near.captions)
    assert min(asked.values()) > 2


@pytest.mark.parametrize("fault", ["cut", "drop", 503])
def test_a_fault_that_stays_is_one_error(small: Path, serve: Serve, fault: int | str) -> None:
    server = serve(small)
    store = labelgen.open(server.url + "/store")
    server.fault = lambda _method, path, _number: fault if "embeddings" in path else None
    with pytest.raises(StoreError, match=rf"cannot read {server.url}/store/embeddings/text/text/c/0/0") as error:
        store.embeddings("text").take(np.arange(3))
    assert f"{client.TRIES} times" in str(error.value)


def test_nobody_listens(serve: Serve, small: Path) -> None:
    url = serve(small).url
    store = labelgen.open(url + "/store")
    with FolderServer(small) as gone:
        closed = gone.url
    with pytest.raises(StoreError, match="cannot read"):
        labelgen.open(closed + "/store")
    assert len(store.embeddings("text").slice(0, 2)) == 2


def test_a_changed_object_is_one_error(changed: Path, serve: Serve) -> None:
    url = serve(changed).url + "/store"
    store = labelgen.open(url)
    first = store.embeddings("text").take(np.arange(3))
    other = shard_of(changed).read_bytes()
    shard_of(changed).unlink()
    shard_of(changed).write_bytes(other)  # the same bytes, another object
    np.testing.assert_array_equal(store.embeddings("text").take(np.arange(3)), first)  # in the cache
    with pytest.raises(StoreMismatchError, match="was changed after its first rows were read"):
        store.embeddings("text").take(np.arange(9, 12))
    np.testing.assert_array_equal(labelgen.open(url).embeddings("text").take(np.arange(3)), first)


def test_rows_of_the_cache_are_of_the_object_that_is_there(changed: Path, serve: Serve) -> None:
    url = serve(changed).url + "/store"
    first = labelgen.open(url).embeddings("text").take(np.arange(3))
    raw = shard_of(changed).read_bytes()
    shard_of(changed).write_bytes(raw)
    again = labelgen.open(url).embeddings("text")
    assert len(again.take(np.empty(0, np.int64))) == 0
    np.testing.assert_array_equal(again.take(np.arange(60, 63))[:0], first[:0])  # drops what the other object left
    np.testing.assert_array_equal(again.take(np.arange(3)), first)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"0"])
def test_an_object_of_another_size_is_one_error(changed: Path, serve: Serve, change: Callable[[bytes], bytes]) -> None:
    store = labelgen.open(serve(changed).url + "/store")
    shard_of(changed).write_bytes(change(shard_of(changed).read_bytes()))
    with pytest.raises(StoreMismatchError, match="an object of another size"):
        store.embeddings("text").take(np.arange(3))


def test_a_removed_object_is_one_error(changed: Path, serve: Serve) -> None:
    store = labelgen.open(serve(changed).url + "/store")
    (changed / "store" / "corpus" / "captions.parquet").unlink()
    with pytest.raises(StoreMismatchError, match="changed after it was opened"):
        _ = store.captions
    shard_of(changed).unlink()
    with pytest.raises(StoreError, match="is not there"):
        store.embeddings("text").take(np.arange(3))


def test_check_finds_wrong_bytes(changed: Path, serve: Serve) -> None:
    raw = bytearray(shard_of(changed).read_bytes())
    raw[100] ^= 1
    shard_of(changed).write_bytes(raw)
    url = serve(changed).url + "/store"
    with pytest.raises(CorruptStoreError, match=r"chunk 0 of http.*/embeddings/text/text/c/0/0 is damaged"):
        labelgen.open(url, check=True).embeddings("text").take(np.arange(3))
    with pytest.raises(CorruptStoreError, match="chunk 0"):  # all rows at once: the chunk is whole
        labelgen.open(url).embeddings("text").slice(0, 200)
    with pytest.raises(CorruptStoreError, match="is damaged"):
        labelgen.pull(url, changed / "copy")
    report = labelgen.verify(url)
    assert [problem.file for problem in report.problems] == ["embeddings/text/text/c/0/0"]
    assert report.path == url


def test_wrong_bytes_of_a_whole_file_are_always_found(changed: Path, serve: Serve) -> None:
    for name in ("captions.parquet", "index/caption_hash/c/0"):
        path = changed / "store" / "corpus" / name
        raw = bytearray(path.read_bytes())
        raw[64] ^= 1
        path.write_bytes(raw)
    store = labelgen.open(serve(changed).url + "/store")
    with pytest.raises(CorruptStoreError, match=r"captions.parquet is damaged"):
        _ = store.captions
    with pytest.raises(CorruptStoreError, match=r"caption_hash/c/0 is damaged"):
        store.caption_rows(["cap-1"])


def test_an_edited_manifest_is_refused(changed: Path, serve: Serve) -> None:
    path = changed / "store" / "manifest.json"
    path.write_text(path.read_text().replace('"images": 40', '"images": 41'))
    with pytest.raises(CorruptStoreError, match=r"http.*/manifest.json was edited"):
        labelgen.open(serve(changed).url + "/store")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "data:text/plain,x"]
)
def test_a_redirect_elsewhere_is_refused(target: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with pytest.raises(StoreError, match="a redirect to"):
            labelgen.open(f"http://127.0.0.1:{server.server_address[1]}/store")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("at", "to", "allowed"),
    [
        ("https://a.org/x", "https://cdn.org/y?sig=1", True),
        ("https://a.org/x", "/y", True),
        ("https://a.org/x", "http://a.org/y", False),
        ("https://a.org/x", "https://169.254.169.254/latest", False),
        ("https://a.org/x", "https://127.0.0.1/y", False),
        ("https://a.org/x", "https://[::1]/y", False),
        ("http://127.0.0.1/x", "http://127.0.0.1:81/y", True),
    ],
)
def test_redirects_lead_outward(at: str, to: str, allowed: bool) -> None:
    if allowed:
        assert redirected(at, to, "name").startswith("http")
    else:
        with pytest.raises(StoreError, match="a redirect to"):
            redirected(at, to, "name")
