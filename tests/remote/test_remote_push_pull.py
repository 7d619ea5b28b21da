"""Push and pull over HTTP and S3: the same digest after a round trip, resumes, refusals, partial stores."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.cli.main import cli
from labelgen.errors import ConfigError, CorruptStoreError, StoreError, StoreMismatchError, StoreNotFoundError
from labelgen.stages.running.lock import locked
from labelgen.testing.servers import FolderServer
from labelgen.testing.stores import make_store

Serve = Callable[..., FolderServer]


@pytest.fixture(params=["http", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, serve: Serve) -> str:
    """An empty place that stores are pushed to."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    (tmp_path / "http").mkdir()
    return serve(tmp_path / "http").url + "/labels/made"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A folder of a bucket of moto's server, by the usual variables of AWS."""
    pytest.importorskip("flask")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    for name, value in {
        "ACCESS_KEY_ID": "AKIAEXAMPLE",
        "SECRET_ACCESS_KEY": "s3cret",
        "SESSION_TOKEN": "t0ken",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    from labelgen.store.remote.sources import BucketSource, parse

    BucketSource(parse("s3://labels/x")).client().create_bucket(Bucket="labels")
    yield f"s3://labels/{tmp_path.name}/made"  # the buckets of moto outlive its servers
    server.stop()


def test_a_store_comes_back_as_it_was(small: Path, place: str, tmp_path: Path) -> None:
    pushed = labelgen.push(small / "store", place)
    assert (pushed.target, pushed.files) == (place, len(labelgen.open(small / "store").manifest.files))
    pulled = labelgen.pull(place, tmp_path / "copy")
    assert pulled.content_digest == pushed.content_digest == labelgen.verify(tmp_path / "copy").content_digest
    assert labelgen.verify(tmp_path / "copy").ok
    assert not (tmp_path / "copy" / ".labelgen").exists()
    assert labelgen.verify(place).ok
    far, near = labelgen.open(place), labelgen.open(small / "store")
    np.testing.assert_array_equal(far.neighbors("i2t").rows, near.neighbors("i2t").rows)
    np.testing.assert_array_equal(
        labelgen.soft_labels(far, ["img-1"], ["cap-9"]).relevance,
        labelgen.soft_labels(near, ["img-1"], ["cap-9"]).relevance,
    )
    assert labelgen.push(small / "store", place).files == 0
    assert labelgen.pull(place, tmp_path / "copy").files == 0


def test_secrets_of_a_bucket_are_nowhere(
    small: Path, bucket: str, caplog: pytest.LogCaptureFixture, cache_folder: Path
) -> None:
    caplog.set_level("DEBUG")
    labelgen.push(small / "store", bucket)
    store = labelgen.open(bucket)
    store.neighbors("t2t", rows=[1])
    texts = [repr(store), repr(store.storage.place)]
    texts += [record.getMessage() for record in caplog.records if record.name != "werkzeug"]  # the server itself
    texts += [path.read_text(errors="replace") for path in cache_folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "s3cret" in text or "t0ken" in text or "Signature" in text]
    with pytest.raises(StoreNotFoundError, match=r"there is no store at s3://labels/nothing") as error:
        labelgen.open("s3://labels/nothing")
    assert "t0ken" not in str(error.value)


def test_an_interrupted_push_resumes(small: Path, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "http").mkdir()
    server = serve(tmp_path / "http")
    server.fault = lambda method, _path, number: 403 if method == "PUT" and number > 20 else None
    with pytest.raises(StoreError, match="cannot write"):
        labelgen.push(small / "store", server.url + "/made")
    assert not (tmp_path / "http" / "made" / "manifest.json").exists()
    done = {request.path for request in server.requests if request.method == "PUT"}
    server.fault, server.requests = lambda *_request: None, []
    labelgen.push(small / "store", server.url + "/made")
    again = {request.path for request in server.requests if request.method == "PUT"}
    assert len(again & done) < len(done)
    assert labelgen.verify(tmp_path / "http" / "made").ok


def test_an_interrupted_pull_resumes_within_a_file(wide: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve(wide)
    server.fault = lambda _method, path, _number: "cut" if "text/text/c/0/0" in path else None
    with pytest.raises(StoreError, match="cannot read"):
        labelgen.pull(server.url + "/store", tmp_path / "copy")
    with pytest.raises(StoreNotFoundError, match="a pull that was interrupted"):
        labelgen.open(tmp_path / "copy")
    server.fault, server.requests = lambda *_request: None, []
    labelgen.pull(server.url + "/store", tmp_path / "copy")
    size = (wide / "store" / "embeddings/text/text/c/0/0").stat().st_size
    rest = [request.bytes for request in server.requests if "text/text/c/0/0" in request.path]
    assert len(rest) == 1
    assert 0 < rest[0] < size / 16  # every cut answer had half of what was left
    assert labelgen.verify(tmp_path / "copy").ok


def test_a_resumed_file_of_another_object_is_read_again(small: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve(small)
    server.fault = lambda _method, path, _number: "cut" if path.endswith("captions.parquet") else None
    with pytest.raises(StoreError, match="cannot read"):
        labelgen.pull(server.url + "/store", tmp_path / "copy")
    (part,) = (tmp_path / "copy" / ".labelgen" / "pull").iterdir()
    part.write_bytes(os.urandom(part.stat().st_size))
    server.fault = lambda *_request: None
    labelgen.pull(server.url + "/store", tmp_path / "copy")
    assert labelgen.verify(tmp_path / "copy").ok


def test_a_pull_mends_a_damaged_copy(small: Path, serve: Serve, tmp_path: Path) -> None:
    url = serve(small).url + "/store"
    labelgen.pull(url, tmp_path / "copy")
    path = tmp_path / "copy" / "corpus" / "images.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    assert labelgen.pull(url, tmp_path / "copy").files == 1
    assert labelgen.verify(tmp_path / "copy").ok


def test_a_partial_store_knows_what_it_lacks(small: Path, serve: Serve, tmp_path: Path) -> None:
    url, copy = serve(small).url + "/store", tmp_path / "copy"
    pulled = labelgen.pull(url, copy, only=["i2t", "text"])
    assert pulled.lacks == (
        *("embeddings/image/image", "neighbors/i2i.image.k4", "neighbors/t2i.text.k4", "neighbors/t2t.text.k4"),
    )
    store, near = labelgen.open(copy), labelgen.open(small / "store")
    np.testing.assert_array_equal(store.neighbors("i2t").rows, near.neighbors("i2t").rows)
    labelgen.soft_labels(store, ["img-1"], ["cap-9"], scheme="rsc()")
    with pytest.raises(StoreError, match=r"lacks neighbors/t2t\.text\.k4") as error:
        store.neighbors("t2t")
    assert error.value.todo == f"add it: labelgen pull {url} --out {copy} --only t2t.text.k4"
    with pytest.raises(StoreError, match="lacks embeddings/image/image"):
        store.block("i2i", ["img-1"])
    report = labelgen.verify(copy)
    assert report.ok
    assert "a partial store: 23 files were not pulled" in report.notes[0]
    with pytest.raises(StoreError, match="is a partial one"):
        labelgen.push(copy, url + "-2")
    with pytest.raises(StoreError, match="cannot be built or changed"), locked(shutil.copytree(copy, tmp_path / "two")):
        pass
    labelgen.pull(url, copy, only=["t2t.text.k4"])
    assert len(labelgen.open(copy).neighbors("t2t", rows=[1]).rows) == 1
    labelgen.pull(url, copy)
    assert labelgen.verify(copy).notes == ()
    assert not (copy / ".labelgen").exists()


def test_what_a_partial_store_says_excuses_nothing_else(small: Path, serve: Serve, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    labelgen.pull(serve(small).url + "/store", copy, only=["i2t"])
    (copy / "corpus" / "images.parquet").unlink()
    assert [problem.file for problem in labelgen.verify(copy).problems] == ["corpus/images.parquet"]
    (copy / ".labelgen" / "pulled.json").write_text('{"source": 3, "lacks": "corpus"}')
    assert len(labelgen.verify(copy).problems) > 2


def test_a_name_that_is_not_there(small: Path, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no array 'i2x'"):
        labelgen.pull(serve(small).url + "/store", tmp_path / "copy", only=["i2x"])
    assert not (tmp_path / "copy").exists()


def test_another_store_is_not_replaced(small: Path, place: str, tmp_path: Path) -> None:
    labelgen.push(small / "store", place)
    other = make_store(tmp_path / "other", n_images=5, seed=9)
    with pytest.raises(StoreMismatchError, match="holds something else"):
        labelgen.pull(place, other)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mine.txt").write_text("mine")
    with pytest.raises(StoreMismatchError, match="holds something else"):
        labelgen.pull(place, tmp_path / "files")
    (tmp_path / "files" / ".labelgen").mkdir()
    (tmp_path / "files" / ".labelgen" / "pulled.json").write_text("{")
    with pytest.raises(StoreMismatchError, match="holds something else"):
        labelgen.pull(place, tmp_path / "files")
    assert (tmp_path / "files" / "mine.txt").read_text() == "mine"


def test_a_tampered_store_is_not_sent(small: Path, place: str, tmp_path: Path) -> None:
    copy = shutil.copytree(small / "store", tmp_path / "copy")
    path = copy / "corpus" / "captions.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"0")
    with pytest.raises(CorruptStoreError, match=r"captions\.parquet is missing or damaged"):
        labelgen.push(copy, place)
    with pytest.raises(StoreNotFoundError):
        labelgen.open(place)


def test_a_manifest_chooses_no_path(small: Path, serve: Serve, tmp_path: Path) -> None:
    """A path that a store of ours has not is refused, though it stays in the folder."""
    from dataclasses import replace

    from labelgen.store.disk.atomic import FileFact
    from labelgen.store.manifest import load_manifest
    from labelgen.store.remote.pull import refuse_foreign_paths

    manifest = load_manifest(small / "store")
    refuse_foreign_paths(manifest)
    for path in (".git/hooks/post-checkout", "corpus/.hidden", ".labelgen/lock", "setup.py", "bin/x", "manifest.json"):
        with pytest.raises(StoreError, match="lists a file that no store has"):
            refuse_foreign_paths(replace(manifest, files={**manifest.files, path: FileFact(1, "0")}))


def test_the_command_line(small: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    (tmp_path / "http").mkdir()
    monkeypatch.chdir(tmp_path)
    url = serve(tmp_path / "http").url + "/made"

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        return done.stdout

    digest = labelgen.open(small / "store").manifest.content_digest
    assert digest in run("push", str(small / "store"), url)
    assert json.loads(run("pull", url, "--only", "i2t,text", "--json"))["lacks"]
    assert "lacks" in run("pull", url, "--only", "image")
    assert digest in run("pull", url, "--out", "made")
    assert labelgen.verify("made").ok
    assert "whole" in run("verify", url)
    assert url in run("inspect", url)
    assert json.loads(run("inspect", url, "--image", "img-3", "--json"))["id"] == "img-3"
    assert "equal" in run("diff", "made", url)


@pytest.mark.parametrize("out", ["s3://bucket/store", "hf://datasets/owner/name", "https://example.org/store"])
def test_a_build_is_not_made_at_an_address(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="built in a folder"):
        labelgen.build("demo", out, teachers={"text": "minilm()"})
    assert list(tmp_path.iterdir()) == []
