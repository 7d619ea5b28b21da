"""Eight ranks, each killed at least once, and a frozen one that wakes up after the seal: the store of a local build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labelgen.pipeline import verify
from labelgen.store.manifest import load_manifest

pytest.importorskip("torch", reason="needs the extra labelgen[build]")
pytest.importorskip("safetensors", reason="needs the extra labelgen[build]")

RANKS, SEEDS = 8, 20


@pytest.fixture(scope="module")
def ranks() -> Iterator[subprocess.Popen[str]]:
    """The parent of all ranks; see `forked_ranks.py`."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("forked_ranks.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, SEEDS))])
def test_killed_and_frozen_ranks_make_the_local_store(
    ranks: subprocess.Popen[str], recipe: list[str], built: Path, tmp_path: Path, seed: int
) -> None:
    assert ranks.stdin is not None
    assert ranks.stdout is not None
    out = tmp_path / "store"
    job = {"out": str(out), "overrides": recipe, "seed": seed, "world": RANKS, "expire": 1.5}
    ranks.stdin.write(json.dumps(job) + "\n")
    ranks.stdin.flush()
    found: dict[str, Any] = json.loads(ranks.stdout.readline())
    assert not found["errors"], found["errors"]
    assert found["stopped"]
    assert found["woken"] == 0
    assert min(found["killed"]) >= 1, found["killed"]
    assert found["codes"] == [0] * RANKS
    assert found["after"] == found["before"], "a rank that woke up after the seal wrote something"
    assert set(found["after"]) == {path.relative_to(built).as_posix() for path in built.rglob("*")}
    assert found["digest"] == load_manifest(built).content_digest
    assert verify(out).problems == ()
