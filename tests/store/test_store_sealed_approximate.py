"""A store with approximate lists that an older version sealed opens, is read, and verifies, also by computing again.

`tests/data/sealed_approximate` holds the store, the table and the rows that commit f7d3377 made it of, by
`--approximate 'faiss(lists=5, probes=1, sample=40)'`, whose index and tasks were others. Nothing in it is made again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.stages.recheck.recheck import verify_deep
from labelgen.store.disk.shards import write_array
from labelgen.store.manifest import load_manifest
from labelgen.store.verify.store import verify

DATA = Path(__file__).resolve().parents[1] / "data" / "sealed_approximate"
SEALED = "b935e7012f7dc2aa2b7ea426be0c07e3"


def test_it_opens_and_is_whole() -> None:
    report = verify(DATA / "store")
    assert report.problems == ()
    assert report.content_digest == SEALED
    store = labelgen.open(DATA / "store", check=True)
    assert "approximate, recall@4 " in repr(store)


def test_its_lists_are_read() -> None:
    store = labelgen.open(DATA / "store")
    rows = store.embeddings("text").slice(0, 80).astype(np.float64)
    similar = rows @ rows.T / np.sqrt(np.outer((rows**2).sum(1), (rows**2).sum(1)))
    lists = store.neighbors("t2t", k=4)
    there = lists.scores > -np.inf
    queries = np.broadcast_to(np.arange(80)[:, None], there.shape)[there]
    assert there.mean() > 0.9
    np.testing.assert_allclose(lists.scores[there], similar[queries, lists.rows[there]], atol=1e-6)
    assert np.isnan(lists.next).all()
    assert store.neighbors("t2i", k=3).rows.shape == (80, 3)


def test_it_is_checked_by_computing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DATA, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    report = pipeline.verify("store", deep=True, sample=40)
    assert report.problems == ()
    for recall in (0.866, 0.856):  # that commit measured the same, on all images
        assert any(f"40 images searched exactly, recall@4 {recall}" in note for note in report.notes)
    (entry,) = [entry for entry in load_manifest(Path("store")).neighbors if entry.relation == "t2i"]
    scores = labelgen.open("store").neighbors("t2i", k=4).scores.copy()
    scores[:, 0] = np.nextafter(scores[:, 0], np.float32(2))
    write_array(Path("store"), entry.arrays()["scores"], scores)
    problems = verify_deep(Path("store"), sample=40, seed=0, data_root="").problems
    assert any("gives other scores" in problem.what for problem in problems)
