"""Similarities of captions with caption sets are those of plain loops; an annotated caption is left out of its set."""

from __future__ import annotations

import numpy as np
import pytest

from labelgen.similarity.base import ArrayRows
from labelgen.similarity.caption_sets import block_sets, pair_set_similarities, pair_sets
from labelgen.similarity.exact import aggregate_groups, block_similarity
from labelgen.store.kinds import AllCaptions, CaptionKinds

DRAW = np.random.default_rng(5)
SIZES = np.array([3, 0, 1, 5, 2, 4])
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)]).astype(np.int64)
OWNERS = np.repeat(np.arange(len(SIZES)), SIZES)
TEXTS = DRAW.normal(size=(15, 8)).astype(np.float16)
TEXTS[4] = 0  # a caption of image 3 without an embedding
ROWS = ArrayRows(TEXTS)
SETS = AllCaptions(OFFSETS)
IMAGES, CAPTIONS = (side.ravel() for side in np.meshgrid(np.arange(6), np.arange(15), indexing="ij"))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    lengths = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / lengths) if lengths else -np.inf


def others(image: int, caption: int, *, itself: bool) -> list[int]:
    members = range(OFFSETS[image], OFFSETS[image + 1])
    return [row for row in members if TEXTS[row].any() and (itself or row != caption)]


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("how", ["max", "mean", "top2"])
def test_pairs_are_those_of_a_loop(how: str, itself: bool) -> None:
    found = pair_set_similarities(ROWS, SETS, IMAGES, CAPTIONS, how, itself=itself)  # type: ignore[arg-type]
    wide = TEXTS.astype(np.float64)
    for image, caption, value in zip(IMAGES, CAPTIONS, found.tolist(), strict=True):
        scores = sorted(
            (cosine(wide[row], wide[caption]) for row in others(image, caption, itself=itself)), reverse=True
        )
        if not scores or not TEXTS[caption].any():
            assert value == -np.inf
            continue
        wanted = {"max": scores[0], "mean": np.mean(scores), "top2": np.mean(scores[:2])}[how]
        assert value == pytest.approx(wanted, abs=1e-6)


def test_top2_of_groups_is_that_of_pairs() -> None:
    """The block of a store, in which a caption meets itself, and the pairs of a list."""
    block = aggregate_groups(block_similarity(TEXTS, TEXTS), SIZES, "top2")
    pairs = pair_set_similarities(ROWS, SETS, IMAGES, CAPTIONS, "top2", itself=True)
    assert block.ravel().tolist() == pairs.tolist()


def test_sets_are_cosines_of_sums() -> None:
    found = pair_sets(ROWS, SETS, IMAGES, CAPTIONS, OWNERS[CAPTIONS])
    wide = TEXTS.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    for image, caption, value in zip(IMAGES, CAPTIONS, found.tolist(), strict=True):
        owner = OWNERS[caption]
        left = unit[others(image, caption, itself=image != owner)].sum(axis=0)
        whole = unit[OFFSETS[owner] : OFFSETS[owner + 1]]
        right = unit[caption] if image == owner else whole.sum(axis=0)
        if not left.any() or not right.any() or not TEXTS[caption].any():
            assert value == -np.inf
        else:
            mean = np.linalg.norm(whole.sum(axis=0)) / whole.any(axis=1).sum()
            wanted = cosine(left, right) / (mean if image == owner else 1)
            assert value == pytest.approx(np.clip(wanted, -1, 1), abs=1e-6)
    block = block_sets(ROWS, SETS, np.arange(6), np.arange(15), OWNERS)
    np.testing.assert_allclose(block.ravel(), found, atol=1e-6)
    assert np.isneginf(block).ravel().tolist() == np.isneginf(found).tolist()


def test_captions_of_other_kinds_are_in_no_set() -> None:
    """The sum of image 3 has the captions of the kind only; a caption of another kind is not subtracted from it."""
    kept = np.ones(15, bool)
    kept[[5, 6]] = False
    sets = CaptionKinds.of(kept, OFFSETS)
    found = pair_sets(ROWS, sets, np.array([3, 3]), np.array([5, 7]), np.array([3, 3]))
    wide = TEXTS.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    length = np.linalg.norm(unit[7] + unit[8]) / 2
    assert found[0] == pytest.approx(np.clip(cosine(unit[7] + unit[8], unit[5]) / length, -1, 1), abs=1e-6)
    assert found[1] == pytest.approx(np.clip(cosine(unit[8], unit[7]) / length, -1, 1), abs=1e-6)
