"""Blocks of a batch are the store's, bit for bit, and what cannot be compared is said."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labelgen
from labelgen.errors import ConfigError, MissingItemError, UnknownIdError
from labelgen.loader.blocks import SoftLabeler
from labelgen.loader.requests import quantile_table
from labelgen.relevance.base import BlockRequest
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.manifest import load_manifest, save_manifest
from labelgen.store.reader import Store
from labelgen.testing.schemes import Everything
from labelgen.types import Relation

OFFSETS = [0, 5, 7, 7, 8, 15, 18, 22, 24]
LIVING = [row for row in range(24) if row != 3]


def similarity(store: Store, a: int, b: int) -> np.float32:
    """By the definition, with exact sums."""
    x, y = (store.embeddings("text").take(np.array([row]))[0].astype(float).tolist() for row in (a, b))
    products = (math.fsum(p * q for p, q in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y)))
    xy, xx, yy = products
    return np.float32(xy / math.sqrt(xx * yy))


@settings(max_examples=30, deadline=None)
@given(
    images=st.lists(st.sampled_from([0, 1, 3, 4, 6, 7]), min_size=1, max_size=6),
    captions=st.lists(st.sampled_from(LIVING), min_size=1, max_size=6, unique=True),
)
def test_blocks_are_those_of_the_store(store: Store, images: list[int], captions: list[int]) -> None:
    image_ids, caption_ids = [f"img-{row}" for row in images], [f"cap-{row}" for row in captions]
    labels = labelgen.soft_labels(store, image_ids, caption_ids, scheme=Everything(), exact=True)
    near = labelgen.soft_labels(store, image_ids, caption_ids, scheme=Everything())
    for name, block in {
        "i2t": store.block("i2t", image_ids, caption_ids),
        "t2t": store.block("t2t", caption_ids=caption_ids),
        "i2i": store.block("i2i", image_ids),
    }.items():
        np.testing.assert_array_equal(getattr(labels, name), block)
        np.testing.assert_allclose(getattr(near, name), block, atol=1e-6, rtol=0)
        assert (getattr(near, name)[block == 1] == 1).all()
    owners = np.searchsorted(OFFSETS, captions, side="right") - 1
    np.testing.assert_array_equal(labels.same_image, np.equal.outer(images, owners))
    assert labels.where.all()
    assert labels.image_rows.tolist() == images


@settings(max_examples=30, deadline=None)
@given(
    aggregation=st.sampled_from(["max_other", "first"]),
    images=st.lists(st.sampled_from([0, 1, 3, 4, 6, 7]), min_size=1, max_size=6),
    captions=st.lists(st.sampled_from(LIVING), min_size=1, max_size=6, unique=True),
)
def test_other_aggregations(store: Store, aggregation: str, images: list[int], captions: list[int]) -> None:
    """Pair by pair from the definition: caption 7 is the only one of image 3, so it has no other there."""
    ids = [f"img-{v}" for v in images], [f"cap-{c}" for c in captions]
    labels = SoftLabeler(store, Everything(aggregation), exact=True)(*ids)
    np.testing.assert_allclose(SoftLabeler(store, Everything(aggregation))(*ids).i2t, labels.i2t, atol=1e-6, rtol=0)
    for a, image in enumerate(images):
        rows = [row for row in range(OFFSETS[image], OFFSETS[image + 1]) if row != 3]
        for b, caption in enumerate(captions):
            members = rows[:1] if aggregation == "first" else [row for row in rows if row != caption]
            assert labels.where[a, b] == bool(members)
            expected = max((similarity(store, row, caption) for row in members), default=np.float32(0))
            assert labels.i2t[a, b] == expected


def test_first_of_an_image_without_captions_cannot_be_compared(store: Store) -> None:
    labels = SoftLabeler(store, Everything("first"), missing="mask")(["img-2", "img-0"], ["cap-0"])
    assert labels.where.tolist() == [[False], [True]]
    assert labels.i2t.tolist() == [[0], [1]]


def test_missing_items_are_named_or_masked(store: Store) -> None:
    arguments = ["img-0", "img-5", "img-1"], ["cap-0", "cap-3", "cap-5"]
    for aggregation in ("max", "max_other", "first"):
        with pytest.raises(MissingItemError, match=r"img-5|cap-3"):
            SoftLabeler(store, Everything(aggregation))(*arguments)
    labels = labelgen.soft_labels(store, *arguments, scheme=Everything(), missing="mask", exact=True)
    assert labels.where.tolist() == [[True, False, True], [False, False, False], [True, False, True]]
    assert not labels.i2i[1].any()
    assert not labels.i2i[:, 1].any()
    assert not labels.t2t[1].any()
    keep = [0, 2]
    smaller = labelgen.soft_labels(store, ["img-0", "img-1"], ["cap-0", "cap-5"], scheme=Everything(), exact=True)
    for name, value in smaller.arrays().items():
        kept = labels.arrays()[name]
        np.testing.assert_array_equal(kept[np.ix_(keep, keep)] if kept.ndim == 2 else kept[keep], value)


def test_unknown_ids_are_named_or_masked(store: Store) -> None:
    images, captions = ["img-0", "nobody", "img-1", "img-4"], ["cap-0", "cap-8", "nothing", "cap-9"]
    with pytest.raises(UnknownIdError, match="nobody"):
        labelgen.soft_labels(store, images, captions, scheme=Everything())
    with pytest.raises(UnknownIdError, match="nothing"):
        labelgen.soft_labels(store, ["img-0"], ["nothing"], scheme=Everything())
    labels = labelgen.soft_labels(store, images, captions, scheme=Everything(), missing="mask")
    known = [True, True, False, True]
    assert labels.where.tolist() == [known, [False] * 4, known, known]
    assert not labels.t2t[2].any()
    assert not labels.i2i[:, 1].any()
    assert not labels.i2t[1].any()
    # Pairs stay pairs, so the diagonal still means "own pair"; caption 8 belongs to image 4, as caption 9 does.
    assert labels.same_image.diagonal().all()
    assert labels.image_rows.tolist() == [0, 4, 1, 4]


def test_unknown_ids_of_no_pairs_equal_nothing(store: Store) -> None:
    labels = labelgen.soft_labels(
        store, ["a", "b"], ["c", "cap-0", "d"], scheme=Everything(), missing="mask", repeats="allow"
    )
    assert not labels.same_image.any()
    assert not labels.where.any()
    both = labelgen.soft_labels(store, ["a", "img-0"], ["c", "cap-0"], scheme=Everything(), missing="mask")
    assert both.same_image.tolist() == [[True, False], [False, True]]
    assert both.where.tolist() == [[False, False], [False, True]]


def test_repeated_images_are_fine_and_repeated_captions_are_not(store: Store) -> None:
    labels = labelgen.soft_labels(store, ["img-0", "img-0"], ["cap-0", "cap-1"], scheme=Everything())
    assert labels.same_image.all()
    with pytest.raises(ConfigError, match=r"1 captions occur more than once in a batch of 3\n.*'cap-1'"):
        labelgen.soft_labels(store, ["img-0"] * 3, ["cap-1", "cap-0", "cap-1"], scheme=Everything())
    allowed = labelgen.soft_labels(
        store, ["img-0"] * 3, ["cap-1", "cap-0", "cap-1"], scheme=Everything(), repeats="allow"
    )
    assert (allowed.t2t[0] == allowed.t2t[2]).all()


@pytest.mark.parametrize("wrong", [{"missing": "ignore"}, {"repeats": "yes"}])
def test_choices_are_checked(store: Store, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        SoftLabeler(store, Everything(), **wrong)  # type: ignore[arg-type]


def test_a_labeller_is_a_small_pickle(store: Store) -> None:
    labeller = SoftLabeler(store, Everything())
    data = pickle.dumps(labeller)
    assert len(data) < 1000
    again = pickle.loads(data)
    arguments = ["img-0", "img-1"], ["cap-0", "cap-5"]
    np.testing.assert_array_equal(again(*arguments).i2t, labeller(*arguments).i2t)
    assert "everything" in repr(labeller)


def test_quantile_tables_are_those_of_the_store(store_path: Path, tmp_path: Path) -> None:
    root = shutil.copytree(store_path, tmp_path / "store")
    table = {"quantiles": {"0": -0.5, "0.5": 0.125, "1": 1.0}}
    fact = write_atomic(root / "stats" / "i2t.text.json", json.dumps(table).encode())
    manifest = load_manifest(root)
    save_manifest(root, replace(manifest, files={**manifest.files, "stats/i2t.text.json": fact}))
    store = labelgen.open(root)
    for aggregation in ("max", "max_other"):
        assert quantile_table(store, BlockRequest(Relation.I2T, None, aggregation)) == {0.0: -0.5, 0.5: 0.125, 1.0: 1.0}
    with pytest.raises(ConfigError, match=r"no quantile table of i2t.mean by teacher 'text'"):
        quantile_table(store, BlockRequest(Relation.I2T, None, "mean"))
    (root / "stats" / "i2t.text.json").write_text("[]")
    with pytest.raises(OSError, match="cannot be read"):
        quantile_table(store, BlockRequest(Relation.I2T))


def test_an_unknown_image_of_a_batch_of_no_pairs_belongs_to_no_caption(store: Store) -> None:
    """As many images as captions, but the known ones are no pairs: the unknown image takes nobody's place."""
    other = store.caption_ids([int(store.offsets[4])])[0]
    labels = labelgen.soft_labels(store, ["img-0", "nobody"], [other, "cap-0"], missing="mask")
    assert labels.same_image.tolist() == [[False, True], [False, False]]
    assert labels.image_rows[0] == 0
    assert labels.image_rows[1] < 0


@pytest.mark.parametrize("scheme", ["cusa(mode='add')", "bcls()"])
def test_a_warm_batch_enters_few_files_and_functions(even: Store, scheme: str) -> None:
    """What does not depend on the batch is looked up once; `benchmarks/structure.py` prints the numbers."""
    labeller = SoftLabeler(even, scheme)
    batch = even.image_ids(range(8)), even.caption_ids(range(0, 40, 5))
    labeller(*batch)
    entered = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("labelgen."):
            entered.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        labeller(*batch)
    finally:
        sys.setprofile(before)
    # one of them is the seam to stores at a distance, `store/disk/folder.py`
    assert len({code.co_filename for code in entered if code.co_filename.endswith(".py")}) <= 11
    assert len({code for code in entered if code.co_filename.endswith(".py")}) <= 41
