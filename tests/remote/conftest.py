"""Stores behind servers on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("urllib3", reason="needs the extra labelgen[remote]")

from labelgen.store.remote import cache, client
from labelgen.testing.servers import FolderServer
from labelgen.testing.stores import make_store


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for every test, no proxy and no waiting between two tries."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(client.time, "sleep", lambda _seconds: None)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `small/store`: 40 images with lists, groups and kinds of captions."""
    folder = tmp_path_factory.mktemp("small")
    kinds = ["human", "machine", None, "human", "human"] * 40
    make_store(folder / "store", n_images=40, kinds=kinds, groups=["a", None, "b", "a"] * 10)
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `wide/store`: 155,070 captions, whose shard has many chunks, and no lists."""
    folder = tmp_path_factory.mktemp("wide")
    make_store(folder / "store", n_images=31_014, dims={"text": 96, "image": 32}, lists=False)
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[..., FolderServer]]:
    """A function that starts a server of a folder; it stops after the test."""
    running: list[FolderServer] = []

    def start(folder: Path, **how: object) -> FolderServer:
        running.append(FolderServer(folder, **how).__enter__())  # type: ignore[arg-type]
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(params=["fork", "spawn"])
def processes(request: pytest.FixtureRequest) -> multiprocessing.context.BaseContext:
    """Ways to start a process."""
    return multiprocessing.get_context(request.param)
