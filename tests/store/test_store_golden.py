"""A store that format 1 wrote once stays readable, with the same numbers, for as long as there is format 1.

`tests/data/golden_v1` was made by `make_store(path, n_images=6, captions_per_image=[2, 0, 3, 1, 5, 4], seed=1, k=3,
dims={"text": 8, "image": 4, "clip": 6}, missing_images=[4], missing_captions=[5])`. It is never made anew: a change
that breaks these tests is a new format.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen.store.reader import Store
from labelgen.store.schema.validation import schema_problems
from labelgen.store.verify.store import verify
from labelgen.types import PAD_ROW

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden_v1"
NOTHING = [float("-inf")] * 3


@pytest.fixture(scope="module")
def store() -> Store:
    return labelgen.open(GOLDEN)


def test_it_is_whole() -> None:
    report = verify(GOLDEN)
    assert report.problems == ()
    assert report.content_digest == "18146263d0b7b63e17c657e387a19a70"
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000


def test_its_documents_follow_the_schemas() -> None:
    assert schema_problems(json.loads((GOLDEN / "manifest.json").read_text()), "manifest.v1") == []
    for receipt in (GOLDEN / "receipts").rglob("*.json"):
        assert schema_problems(json.loads(receipt.read_text()), "receipt.v1") == []


def test_items(store: Store) -> None:
    assert store.splits == {"train": range(5), "val": range(5, 6)}
    assert store.offsets.tolist() == [0, 2, 2, 5, 6, 11, 15]
    assert store.image_rows(["img-5", "img-0"]).tolist() == [5, 0]
    assert store.caption_ids([14]) == ["cap-14"]
    assert store.captions["text"][14] == "text number 11"
    assert store.quarantine.select("kind", "row", "reason").rows() == [
        ("image", 4, "truncated"),
        ("caption", 5, "blank"),
    ]


def test_embeddings(store: Store) -> None:
    first = [
        -0.40283203125, 0.50048828125, 0.033203125, -0.244384765625, -0.6533203125, -0.2149658203125, 0.006805419921875,
        -0.2303466796875,
    ]  # fmt: skip
    assert store.embeddings("text").take(np.array([0])).tolist() == [first]
    assert not store.embeddings("clip", "image").take(np.array([4])).any()


def test_blocks(store: Store) -> None:
    rows = {"image_rows": [0, 4], "caption_rows": [0, 6, 14], "alias": "text"}
    assert store.block("i2t", **rows).tolist() == [
        [1.0, -0.22023829817771912, 0.4414655268192291],
        [-0.016307339072227478, 1.0, 0.6108019351959229],
    ]
    assert store.block("i2t", **rows, aggregation="mean").tolist() == [
        [0.5684739351272583, -0.37646275758743286, 0.10985226929187775],
        [-0.2248779535293579, 0.1888677179813385, -0.12870711088180542],
    ]
    assert store.block("t2t", caption_rows=[0, 6], alias="clip")[0, 1] == np.float32(-0.45800167322158813)


def test_neighbours(store: Store) -> None:
    texts = store.neighbors("t2t", rows=[0, 14], alias="text")
    assert texts.rows.tolist() == [[4, 7, 8], [PAD_ROW] * 3]  # image 5 is alone in its split
    assert texts.scores.tolist() == [[0.19909445941448212, -0.016307339072227478, -0.17550379037857056], NOTHING]
    assert texts.next.tolist() == [-0.22023829817771912, float("-inf")]
    images = store.neighbors("t2i", ["cap-0"], alias="clip")
    assert images.rows.tolist() == [[3, 1, 2]]
    assert images.next.tolist() == [float("-inf")]
