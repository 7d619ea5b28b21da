"""Slow: real sizes. Memory stays in the budget, and twenty kills change nothing. `pytest -m slow`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labelgen.pipeline import verify
from labelgen.store.layout import is_content
from labelgen.store.manifest import load_manifest

pytestmark = pytest.mark.slow

BUDGET = 2 * 10**9


@pytest.mark.shared
def test_155070_captions_stay_under_the_budget(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "flickr30k_captions"
    _run(
        "build", "--dataset", "table", "--root", str(root), "--out", str(tmp_path / "store"), "--memory", "2GB",
        "--teacher", "text=minilm()", "--set", "dataset.options.file=captions.parquet",
    )  # fmt: skip
    manifest = load_manifest(tmp_path / "store")
    assert manifest.corpus.n_captions == 155_070
    peaks = {stage: facts["peak_bytes"] for stage, facts in manifest.stages.items()}
    print(peaks)
    assert max(peaks.values()) < BUDGET, peaks
    assert verify(tmp_path / "store").problems == ()


def test_rows_of_37632_numbers_stay_under_the_budget(tmp_path: Path) -> None:
    """CUSA's patch grids: 49 x 768 numbers an image, here 4,000 images (602 MB as float32, mapped)."""
    count = 4000
    lines = [f"{n},a caption with the number {n}\n" for n in range(count)]
    (tmp_path / "captions.csv").write_text("image_id,caption\n" + "".join(lines), encoding="utf-8")
    rows = np.lib.format.open_memmap(tmp_path / "grid.npy", "w+", np.float32, (count, 37_632))
    draw = np.random.default_rng(0)
    for start in range(0, count, 100):
        rows[start : start + 100] = draw.standard_normal((100, 37_632), np.float32)
    del rows
    _run(
        "build", "--dataset", "table", "--root", str(tmp_path), "--out", str(tmp_path / "store"), "--memory", "2GB",
        "--set", "dataset.options.file=captions.csv",
        "--teacher", f"image=precomputed(path='{tmp_path / 'grid.npy'}', modality='image')",
    )  # fmt: skip
    manifest = load_manifest(tmp_path / "store")
    peaks = {stage: facts["peak_bytes"] for stage, facts in manifest.stages.items()}
    print(peaks)
    assert max(peaks.values()) < BUDGET, peaks
    assert verify(tmp_path / "store", deep=True, sample=8).problems == ()


@pytest.mark.shared
def test_flickr8k_killed_twenty_times_has_the_digest_of_an_undisturbed_build(shared_data: Path, tmp_path: Path) -> None:
    build = [
        "build", "--dataset", "flickr8k", "--root", str(shared_data / "flickr8k"), "--progress", "none",
        "--teacher", "text=minilm()", "--teacher", "image=efficientnet_lite(size=0)",
    ]  # fmt: skip
    _run(*build, "--out", str(tmp_path / "whole"))
    draw = random.Random(20)
    # In the order of the build: a moment that never comes would let it end, and with it the kills.
    patterns = [
        *[".labelgen/parts/embed/text*", "receipts/embed/text*"] * 2,
        *[".labelgen/parts/embed/image*", "receipts/embed/image*"] * 2,
        *["embeddings/*/c/*"] * 2,
        *[".labelgen/parts/search/*", "receipts/search/*"] * 2,
        *["neighbors/*/c/*"] * 2,
        *["stats/*", "corpus/*", "manifest.json", "manifest.json"],
    ]
    log = tmp_path / "log"
    for number, pattern in enumerate(patterns):
        when = draw.choice(["before", "after"]) if pattern != "manifest.json" else ("before", "after")[number % 2]
        times = draw.randint(1, 2) if "embed/" in pattern else 1
        killer = ["-m", "labelgen.testing.killer", when, pattern, str(times), str(log), "--"]
        done = subprocess.run(
            [sys.executable, *killer, *build, "--out", str(tmp_path / "killed")],
            env=_env(),
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, -9), done.stderr.decode()
    _run(*build, "--out", str(tmp_path / "killed"))
    kills = log.read_text(encoding="utf-8").splitlines()
    print("\n".join(kills))
    assert len(kills) >= 18
    whole, killed = load_manifest(tmp_path / "whole"), load_manifest(tmp_path / "killed")
    names = sorted({*whole.files, *killed.files})
    differing = [name for name in names if is_content(name) and whole.files.get(name) != killed.files.get(name)]
    assert differing == []  # first: it says where to look
    assert killed.content_digest == whole.content_digest
    assert verify(tmp_path / "killed").problems == ()


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labelgen", *arguments], env=_env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _env() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
