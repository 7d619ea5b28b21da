"""Released training code as it is, on photographs and captions of the demo set."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import labelgen
from labelgen.resources import demo_root
from labelgen.store.reader import Store

torch = pytest.importorskip("torch")


@pytest.fixture(scope="session")
def store(demo_store: Path) -> Store:
    return labelgen.open(demo_store)


@pytest.fixture(scope="session")
def pairs_csv(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pairs as open_clip reads them, small copies of photographs by path and no ids: two captions of 16 images."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("csv") / "pairs.csv"
    for name in store.images["file"][:16]:
        with image.open(demo_root() / "images" / name) as photo:
            photo.resize((40, 40)).save(path.parent / name)
    captions = [int(store.offsets[row]) + number for number in range(2) for row in range(16)]
    files, texts = store.images["file"], store.captions["text"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for caption in captions:
            writer.writerow([path.parent / files[int(store.image_of([caption])[0])], texts[caption]])
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script twice, as torchrun would start it with two ranks; what each printed."""

    def run(script: str, *arguments: object) -> list[str]:
        file = tmp_path / "script.py"
        file.write_text(script, encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", file, *map(str, arguments)],
                env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        try:
            said = [rank.communicate(timeout=400) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors for _, errors in said)
        return [printed for printed, _ in said]

    return run
