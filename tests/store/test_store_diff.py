"""What differs between two stores, to the row."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labelgen.errors import StoreNotFoundError
from labelgen.store.diff import ArrayDiff, Diff, Named, diff
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.parquet import write_frame
from labelgen.store.disk.shards import write_array
from labelgen.store.manifest import content_digest, load_manifest, save_manifest
from labelgen.testing.stores import make_store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("diff") / "a")


@pytest.fixture
def other(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(original, tmp_path / "b")
    return tmp_path / "b"


def rewritten(root: Path, path: str, change: Callable[[Any], Any]) -> None:
    """Write an array or table of a store again with changed values, and seal the store with it."""
    manifest = load_manifest(root)
    if path.endswith(".parquet"):
        facts = {path: write_frame(root / path, change(pl.read_parquet(root / path)))}
    else:
        spec = next(spec for spec in manifest.arrays() if spec.path == path)
        rows = np.array(MappedArray(root, spec).slice(0, spec.shape[0]))
        facts = write_array(root, spec, change(rows))
    files = {**manifest.files, **facts}
    save_manifest(root, dataclasses.replace(manifest, files=files, content_digest=content_digest(files)))


def added(rows: Any, places: list[int], column: int, number: float) -> Any:
    changed = rows.copy()
    changed[places, column] += number
    return changed


def differing(found: Diff) -> dict[str, ArrayDiff]:
    return {array.name: array for array in (*found.embeddings, *found.neighbors) if not array.equal}


def test_equal_stores(original: Path, tmp_path: Path) -> None:
    found = diff(original, make_store(tmp_path / "again"))
    assert found.equal
    assert differing(found) == {}
    assert found.corpus.equal_items
    assert found.corpus.same_rows
    assert (found.recipe, found.teachers, found.libraries, found.machine) == ((), (), (), ())
    assert found.files.count == 0
    assert {array.name: array.compared for array in (*found.embeddings, *found.neighbors)} == {
        "text/text": 60, "image/image": 12,
        "t2t.text.max.split": 60, "i2t.text.max.split": 12, "t2i.text.max.split": 60, "i2i.image.max.split": 12,
    }  # fmt: skip


def test_rows_of_embeddings(original: Path, other: Path) -> None:
    rewritten(other, "embeddings/text/text", lambda rows: added(rows, [3, 41], 0, 0.25))
    found = diff(original, other)
    assert not found.equal
    (array,) = differing(found).values()
    assert (array.name, array.differing) == ("text/text", Named(2, (3, 41)))
    assert array.largest == pytest.approx(0.25, abs=1e-3)  # float16 keeps about three digits
    assert found.files.first == ("embeddings/text/text/c/0/0",)


def test_only_the_first_ten_rows_are_named(original: Path, other: Path) -> None:
    rewritten(other, "embeddings/text/text", lambda rows: added(rows, list(range(20, 50)), 0, 0.5))
    array = differing(diff(original, other))["text/text"]
    assert array.differing == Named(30, tuple(range(20, 30)))


def test_rows_of_neighbour_lists(original: Path, other: Path) -> None:
    def swapped(ids: Any) -> Any:
        ids = ids.copy()
        ids[5, [0, 1]] = ids[5, [1, 0]]
        return ids

    rewritten(other, "neighbors/i2i.image.k4/ids", swapped)
    rewritten(other, "neighbors/t2t.text.k4/scores", lambda rows: added(rows, [7], 2, -0.125))
    found = differing(diff(original, other))
    assert set(found) == {"i2i.image.max.split", "t2t.text.max.split"}
    assert (found["i2i.image.max.split"].differing, found["i2i.image.max.split"].largest) == (Named(1, (5,)), 0.0)
    assert found["t2t.text.max.split"].differing == Named(1, (7,))
    assert found["t2t.text.max.split"].largest == pytest.approx(0.125, abs=1e-6)


def test_items_are_matched_by_id(original: Path, other: Path) -> None:
    """The images of rows 0 and 1 change places, with everything that belongs to them."""
    order = [1, 0, *range(2, 12)]

    def exchanged(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(image_id=frame["image_id"].gather(order))

    def renamed(ids: Any) -> Any:
        return np.where(ids == 0, 1, np.where(ids == 1, 0, ids)).astype(ids.dtype)[order]

    rewritten(other, "corpus/images.parquet", exchanged)
    rewritten(other, "embeddings/image/image", lambda rows: rows[order])
    rewritten(other, "neighbors/i2i.image.k4/ids", renamed)
    rewritten(other, "neighbors/i2i.image.k4/scores", lambda rows: rows[order])
    found = diff(original, other)
    assert not found.equal
    assert found.corpus.equal_items
    assert not found.corpus.same_rows
    compared = {array.name: array for array in (*found.embeddings, *found.neighbors)}
    assert compared["image/image"] == ArrayDiff("image/image", compared=12)
    assert compared["i2i.image.max.split"] == ArrayDiff("i2i.image.max.split", compared=12)


def test_texts_and_splits(original: Path, other: Path) -> None:
    def shouted(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            text=pl.when(pl.col("caption_row") == 4).then(pl.lit("other")).otherwise(pl.col("text"))
        )

    def moved(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            split=pl.when(pl.col("image_row") == 8).then(pl.lit("val")).otherwise(pl.col("split"))
        )

    rewritten(other, "corpus/captions.parquet", shouted)
    rewritten(other, "corpus/images.parquet", moved)
    corpus = diff(original, other).corpus
    assert corpus.changed_texts == Named(1, ("cap-4",))
    assert corpus.changed_splits == Named(1, ("img-8",))


def test_another_corpus_teacher_and_k(original: Path, tmp_path: Path) -> None:
    found = diff(original, make_store(tmp_path / "c", n_images=10, dims={"text": 8, "clip": 4}, k=3))
    assert found.corpus.images_only_a == Named(2, ("img-10", "img-11"))
    assert found.corpus.images_only_b == Named(0)
    assert found.corpus.captions_only_a == Named(10, tuple(f"cap-{row}" for row in range(50, 60)))
    notes = {array.name: array.note for array in (*found.embeddings, *found.neighbors)}
    assert notes["text/text"] == "16 numbers a row in A, 8 in B"
    assert (notes["image/image"], notes["clip/text"]) == ("only in A", "only in B")
    assert notes["t2t.text.max.split"] == "k is 4 and 3: the first 3 compared"
    assert "teachers.image: random(dim=8) -> (none)" in found.recipe
    assert any(line.startswith("text.dim: 16 -> 8") for line in found.teachers)


def test_a_longer_list_of_the_same_rows_differs_in_length_only(original: Path, tmp_path: Path) -> None:
    found = diff(original, make_store(tmp_path / "longer", k=6))
    for array in differing(found).values():
        assert (array.differing.count, array.note) == (0, "k is 4 and 6: the first 4 compared")


def test_it_is_plain_json(original: Path, tmp_path: Path) -> None:
    found = diff(original, make_store(tmp_path / "c", seed=1))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["a"], data["equal"]) == (str(original), False)


def test_a_folder_that_is_no_store(original: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        diff(original, tmp_path / "none")
