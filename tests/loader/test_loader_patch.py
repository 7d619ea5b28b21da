"""A patch in the loader: what it says of pairs is in every batch's labels, whatever makes the batch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen import patches
from labelgen.errors import DatasetError, StoreMismatchError, UnknownIdError
from labelgen.loader import AddSoftLabels, HardNegatives, SoftLabelCollate
from labelgen.patches import Patch
from labelgen.store.reader import Store

#: Images img-0, img-1, ... with five captions each: cap-0 ... cap-4 of img-0, and so on.
DECISIONS = [
    {"decision": "add_positive", "image_id": "img-0", "caption_id": "cap-5"},
    {"decision": "mask_pair", "image_id": "img-1", "caption_id": "cap-10"},
    {"decision": "mask_pair", "image_id": "img-2", "caption_id": "cap-10"},
    {"decision": "drop_caption", "caption_id": "cap-15"},
    {"decision": "drop_image", "image_id": "img-4"},
]
IMAGES, CAPTIONS = [f"img-{n}" for n in range(6)], [f"cap-{5 * n}" for n in range(6)]


@pytest.fixture
def patch(even: Store) -> Patch:
    return Patch.of(even, DECISIONS)


def test_masks_are_in_the_labels(even: Store, patch: Patch) -> None:
    plain = labelgen.soft_labels(even, IMAGES, CAPTIONS)
    found = labelgen.soft_labels(even, IMAGES, CAPTIONS, patch=patch)
    assert np.argwhere(found.same_image & ~plain.same_image).tolist() == [[0, 1]]
    assert found.relevance[0, 1] == 1
    expected = np.ones((6, 6), bool)
    expected[1, 2] = expected[2, 2] = False  # masked, the own pair too
    expected[:, 3] = False  # the dropped caption
    expected[4, :] = expected[:, 4] = False  # the dropped image and its caption
    assert np.array_equal(found.where, expected)
    untouched = ~(found.same_image & ~plain.same_image)
    assert np.array_equal(found.relevance[untouched], plain.relevance[untouched])
    assert np.array_equal(found.i2t, plain.i2t)


@pytest.mark.parametrize(
    "scheme",
    ["bcls()", "rsc()", "cusa(mode='add')", "fine_grained()", "fused(by=\"mean(of=['i2t.text', 'i2i.image'])\")"],
)
def test_every_scheme_takes_it(even: Store, patch: Patch, scheme: str) -> None:
    found = labelgen.soft_labels(even, IMAGES, CAPTIONS, scheme=scheme, patch=patch)
    assert found.relevance[0, 1] == 1
    assert found.same_image[0, 1]
    assert not found.where[1, 2]
    if found.relevance_t2i is not None:
        assert found.relevance_t2i[1, 0] == 1


def test_a_file_and_bound_decisions_are_the_same(even: Store, patch: Patch, tmp_path: Path) -> None:
    file = patches.write(patch, tmp_path / "patch.parquet")
    expected = labelgen.soft_labels(even, IMAGES, CAPTIONS, patch=patch)
    for given in (file, str(file), patches.bind(patch, even)):
        found = labelgen.soft_labels(even, IMAGES, CAPTIONS, patch=given)
        assert all(np.array_equal(array, expected.arrays()[name]) for name, array in found.arrays().items())


def test_unknown_ids_stay_unknown(even: Store, patch: Patch) -> None:
    """Row 0 stands in for an id that is not in the store: what the patch says of img-0 is not said of it."""
    found = labelgen.soft_labels(even, ["nobody", "img-0"], ["cap-5", "nothing"], missing="mask", patch=patch)
    assert found.where.tolist() == [[False, False], [True, False]]
    assert found.same_image.tolist() == [[True, False], [True, True]]  # the diagonal: pairs stay pairs


def test_collate_and_adapters(even: Store, patch: Patch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = patches.write(patch, tmp_path / "patch.json")
    samples = [{"image_id": image, "caption_id": caption} for image, caption in zip(IMAGES, CAPTIONS, strict=True)]
    collate = SoftLabelCollate(even, patch=file)
    soft = pickle.loads(pickle.dumps(collate))(samples)["soft_labels"]
    assert isinstance(soft.where, torch.Tensor)
    expected = labelgen.soft_labels(even, IMAGES, CAPTIONS, patch=patch)
    assert np.array_equal(soft.where.numpy(), expected.where)
    added = AddSoftLabels(even, patch=patch)({"image_id": IMAGES, "caption_id": CAPTIONS})["soft_labels"]
    assert np.array_equal(added.same_image, expected.same_image)


@pytest.mark.parametrize("relation", ["i2t", "t2i", "t2t", "i2i"])
def test_negatives_are_never_what_the_patch_speaks_of(even: Store, relation: str) -> None:
    """Every first neighbour is added, every second one masked, some third ones are dropped: none of them is drawn."""
    listed = even.neighbors(relation)
    names = {"image": even.image_ids, "caption": even.caption_ids}
    query, candidate = ("image", "caption") if relation == "i2t" else ("caption", "image")
    decisions: list[dict[str, Any]] = []
    if relation in ("i2t", "t2i"):
        for place, decision in ((0, "add_positive"), (1, "mask_pair")):
            for row in range(20):
                items = {query: names[query]([row])[0], candidate: names[candidate]([listed.rows[row, place]])[0]}
                decisions.append({"decision": decision, **{f"{kind}_id": item for kind, item in items.items()}})
    side = {"i2t": "caption", "t2i": "image", "t2t": "caption", "i2i": "image"}[relation]
    spoken = {item for row in decisions for item in (row["image_id"], row["caption_id"])}
    free = [item for item in names[side](np.unique(listed.rows[:5, 2])) if item not in spoken]
    decisions += [{"decision": f"drop_{side}", f"{side}_id": item} for item in free]
    plain = HardNegatives(even, relation, n=3, threshold=1.0, choice="hardest")(rows=range(20))
    found = HardNegatives(even, relation, n=3, threshold=1.0, choice="hardest", patch=Patch.of(even, decisions))(
        rows=range(20)
    )
    gone = set(even.image_rows(free) if side == "image" else even.caption_rows(free))
    assert gone & set(plain.rows.ravel().tolist())
    assert not gone & set(found.rows.ravel().tolist())
    if relation in ("i2t", "t2i"):
        assert not (found.rows[:, :, None] == listed.rows[:20, None, :2]).any()


def test_patches_of_other_stores(even: Store, store: Store, patch: Patch, tmp_path: Path) -> None:
    with pytest.raises(StoreMismatchError, match="another store"):
        labelgen.soft_labels(store, ["img-0"], ["cap-0"], patch=patch)
    with pytest.raises(StoreMismatchError, match="another store"):
        labelgen.soft_labels(store, ["img-0"], ["cap-0"], patch=patches.bind(patch, even))
    with pytest.raises(UnknownIdError, match="1 captions"):
        SoftLabelCollate(even, patch=Patch.of(even, [{"decision": "drop_caption", "caption_id": "cap-999"}]))
    (tmp_path / "broken.json").write_text('{"format": 1}')
    with pytest.raises(DatasetError, match="not a patch"):
        HardNegatives(even, threshold=1.0, patch=tmp_path / "broken.json")
    with pytest.raises(DatasetError, match="cannot read the patch"):
        SoftLabelCollate(even, patch=tmp_path / "absent.json")


def test_ids_that_the_store_does_not_hold_get_nothing_of_a_patch(even: Store, patch: Patch) -> None:
    """Row 0 stands in for an unknown id: the patch's decision about image 0 is not about it."""
    images, captions = ["nobody", "img-1", "img-0"], ["cap-0", "cap-5", "cap-6"]
    found = labelgen.soft_labels(even, images, captions, missing="mask", patch=patch)
    assert not found.where[0].any()
    assert not found.same_image[0, 1], "img-0 / cap-5 is added, nobody / cap-5 is not"
    assert found.same_image[2, 1]


def test_an_added_pair_counts_in_the_labels_of_both_directions(even: Store, patch: Patch) -> None:
    """A scheme with labels of its own for captions: entry (caption 1, image 0) is the added pair."""
    plain = labelgen.soft_labels(even, IMAGES, CAPTIONS, scheme="bcls(transform=['relu', 'softmax'])")
    found = labelgen.soft_labels(even, IMAGES, CAPTIONS, scheme="bcls(transform=['relu', 'softmax'])", patch=patch)
    assert plain.relevance_t2i is not None
    assert found.relevance_t2i is not None
    assert found.relevance_t2i[1, 0] == found.relevance[0, 1] == 1
    changed = np.argwhere(found.relevance_t2i != plain.relevance_t2i).tolist()
    assert changed == [[1, 0]]
