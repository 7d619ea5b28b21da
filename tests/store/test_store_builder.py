"""The stores that other rooms test with: whole, the same every time, with lists of a brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.similarity.base import ArrayRows, ListRequest, SearchPlan
from labelgen.store.verify.store import verify
from labelgen.testing.oracles import brute_force
from labelgen.testing.stores import make_store
from labelgen.types import PAD_ROW, Relation


def test_equal_arguments_make_equal_bytes(tmp_path: Path) -> None:
    arguments = {"n_images": 5, "captions_per_image": [1, 0, 3, 2, 2], "missing_captions": [1], "seed": 4}
    first, second = (labelgen.open(make_store(tmp_path / name, **arguments)).manifest for name in ("a", "b"))
    assert first == second
    other = labelgen.open(make_store(tmp_path / "c", **{**arguments, "seed": 5})).manifest
    assert other.content_digest != first.content_digest


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_images": 1, "captions_per_image": 1},
        {"n_images": 3, "captions_per_image": 0, "dims": {"image": 4}},
        {"n_images": 4, "captions_per_image": 20, "dims": {"text": 4}, "k": 64},
        {"n_images": 6, "captions_per_image": 2, "missing_images": range(6)},
        {"n_images": 2, "captions_per_image": 1, "dims": {"text": 37632}, "k": 1},
    ],
)
def test_odd_stores_are_whole(tmp_path: Path, arguments: dict[str, object]) -> None:
    report = verify(make_store(tmp_path / "store", **arguments))  # type: ignore[arg-type]
    assert report.problems == ()


def test_brute_force_by_hand() -> None:
    """Of the first row: 1 and 3 tie, 2 has no embedding, 4 is the nearest."""
    rows = np.array([[0.6, 0.8], [1, 0], [0, 0], [1, 0], [0, 1]], np.float16)
    a, b = float(np.float16(0.6)), float(np.float16(0.8))
    far, near = np.float32([a / (a * a + b * b) ** 0.5, b / (a * a + b * b) ** 0.5]).tolist()
    plan = SearchPlan("image", None, ArrayRows(rows), np.zeros(6, np.int64), ((0, 5),), (), memory=0)
    found = brute_force(plan, ListRequest(Relation.I2I, 2))
    assert (found.ids[0].tolist(), found.scores[0].tolist(), float(found.next[0])) == ([4, 1], [near, far], far)
    found = brute_force(plan, ListRequest(Relation.I2I, 4))
    assert found.ids[0].tolist() == [4, 1, 3, PAD_ROW]
    assert found.next[0] == -np.inf
    assert found.ids[2].tolist() == [PAD_ROW] * 4
