"""Single items of a store as plain data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelgen.errors import ConfigError, UnknownIdError, UnknownNameError
from labelgen.store.inspect import Item, examples, inspect_caption, inspect_image, overview
from labelgen.store.reader import Store, open_store
from labelgen.testing.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = make_store(tmp_path_factory.mktemp("inspect") / "s", missing_images=[2], missing_captions=[7])
    return open_store(path)


def test_an_image_with_its_captions(store: Store) -> None:
    item = inspect_image(store, "img-1")
    assert (item.kind, item.id, item.row, item.split, item.status) == ("image", "img-1", 1, "train", "ok")
    assert (item.file, item.width, item.height, item.category) == ("photos/0001.jpg", 640, 480, None)
    assert [(caption.caption_row, caption.caption_id) for caption in item.captions] == [
        (row, f"cap-{row}") for row in range(5, 10)
    ]
    assert item.captions[2].status == "blank"
    assert [listed.relation for listed in item.lists] == ["i2t", "i2i"]


def test_lists_are_those_of_the_store(store: Store) -> None:
    for listed in inspect_image(store, "img-1", k=3).lists:
        stored = store.neighbors(listed.relation, ["img-1"], k=3)
        assert [neighbor.row for neighbor in listed.neighbors] == stored.rows[0].tolist()
        assert [neighbor.score for neighbor in listed.neighbors] == stored.scores[0].tolist()
        assert listed.next == stored.next[0]


def test_neighbours_that_are_captions_carry_text_and_image(store: Store) -> None:
    (listed,) = inspect_image(store, "img-1", relations=["i2t"]).lists
    for neighbor in listed.neighbors:
        assert neighbor.id == f"cap-{neighbor.row}"
        assert neighbor.text == store.captions["text"][neighbor.row]
        assert neighbor.image_id == f"img-{neighbor.row // 5}"
        assert neighbor.file == f"photos/{neighbor.row // 5:04d}.jpg"


def test_neighbours_that_are_images_carry_their_first_caption(store: Store) -> None:
    (listed,) = inspect_caption(store, "cap-12", relations=["t2i.text"]).lists
    for neighbor in listed.neighbors:
        assert neighbor.id == f"img-{neighbor.row}"
        assert neighbor.text == store.captions["text"][5 * neighbor.row]


def test_a_caption_with_its_image(store: Store) -> None:
    item = inspect_caption(store, "cap-12")
    assert (item.kind, item.id, item.row, item.image_id) == ("caption", "cap-12", 12, "img-2")
    assert [caption.caption_id for caption in item.captions] == ["cap-12"]
    assert [listed.relation for listed in item.lists] == ["t2t", "t2i"]
    assert item.status == "ok"  # its image is quarantined, it is not


def test_an_item_without_an_embedding_has_empty_lists(store: Store) -> None:
    image = inspect_image(store, "img-2")
    assert image.status == "truncated"
    lists = {listed.relation: listed.neighbors for listed in image.lists}
    assert lists["i2i"] == ()
    assert len(lists["i2t"]) == 4  # by its captions, which are there
    caption = inspect_caption(store, "cap-7")
    assert caption.status == "blank"
    assert all(listed.neighbors == () for listed in caption.lists)


def test_by_default_five_neighbours_or_all_there_are(tmp_path: Path) -> None:
    long = open_store(make_store(tmp_path / "long", k=8))
    assert [len(listed.neighbors) for listed in inspect_image(long, "img-0").lists] == [5, 5]
    assert [len(listed.neighbors) for listed in inspect_image(long, "img-0", k=8).lists] == [8, 8]
    short = open_store(make_store(tmp_path / "short", k=2))
    assert [len(listed.neighbors) for listed in inspect_image(short, "img-0").lists] == [2, 2]


def test_all_are_listed_where_the_split_is_small(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "s", n_images=4, k=64))
    i2i = inspect_image(store, "img-0", relations=["i2i"], k=64).lists[0]
    assert len(i2i.neighbors) == 2  # three images in train, itself left out
    assert i2i.next == float("-inf")
    assert inspect_image(store, "img-0", relations=["i2i"]).to_json()["lists"][0]["next"] is None


@pytest.mark.parametrize(
    ("relations", "k", "error"),
    [
        (["t2t"], None, UnknownNameError),
        (["i2t.clip"], None, UnknownNameError),
        ([], 0, ConfigError),
        ([], 5, ConfigError),
    ],
)
def test_what_cannot_be_answered(store: Store, relations: list[str], k: int | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        inspect_image(store, "img-1", relations=relations, k=k)


def test_unknown_ids(store: Store) -> None:
    with pytest.raises(UnknownIdError, match="cap-99"):
        inspect_caption(store, "cap-99")
    with pytest.raises(UnknownIdError, match="img-99"):
        inspect_image(store, "img-99")


def test_examples_are_random_images_that_a_seed_fixes(store: Store) -> None:
    drawn = examples(store, count=4, k=2, seed=3)
    assert drawn == examples(store, count=4, k=2, seed=3)
    assert drawn != examples(store, count=4, k=2, seed=4)
    assert [item.row for item in drawn] == sorted({item.row for item in drawn})
    assert all(len(item.lists) == 1 and len(item.lists[0].neighbors) == 2 for item in drawn)
    assert len(examples(store, count=99)) == 12


def lists_of(item: Item) -> list[str]:
    return [listed.relation for listed in item.lists]


def test_examples_where_there_are_no_captions_or_no_lists_of_images(tmp_path: Path) -> None:
    bare = open_store(make_store(tmp_path / "bare", captions_per_image=0, dims={"image": 4}))
    assert all(lists_of(item) == ["i2i"] and item.captions == () for item in examples(bare))


def test_everything_is_plain_json(store: Store) -> None:
    facts = overview(store)
    assert (facts["images"], facts["captions"], facts["splits"]) == (12, 60, {"train": 9, "val": 3})
    assert facts["quarantined"] == [
        {"stage": "embed", "reason": "truncated", "count": 1},
        {"stage": "ingest", "reason": "blank", "count": 1},
    ]
    json.dumps([facts, inspect_image(store, "img-2").to_json()], allow_nan=False)
