"""Fused labels of caption sets in batches: the default fusion, centred rows, and thresholds of annotated pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader.blocks import SoftLabeler
from labelgen.loader.negatives import HardNegatives
from labelgen.relevance.base import CAPTION_LENGTH
from labelgen.relevance.fusion import default, parse_request
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def centred_rows(store: Store) -> np.ndarray:
    """All caption rows, centred by the mean of those of the train split; float64."""
    rows = unit(np.asarray(store.embeddings("text", "text")).astype(np.float64))
    train = rows[store.captions_in(store.splits["train"])]
    mean = train[train.any(axis=1)].mean(axis=0)
    return unit(np.where(rows.any(axis=1, keepdims=True), rows - mean, 0))


def by_hand(store: Store, image: int, caption: int) -> float | None:
    """The default fusion of one pair; None where the image has no other caption."""
    rows, offsets = centred_rows(store), store.offsets
    owner = int(store.image_of([caption])[0])
    members = [row for row in range(offsets[image], offsets[image + 1]) if row != caption and rows[row].any()]
    if not members:
        return None
    scores = sorted((float(rows[row] @ rows[caption]) for row in members), reverse=True)
    right = rows[caption] if image == owner else rows[offsets[owner] : offsets[owner + 1]].sum(axis=0)
    sets = float(unit(rows[members].sum(axis=0)) @ unit(right))
    if image == owner:
        sets /= float(np.linalg.norm(rows[offsets[owner] : offsets[owner + 1]].mean(axis=0)))
    words = len(store.captions["text"][int(caption)].split())
    return (np.mean(scores[:2]) + 0.5 * sets - 0.07 * (np.log1p(words) - 2.5)) / (1 + 0.5 - 0.07)


def test_the_default_fusion_of_a_batch(even: Store) -> None:
    images = [f"img-{n}" for n in (1, 40, 7)]
    captions = [even.caption_ids([int(even.offsets[n])])[0] for n in (1, 40, 7)]
    labels = labelgen.soft_labels(even, images, captions, scheme="ensemble()")
    for a, image in enumerate(images):
        for b, caption in enumerate(captions):
            wanted = by_hand(even, *even.image_rows([image]), *even.caption_rows([caption]))
            wanted = 1.0 if a == b else min(max(float(wanted or 0), 0), 1)
            assert labels.relevance[a, b] == pytest.approx(wanted, abs=2e-3)  # centred rows are kept in float16
    assert labels.where.all()


@pytest.mark.parametrize("how", ["top2", "sets"])
@pytest.mark.parametrize("exact", [False, True])
def test_an_image_with_one_caption_still_has_its_positive(store: Store, how: str, exact: bool) -> None:
    """Image 3 has one caption, image 5 no photograph, caption 3 no row."""
    labels = labelgen.soft_labels(
        store, ["img-0", "img-3"], ["cap-0", "cap-7"], scheme=f"bcls(aggregation='{how}')", exact=exact
    )
    assert store.image_of([7]).tolist() == [3]
    assert labels.where.all()
    assert labels.relevance.diagonal().tolist() == [1, 1]
    if how == "top2":
        assert labels.i2t[0, 0] < 1  # without itself
    assert labels.i2t[1, 1] == 1


def test_length_is_that_of_the_caption(even: Store) -> None:
    labeler = SoftLabeler(even, "ensemble(by=\"mean(of=['i2t.text', 'length'])\")", missing="mask")
    blocks = labeler.blocks(labeler.batch(["img-0", "img-1"], ["cap-0", "cap-9", "nobody"]))
    words = [len(even.captions["text"][int(row)].split()) for row in (0, 9)]
    np.testing.assert_allclose(blocks.get(CAPTION_LENGTH), [[*np.log1p(words), 0]] * 2, rtol=1e-6)


def test_centred_blocks_are_centred_rows(even: Store) -> None:
    rows = centred_rows(even)
    reader = even.block_reader(parse_request("t2t.text").relation, "text", centred=True)
    every = np.arange(len(rows))
    np.testing.assert_allclose(reader.similarities(None, every, exact=True), rows @ rows.T, atol=2e-3)
    assert even.centred("text").take(np.array([4, 2])).tolist() == even.centred("text").slice(2, 5)[[2, 0]].tolist()


def test_without_a_train_split_the_mean_is_that_of_all(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "store", n_images=8))
    train = store.captions_in(store.splits["train"])
    rows = unit(np.asarray(store.embeddings("text", "text")).astype(np.float64))
    np.testing.assert_allclose(store.centred("text").mean, rows[train].mean(axis=0), atol=1e-12)
    assert len(train) < len(rows)


def test_mask_above_own_leaves_out_what_looks_right(even: Store) -> None:
    rows = np.arange(24)
    images = even.image_ids(rows)
    captions = even.caption_ids(even.offsets[rows])
    scheme = "bcls(aggregation='top2', transform='mask_above_own(margin=0.05)')"
    plain = labelgen.soft_labels(even, images, captions, scheme="bcls(aggregation='top2')")
    masked = labelgen.soft_labels(even, images, captions, scheme=scheme)
    own = plain.i2t.diagonal()
    wanted = plain.i2t > np.maximum(own[:, None], own[None, :]) - 0.05
    wanted &= ~np.eye(24, dtype=bool)
    assert 0 < wanted.sum() < wanted.size
    assert (masked.where == ~wanted).all()
    assert (masked.relevance == plain.relevance).all()


def test_mask_above_own_refuses_pairs_compared_with_themselves(even: Store) -> None:
    for scheme in ("bcls(transform='mask_above_own()')", "cusa(transform='mask_above_own()')"):
        with pytest.raises(ConfigError, match="must not be compared with itself"):
            labelgen.soft_labels(even, ["img-0"], ["cap-0"], scheme=scheme)


@pytest.mark.parametrize(("relation", "share"), [("i2t", 1.5), ("t2i", 0.8), ("t2t", 0.8)])
def test_relative_negatives_are_below_the_annotated_pair(even: Store, relation: str, share: float) -> None:
    drawn = HardNegatives(even, relation, 12, relative=share, choice="hardest")(rows=range(20))
    listed = even.neighbors(relation, rows=range(20))
    rows = unit(np.asarray(even.embeddings("text", "text")).astype(np.float64))
    for query in range(20):
        own = [
            annotated(even, rows, caption) for caption in ([query] if relation != "i2t" else even.captions_of(query))
        ]
        wanted = listed.rows[query][listed.scores[query] <= share * np.mean(own)].tolist()
        assert drawn.rows[query][drawn.where[query]].tolist() == wanted
    assert 0 < drawn.where.sum() < drawn.where.size


def annotated(store: Store, rows: np.ndarray, caption: int) -> float:
    image = int(store.image_of([caption])[0])
    return max(float(rows[row] @ rows[caption]) for row in store.captions_of(image) if row != caption)


def test_relative_negatives_of_a_cross_modal_teacher(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "store", dims={"clip": 8}, n_images=40, k=8))
    own = store.block("i2t", image_rows=range(40), caption_rows=range(200))
    drawn = HardNegatives(store, "t2i", 8, relative=0.9, choice="hardest")(rows=range(30))
    listed = store.neighbors("t2i", rows=range(30))
    limit = 0.9 * own[store.image_of(range(30)), np.arange(30)]
    assert (drawn.where.sum(axis=1) == (listed.scores <= limit[:, None]).sum(axis=1)).all()


def test_relative_negatives_of_an_image_with_one_caption(store: Store) -> None:
    """Its pair is known by itself alone: nothing is left out."""
    drawn = HardNegatives(store, "i2t", 4, relative=0.01)(rows=[3])
    assert drawn.where.sum() == (store.neighbors("i2t", rows=[3]).scores > -np.inf).sum()
    for how in ({"relative": 0.9, "threshold": 1.0}, {}, {"relative": 0.0}):
        with pytest.raises(ConfigError):
            HardNegatives(store, "i2t", **how)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="annotated pair"):
        HardNegatives(store, "i2i", relative=0.9)


def test_the_default_names_its_inputs() -> None:
    made = default("minilm", bridge="bridge")
    assert [str(need) for need in made.inputs] == [
        "i2t.minilm.centred.top2", "i2t.minilm.centred.sets", "length", "i2t.bridge",
    ]  # fmt: skip
