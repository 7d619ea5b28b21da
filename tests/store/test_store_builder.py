"""The stores that other rooms test with: whole, the same every time, with lists of a brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.store.verify.store import verify
from labelgen.testing.stores import brute_force, make_store, similarity_matrix
from labelgen.types import PAD_ROW


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
    """Columns 1 and 3 tie, 0 is excluded, 2 has no embedding."""
    scores = np.array([[0.9, 0.5, -np.inf, 0.5, 0.1]], np.float32)
    excluded = np.array([[True, False, False, False, False]])
    ids, best, following = brute_force(scores, excluded, 2)
    assert ids.tolist() == [[1, 3]]
    assert best.tolist() == [[0.5, 0.5]]
    assert following.tolist() == [np.float32(0.1)]
    ids, best, following = brute_force(scores, excluded, 4)
    assert ids.tolist() == [[1, 3, 4, PAD_ROW]]
    assert following.tolist() == [-np.inf]


def test_similarities_by_hand() -> None:
    x = np.array([[0.6, 0.8], [0, 0]], np.float16)
    y = np.array([[1, 0], [0, 1]], np.float16)
    a, b = float(np.float16(0.6)), float(np.float16(0.8))
    expected = np.float32([a / (a * a + b * b) ** 0.5, b / (a * a + b * b) ** 0.5])
    assert similarity_matrix(x, y)[0].tolist() == expected.tolist()
    assert similarity_matrix(x, y)[1].tolist() == [-np.inf, -np.inf]
