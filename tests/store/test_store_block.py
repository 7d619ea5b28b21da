"""Blocks equal the definition of similarity, bit for bit: the oracle sums exactly, pair by pair."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import labelgen
from labelgen.errors import ConfigError, MissingItemError, UnknownIdError, UnknownNameError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

OFFSETS = [0, 5, 7, 7, 8, 15, 18, 22, 24]
DEAD = {"image": {5}, "text": {3, 7}}  # of the fixture `made_store`; image 2 has no captions, image 3 only caption 7


@pytest.fixture(scope="module")
def store(made_store: Path) -> Store:
    return labelgen.open(made_store)


@cache
def rows_of(store: Store, alias: str, modality: str) -> list[list[float]]:
    return store.zarr(f"embeddings/{alias}/{modality}")[:].astype(np.float64).tolist()


def similarity(x: list[float], y: list[float]) -> np.float32:
    """float32((x.y) / sqrt((x.x)(y.y))) with exact sums."""
    product, left, right = (math.fsum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y)))
    return np.float32(product / math.sqrt(left * right))


def oracle(store: Store, relation: str, alias: str, images: list[int], captions: list[int]) -> NDArray[np.float32]:
    """Images are rows and captions columns in i2t and t2i (transposed at the end); None of them is dead."""
    texts = rows_of(store, alias, "text") if alias != "image" else []
    photos = rows_of(store, alias, "image") if alias != "text" else []
    if relation == "t2t":
        return np.array([[similarity(texts[a], texts[b]) for b in captions] for a in captions])
    if relation == "i2i":
        return np.array([[similarity(photos[a], photos[b]) for b in images] for a in images])
    if alias == "clip":
        block = [[similarity(photos[image], texts[b]) for b in captions] for image in images]
    else:
        members = {v: [m for m in range(OFFSETS[v], OFFSETS[v + 1]) if m not in DEAD["text"]] for v in images}
        block = [[max(similarity(texts[m], texts[b]) for m in members[image]) for b in captions] for image in images]
    return np.array(block) if relation == "i2t" else np.array(block).T


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(
        [("t2t", "text"), ("i2i", "image"), ("i2t", "text"), ("t2i", "text"), ("i2t", "clip"), ("t2i", "clip")]
    ),
    images=st.lists(st.sampled_from([0, 1, 4, 6, 7]), min_size=1, max_size=6),
    captions=st.lists(st.sampled_from([0, 1, 2, 4, 5, 9, 16, 21, 23]), min_size=1, max_size=6),
)
def test_equals_the_definition(store: Store, kind: tuple[str, str], images: list[int], captions: list[int]) -> None:
    relation, alias = kind
    arguments = {}
    if relation != "t2t":
        arguments["image_rows"] = images
    if relation != "i2i":
        arguments["caption_rows"] = captions
    block = store.block(relation, alias=alias, **arguments)
    expected = oracle(store, relation, alias, images, captions)
    assert block.dtype == np.float32
    assert block.flags.c_contiguous
    np.testing.assert_array_equal(block, expected)
    masked, where = store.block(relation, alias=alias, missing="mask", **arguments)
    np.testing.assert_array_equal(masked, expected)
    assert where.all()


def test_ids_are_rows(store: Store) -> None:
    by_ids = store.block("i2t", ["img-4", "img-0"], ["cap-1", "cap-9", "cap-1"], alias="text")
    by_rows = store.block("i2t", image_rows=[4, 0], caption_rows=np.array([1, 9, 1]), alias="text")
    np.testing.assert_array_equal(by_ids, by_rows)
    assert by_ids.shape == (2, 3)


def test_own_pairs_are_exactly_one(store: Store) -> None:
    """The set of an image holds the caption itself."""
    captions = [row for row in range(24) if row not in DEAD["text"]]
    block = store.block("i2t", image_rows=store.image_of(captions), caption_rows=captions, alias="text")
    assert (np.diag(block) == 1).all()
    assert (np.diag(store.block("t2t", caption_rows=captions, alias="text")) == 1).all()


def test_mean_over_the_captions(store: Store) -> None:
    """Image 1 has captions 5 and 6: the mean of two float32 similarities, summed in float64."""
    texts = rows_of(store, "text", "text")
    block = store.block("i2t", image_rows=[1], caption_rows=[0, 9], alias="text", aggregation="mean")
    expected = [
        np.float32((float(similarity(texts[5], texts[c])) + float(similarity(texts[6], texts[c]))) / 2) for c in (0, 9)
    ]
    assert block.tolist() == [expected]


def test_missing_items_are_named(store: Store) -> None:
    with pytest.raises(MissingItemError, match=r"1 of 3 images have no embedding by 'image'\n.*'img-5'"):
        store.block("i2i", image_rows=[0, 5, 1], alias="image")
    with pytest.raises(MissingItemError, match=r"2 of 3 captions.*\n.*'cap-3', 'cap-7'"):
        store.block("t2t", caption_rows=[3, 0, 7], alias="text")
    with pytest.raises(MissingItemError, match=r"2 of 3 images.*\n.*'img-2', 'img-3'"):
        store.block("i2t", image_rows=[2, 3, 4], caption_rows=[0], alias="text")
    with pytest.raises(MissingItemError, match="mask"):
        store.block("t2i", image_rows=[0], caption_rows=[3], alias="text")


def test_missing_items_are_masked(store: Store) -> None:
    block, where = store.block("t2i", image_rows=[2, 0, 3], caption_rows=[3, 0], alias="text", missing="mask")
    assert where.tolist() == [[False, False, False], [False, True, False]]
    assert block.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert not np.isnan(block).any()


def test_missing_members_leave_the_set(store: Store) -> None:
    """Image 0 has captions 0 to 4 of which 3 is blank: the mean is over four."""
    texts = rows_of(store, "text", "text")
    block = store.block("i2t", image_rows=[0], caption_rows=[9], alias="text", aggregation="mean")
    four = [float(similarity(texts[member], texts[9])) for member in (0, 1, 2, 4)]
    assert block[0, 0] == np.float32(sum(four) / 4)


def test_empty_batches(store: Store) -> None:
    assert store.block("t2t", caption_rows=[], alias="text").shape == (0, 0)
    assert store.block("i2t", image_rows=[], caption_rows=[0], alias="text").shape == (0, 1)
    assert store.block("t2i", image_rows=[0], caption_rows=[], alias="text").shape == (0, 1)
    assert store.block("i2t", image_rows=[], caption_rows=[], alias="clip", missing="mask")[1].shape == (0, 0)


def test_which_arguments_a_relation_takes(store: Store) -> None:
    with pytest.raises(ConfigError, match="t2t takes none of image_ids"):
        store.block("t2t", ["img-0"], ["cap-0"], alias="text")
    with pytest.raises(ConfigError, match="i2t takes one of caption_ids"):
        store.block("i2t", ["img-0"], alias="text")
    with pytest.raises(ConfigError, match="image_ids and image_rows"):
        store.block("i2i", ["img-0"], image_rows=[0], alias="image")
    with pytest.raises(ConfigError, match="nothing to aggregate"):
        store.block("t2t", caption_rows=[0], alias="text", aggregation="mean")
    with pytest.raises(ConfigError, match="nothing to aggregate"):
        store.block("i2t", image_rows=[0], caption_rows=[0], alias="clip", aggregation="mean")
    with pytest.raises(ConfigError, match="max, mean or top2"):
        store.block("i2t", image_rows=[0], caption_rows=[0], alias="text", aggregation="first")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="raise or mask"):
        store.block("t2t", caption_rows=[0], alias="text", missing="zero")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="no relation 'c2c'"):
        store.block("c2c")
    with pytest.raises(UnknownIdError):
        store.block("t2t", caption_ids=["nobody"], alias="text")
    with pytest.raises(IndexError):
        store.block("t2t", caption_rows=[24], alias="text")
    with pytest.raises(IndexError):
        store.block("i2t", image_rows=[8], caption_rows=[0], alias="text")


def test_which_teacher_is_meant(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 choices.*\n.*text, clip"):
        store.block("t2t", caption_rows=[0])
    with pytest.raises(ConfigError, match="'text' cannot serve i2i"):
        store.block("i2i", image_rows=[0], alias="text")
    with pytest.raises(UnknownNameError, match="did you mean 'text'"):
        store.block("t2t", caption_rows=[0], alias="txt")
    only = labelgen.open(make_store(tmp_path / "only", n_images=3, captions_per_image=2))
    assert only.block("t2i", image_rows=[0], caption_rows=[1]).tolist() == [[1.0]]
    assert only.block("i2i", image_rows=[0]).tolist() == [[1.0]]
    texts = labelgen.open(make_store(tmp_path / "texts", n_images=3, captions_per_image=2, dims={"text": 4}))
    with pytest.raises(ConfigError, match="no teacher for i2i"):
        texts.block("i2i", image_rows=[0])
