"""The default engine cut into several ranges: budgets, threads, executors and kills change no byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from forked import Forked, command_line

from labelgen.store.manifest import Manifest, load_manifest
from labelgen.testing.engines import clustered_rows

_IMAGES, _CAPTIONS = 1700, 8500
#: A search gets at least a quarter of the budget: some thousand rows beside one tile, so the split is cut in ranges.
_SMALL = "380MB"
_BUILD = [
    *("build", "--dataset", "table", "--root", ".", "--progress", "none", "--k", "10", "--set", "search.cross_k=4"),
    *("--teacher", "text=precomputed(path='text.npy', modality='text')"),
]
_WAYS = {
    "one thread, several ranges": ["--memory", _SMALL, "--threads", "1"],
    "two workers, several ranges": ["--memory", "760MB", "--workers", "2"],
    "dask, several ranges": ["--memory", "760MB", "--workers", "2", "--executor", "dask"],
}


@pytest.fixture(scope="module")
def folder(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two splits with features, and a store of it that was searched in whole splits."""
    root = tmp_path_factory.mktemp("ranges")
    split = ["test" if number % 10 == 0 else "train" for number in range(_IMAGES)]
    lines = [f"i{n // 5:05d},c{n},text {n},{split[n // 5]}" for n in range(_CAPTIONS)]
    (root / "captions.csv").write_text("\n".join(["image_id,caption_id,caption,split", *lines]), encoding="utf-8")
    np.save(root / "text.npy", clustered_rows(_CAPTIONS, 32, seed=1).astype(np.float32))
    manifest = _built(forked, root, "whole", "--memory", "4GB")
    assert {entry.scope for entry in manifest.neighbors} == {"split", "cross"}
    assert _search_tasks(root / "whole") == 3  # two splits, and the pair of them
    return root


def test_facts_of_the_proof_are_in_the_manifest(folder: Path) -> None:
    for entry in load_manifest(folder / "whole").neighbors:
        assert entry.facts["bound"] > entry.facts["largest_error"] >= 0
        assert entry.facts["margin"] > 0
        assert entry.facts["fell_back"] == 0
    rescored = sum(entry.facts["rescored"] for entry in load_manifest(folder / "whole").neighbors)
    assert 11 * _CAPTIONS < rescored < 100 * _CAPTIONS


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if "dask" in way else ()) for way in _WAYS])
def test_several_ranges_give_the_same_digest(forked: Forked, folder: Path, way: str) -> None:
    name = way.replace(" ", "-").replace(",", "")
    assert _built(forked, folder, name, *_WAYS[way]).content_digest == load_manifest(folder / "whole").content_digest
    assert _search_tasks(folder / name) > 6


def test_a_search_that_is_killed_between_its_ranges_goes_on_with_another_budget(forked: Forked, folder: Path) -> None:
    for when, pattern, memory in (
        ("after", ".labelgen/parts/search/*", _SMALL),
        ("before", "receipts/search/*", _SMALL),
        ("after", "receipts/search/*", "400MB"),
    ):
        command = [*_BUILD, "--out", "killed", "--memory", memory]
        done = forked(command_line, *command, kill=(when, pattern, 3), folder=folder)
        assert done.signal == 9, done.errors[-2000:]
    assert (
        _built(forked, folder, "killed", "--memory", _SMALL).content_digest
        == load_manifest(folder / "whole").content_digest
    )


def _built(forked: Forked, root: Path, out: str, *options: str) -> Manifest:
    done = forked(command_line, *_BUILD, "--out", out, *options, folder=root)
    assert done.value == 0, done.errors[-3000:]
    return load_manifest(root / out)


def _search_tasks(store: Path) -> int:
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in (store / "receipts/search").rglob("*.json")]
    return len(receipts)
