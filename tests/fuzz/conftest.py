"""Small inputs that are right, which the fuzz tests then damage. Linux only: the bounds are those of its processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from labelgen.testing.stores import make_store

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Libraries that a run would load: seconds that no input is to blame for, and no place to be interrupted."""
    for name in ("torch", "numba", "polars", "pyarrow.parquet", "rich"):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images with five captions each, texts, images and a cross-modal teacher; read only."""
    return make_store(tmp_path_factory.mktemp("fuzz") / "store", dims={"text": 8, "image": 6, "clip": 4}, k=3)


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of `a0.jpg#0` to `a7.jpg#0` and of `a0.jpg` to `a7.jpg`, [4] each."""
    path = tmp_path_factory.mktemp("features") / "features.npz"
    draw = np.random.default_rng(0)
    names = [f"a{n}.jpg{tail}" for n in range(8) for tail in ("", "#0")]
    np.savez(path, **{name: draw.standard_normal(4).astype(np.float32) for name in names})
    return path


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight images, one caption each."""
    root = tmp_path_factory.mktemp("table")
    rows = [{"image_id": f"a{n}.jpg", "caption_id": f"a{n}.jpg#0", "caption": f"text number {n}"} for n in range(8)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root
