"""Stores on the hub: revisions are pinned, tokens stay with the hub, pushes resume."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import TOKEN, Hub

import labelgen
from labelgen.errors import ConfigError, CorruptStoreError, StoreError, StoreNotFoundError

huggingface_hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client and its own


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # git LFS is what is documented
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


def test_a_store_comes_back_as_it_was(small: Path, hub: Hub, tmp_path: Path) -> None:
    pushed = labelgen.push(small / "store", "hf://datasets/me/labels")
    commit = hub.branches["me/labels"]["main"]
    assert pushed.target == f"hf://datasets/me/labels@{commit}"
    assert hub.commits[commit]["manifest.json"] == (small / "store" / "manifest.json").read_bytes()
    pulled = labelgen.pull("hf://datasets/me/labels", tmp_path / "copy")
    assert pulled.source == pushed.target
    assert labelgen.verify(tmp_path / "copy").content_digest == pushed.content_digest
    far, near = labelgen.open("hf://datasets/me/labels@main"), labelgen.open(small / "store")
    np.testing.assert_array_equal(far.neighbors("i2t").rows, near.neighbors("i2t").rows)
    np.testing.assert_array_equal(np.asarray(far.embeddings("text")), np.asarray(near.embeddings("text")))
    assert labelgen.verify(pushed.target).ok
    assert not [sent for _, path, sent in hub.seen if path.startswith("/cdn/") and sent]
    assert TOKEN not in repr(far)


def test_an_open_store_stays_at_its_commit(small: Path, hub: Hub) -> None:
    labelgen.push(small / "store", "hf://datasets/me/labels")
    store = labelgen.open("hf://datasets/me/labels")
    before = store.storage.name
    hub.commit("me/labels", "main", {"corpus/captions.parquet": b"other"})
    assert len(store.captions) == 200
    assert labelgen.open(before).manifest.store_id == store.manifest.store_id
    with pytest.raises(CorruptStoreError, match=r"captions\.parquet is damaged"):
        _ = labelgen.open("hf://datasets/me/labels").captions


def test_a_push_that_fails_resumes(small: Path, hub: Hub) -> None:
    hub.fail_uploads_after = 5
    with pytest.raises(StoreError, match="cannot write hf://datasets/me/labels"):
        labelgen.push(small / "store", "hf://datasets/me/labels")
    assert "manifest.json" not in hub.commits[hub.branches["me/labels"]["main"]]
    hub.fail_uploads_after, first = 10**9, list(hub.uploads)
    labelgen.push(small / "store", "hf://datasets/me/labels")
    assert len(set(hub.uploads)) == len(hub.uploads) > len(first)
    assert labelgen.open("hf://datasets/me/labels").manifest.corpus.n_captions == 200


def test_a_branch_is_made(small: Path, hub: Hub) -> None:
    pushed = labelgen.push(small / "store", "hf://datasets/me/labels@next")
    assert pushed.target.endswith(hub.branches["me/labels"]["next"])
    with pytest.raises(StoreNotFoundError, match="there is no store"):
        labelgen.open("hf://datasets/me/labels")
    assert labelgen.open("hf://datasets/me/labels@next").manifest.corpus.n_images == 40


def test_a_tampered_store_is_not_sent(small: Path, hub: Hub, tmp_path: Path) -> None:
    copy = shutil.copytree(small / "store", tmp_path / "copy")
    with (copy / "corpus" / "captions.parquet").open("ab") as file:
        file.write(b"0")
    with pytest.raises(CorruptStoreError, match=r"captions\.parquet is missing or damaged"):
        labelgen.push(copy, "hf://datasets/me/labels")
    assert not hub.branches


@pytest.mark.parametrize("address", ["hf://datasets/me/nothing", "hf://datasets/me/labels@" + "a" * 39])
def test_what_the_hub_does_not_have(small: Path, hub: Hub, address: str) -> None:
    labelgen.push(small / "store", "hf://datasets/me/labels")
    with pytest.raises(StoreNotFoundError, match="the hub has no"):
        labelgen.open(address)


def test_a_folder_in_a_data_set_is_not_pushed_to(small: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match="holds one store"):
        labelgen.push(small / "store", "hf://datasets/me/labels/inner")


def test_offline_is_said(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StoreError, match="HF_HUB_OFFLINE"):
        labelgen.open("hf://datasets/me/labels")
    with pytest.raises(StoreError, match="HF_HUB_OFFLINE"):
        labelgen.open("hf://datasets/me/labels@" + "a" * 40)
