"""Eight ranks, each killed at least once, and a frozen one that wakes up after the seal: the store of a local build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from forked_ranks import run

from labelgen.pipeline import verify
from labelgen.store.manifest import load_manifest

pytest.importorskip("torch", reason="needs the extra labelgen[build]")
pytest.importorskip("safetensors", reason="needs the extra labelgen[build]")

RANKS, SEEDS = 8, 20


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, SEEDS))])
def test_killed_and_frozen_ranks_make_the_local_store(
    forked: Forked, recipe: list[str], built: Path, tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "store"
    job = {"out": str(out), "overrides": recipe, "seed": seed, "world": RANKS, "expire": 1.5}
    found: dict[str, Any] = forked(run, job).value
    assert not found["errors"], found["errors"]
    assert found["stopped"]
    assert found["woken"] == 0
    assert min(found["killed"]) >= 1, found["killed"]
    assert found["codes"] == [0] * RANKS
    assert found["after"] == found["before"], "a rank that woke up after the seal wrote something"
    assert set(found["after"]) == {path.relative_to(built).as_posix() for path in built.rglob("*")}
    assert found["digest"] == load_manifest(built).content_digest
    assert verify(out).problems == ()
