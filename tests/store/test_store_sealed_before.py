"""A store that an older version sealed opens, verifies, gives the same labels, and is appended to and updated.

`tests/data/sealed_f7d3377` holds the store, the tables and features that commit f7d3377 made it of, and the exact soft
labels that this commit gave. The two digests below are those of the same changes made by that commit. Nothing in the
folder is ever made again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.store.verify.store import verify

DATA = Path(__file__).resolve().parents[1] / "data" / "sealed_f7d3377"
SEALED = "f58834fee1f62f4e4bd06d7cce520879"
APPENDED = "75e07b94ba3a7fcaa00b051aabd9f194"
UPDATED = "1eec3d1bdcf274ec2de8d2ac746d5ef9"


def test_it_opens_and_is_whole() -> None:
    report = verify(DATA / "store")
    assert report.problems == ()
    assert report.content_digest == SEALED
    store = labelgen.open(DATA / "store", check=True)
    assert store.splits == {"train": range(4), "val": range(4, 6)}
    assert store.neighbors("t2t", k=2).rows.shape == (12, 2)


def test_it_gives_the_labels_that_it_gave() -> None:
    store = labelgen.open(DATA / "store")
    images, captions = ["i0", "i1", "i2", "i3", "i4", "i5"], ["i0#1", "i1#0", "i2#2", "i3#0", "i4#0", "i5#1"]
    with np.load(DATA / "labels.npz") as expected:
        assert len(expected.files) == 50
        for key in expected.files:
            text, _, name = key.rpartition(" ")
            exact = labelgen.soft_labels(store, images, captions, scheme=text, missing="mask", exact=True)
            np.testing.assert_array_equal(np.asarray(getattr(exact, name)), expected[key], err_msg=key)
            if "percentile" not in text:  # a table of few pairs has steps, which magnify what float32 leaves out
                near = labelgen.soft_labels(store, images, captions, scheme=text, missing="mask")
                np.testing.assert_allclose(np.asarray(getattr(near, name)), expected[key], atol=1e-5, err_msg=key)


def test_it_is_appended_to_and_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another teacher and another relation; precomputed rows make the same bytes on every machine."""
    shutil.copytree(DATA, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    report = pipeline.append(
        "store", overrides=['dataset.root="more"', "search.engine='numpy'"], allow_other_machine=True
    )
    assert report.appended == 2
    assert verify(Path("store")).content_digest == APPENDED
    other = "precomputed(path='other.npz', modality='text')"
    pipeline.add(
        "store",
        teachers={"other": other},
        relations=["t2i"],
        overrides=["search.engine='numpy'"],
        allow_other_machine=True,
    )
    assert verify(Path("store")).content_digest == UPDATED
    store = labelgen.open("store")
    assert len(store.offsets) == 9
    assert store.block("t2i", ["i7"], ["i6#1"], alias="other").shape == (1, 1)
