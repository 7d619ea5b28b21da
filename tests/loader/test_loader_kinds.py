"""Labels over kinds of captions, and groups of images in labels, negatives and batches."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError, MissingItemError
from labelgen.loader.batches import BatchLabels
from labelgen.loader.blocks import SoftLabeler
from labelgen.loader.negatives import HardNegatives
from labelgen.loader.samplers import NeighborBatchSampler
from labelgen.patches.patch import Patch
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store
from labelgen.types import PAD_ROW

SIZES = (5, 2, 0, 1, 7, 3, 4, 2)
#: Image 1 has captions of `blip` alone, image 3 one without a kind.
KINDS = ["human", "blip", "human", "blip", "human", "blip", "blip", None, *["human", "blip"] * 8]
GROUPS = ["g", None, "g", "h", "g", None, "h", None]
IMAGES, CAPTIONS = ["img-0", "img-4", "img-6", "img-7"], ["cap-1", "cap-8", "cap-18", "cap-23"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(
        tmp_path_factory.mktemp("kinds") / "store",
        n_images=8, captions_per_image=SIZES, seed=3, k=6, kinds=KINDS, groups=GROUPS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return labelgen.open(path)


def expected(store: Store, how: str, kinds: list[str | None]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One caption at a time, by the store's own t2t blocks."""
    block = np.zeros((len(IMAGES), len(CAPTIONS)), np.float32)
    for a, image in enumerate(store.image_rows(IMAGES).tolist()):
        for b, caption in enumerate(CAPTIONS):
            members = [f"cap-{row}" for row in store.captions_of(image) if KINDS[row] in kinds]
            if how == "max_other" and store.image_of(store.caption_rows([caption]))[0] == image:
                members = [item for item in members if item != caption]
            scores = [store.block("t2t", caption_ids=[item, caption])[0, 1] for item in members]
            pick = {"max": max, "max_other": max, "first": lambda values: values[0]}
            block[a, b] = pick[how](scores) if how in pick else np.float32(np.mean(scores, dtype=np.float64))
    return block


@pytest.mark.parametrize("how", ["max", "mean", "max_other", "first"])
@pytest.mark.parametrize("kinds", [["human"], ["blip", "human"]])
def test_sets_hold_captions_of_these_kinds(store: Store, how: str, kinds: list[str | None]) -> None:
    """The captions of the batch may be of other kinds."""
    scheme = f"bcls(aggregation={how!r})"
    labels = labelgen.soft_labels(store, IMAGES, CAPTIONS, scheme=scheme, exact=True, kinds=kinds)
    assert labels.i2t.tobytes() == expected(store, how, kinds).tobytes()
    near = labelgen.soft_labels(store, IMAGES, CAPTIONS, scheme=scheme, kinds=kinds)
    np.testing.assert_allclose(near.i2t, labels.i2t, atol=1e-6, rtol=0)
    labeler = pickle.loads(pickle.dumps(SoftLabeler(store, scheme, kinds=kinds, exact=True)))
    assert labeler(IMAGES, CAPTIONS).i2t.tobytes() == labels.i2t.tobytes()
    batches = BatchLabels(store, scheme=scheme, kinds=kinds, exact=True, check_pairs=False)
    assert batches.labels(IMAGES, CAPTIONS).i2t.tobytes() == labels.i2t.tobytes()


@pytest.mark.parametrize("how", ["max", "mean", "max_other", "first"])
def test_on_a_device(store: Store, how: str) -> None:
    pytest.importorskip("torch")
    from labelgen.loader.on_device import OnDevice

    scheme = f"bcls(aggregation={how!r})"
    got = OnDevice(store, scheme, "cpu", kinds="human", same_group="mask")(IMAGES, CAPTIONS)
    wanted = labelgen.soft_labels(store, IMAGES, CAPTIONS, scheme=scheme, exact=True, kinds="human", same_group="mask")
    np.testing.assert_allclose(got.i2t.numpy(), wanted.i2t, atol=1e-6, rtol=0)
    assert (got.where.numpy() == wanted.where).all()


def test_images_without_a_caption_of_these_kinds(store: Store) -> None:
    with pytest.raises(MissingItemError, match=r"1 of 2 images .* chosen kinds(.|\n)*'img-1'"):
        labelgen.soft_labels(store, ["img-0", "img-1"], ["cap-0", "cap-5"], kinds="human")
    labels = labelgen.soft_labels(store, ["img-0", "img-1"], ["cap-0", "cap-5"], kinds="human", missing="mask")
    assert labels.where.tolist() == [[True, True], [False, False]]
    assert labelgen.soft_labels(store, ["img-3"], ["cap-0"], kinds="unspecified").where.all()


def test_unknown_kinds_and_tables(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"'humn'(.|\n)*human \(11 captions\)"):
        labelgen.soft_labels(store, IMAGES, CAPTIONS, kinds=("humn",))
    with pytest.raises(ConfigError, match=r"over captions of kinds human(.|\n)*--update --kinds human"):
        labelgen.soft_labels(store, IMAGES, CAPTIONS, scheme="rsc(transform='percentile')", kinds="human")


def test_masks_of_groups(store: Store) -> None:
    images, captions = ["img-0", "img-4", "img-1", "img-3"], ["cap-1", "cap-8", "cap-5", "cap-7"]
    group = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    same = np.eye(4, dtype=bool)
    plain = labelgen.soft_labels(store, images, captions)
    assert (plain.same_group == group).all()
    assert (plain.same_image == same).all()
    masked = labelgen.soft_labels(store, images, captions, same_group="mask")
    assert (masked.where == (~group | same)).all()
    assert (masked.relevance == plain.relevance).all()
    joined = labelgen.soft_labels(store, images, captions, same_group="positive")
    assert (joined.relevance[group] == 1).all()
    assert (joined.relevance[~group] == plain.relevance[~group]).all()
    assert (joined.same_image == group).all()
    assert joined.where.all()
    assert (joined.map(np.copy).same_group == group).all()


def test_groups_beside_a_patch_and_unknown_ids(store: Store) -> None:
    patch = Patch.of(store, [{"decision": "mask_pair", "image_id": "img-0", "caption_id": "cap-8"}])
    how: Any = {"patch": patch, "missing": "mask", "same_group": "positive"}
    labels = labelgen.soft_labels(store, ["img-0", "img-4", "nowhere"], ["cap-1", "cap-8", "nothing"], **how)
    assert labels.where.tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    assert labels.same_group.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_store_without_groups_has_no_masks_of_them(even: Store) -> None:
    assert labelgen.soft_labels(even, ["img-0"], ["cap-0"]).same_group is None
    with pytest.raises(ConfigError, match="images of this store have no groups"):
        SoftLabeler(even, same_group="mask")
    with pytest.raises(ConfigError, match="keep or mask or positive"):
        SoftLabeler(even, same_group="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("relation", ["i2t", "t2i", "t2t", "i2i"])
def test_negatives_without_the_group(store: Store, relation: str) -> None:
    rows = range(8) if relation[0] == "i" else range(24)
    kept = HardNegatives(store, relation, 6, threshold=1.0, choice="hardest")(rows=rows)
    left = HardNegatives(store, relation, 6, threshold=1.0, choice="hardest", same_group="leave_out")(rows=rows)
    queries = np.arange(8) if relation[0] == "i" else store.image_of(rows)
    for query, before, after in zip(queries, kept.rows.tolist(), left.rows.tolist(), strict=True):
        listed = [row for row in before if row >= 0]
        owners = store.image_of(listed) if relation[2] == "t" else np.array(listed, np.int64)
        others = [row for row, same in zip(listed, store.same_group(query, owners), strict=True) if not same]
        assert [row for row in after if row >= 0] == others
    assert left.where.sum() < kept.where.sum()


@pytest.mark.parametrize("relation", ["t2t", "i2i"])
def test_batches_with_one_item_of_a_group(tmp_path: Path, relation: str) -> None:
    store = labelgen.open(make_store(tmp_path / "s", n_images=24, captions_per_image=2, groups=["a", "b", "c"] * 8))
    sampler = NeighborBatchSampler(store, 3, relation=relation, group=2, one_per_group=True, drop_last=False)
    batches = list(sampler)
    assert sorted(position for batch in batches for position in batch) == list(range(len(sampler.rows)))
    for batch in batches:
        images = store.image_of(sampler.rows[batch]) if relation == "t2t" else sampler.rows[batch]
        assert len({int(image) % 3 for image in images}) == len(batch)
    plain = NeighborBatchSampler(store, 3, relation=relation, group=2, drop_last=False)
    assert "one_per_group" not in plain.state_dict()  # states of before are taken
    with pytest.raises(ConfigError, match="another sampler"):
        plain.load_state_dict(sampler.state_dict())


def test_a_reader_of_some_kinds_feeds_them_all(path: Path) -> None:
    human = labelgen.open(path, kinds="human")
    rows = HardNegatives(human, "t2t", 3, threshold=1.0)(rows=range(11)).rows
    assert rows.max() < 11
    batches = list(NeighborBatchSampler(human, 2, group=2, split="train", drop_last=False))
    assert sorted(position for batch in batches for position in batch) == list(range(len(human.captions_in(range(6)))))
    labels = labelgen.soft_labels(human, ["img-0"], ["cap-0"])
    assert labels.i2t.shape == (1, 1)
    assert (human.neighbors("t2t").rows[human.neighbors("t2t").rows != PAD_ROW] < 11).all()
