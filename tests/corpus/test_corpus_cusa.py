"""CUSA's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelgen.corpus.adapters.cusa import Cusa
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError


def write(folder: Path, **splits: list[tuple[object, str, object]]) -> None:
    for split, entries in splits.items():
        content = [{"image_path": path, "caption": text, "image_id": image_id} for image_id, path, text in entries]
        (folder / f"new_{split}.json").write_text(json.dumps(content))


def test_reading(tmp_path: Path) -> None:
    write(
        tmp_path,
        train=[
            ("b.jpg", "./pics/b.jpg", "b one"),
            ("a.jpg", "./pics/a.jpg", "a one"),
            ("b.jpg", "./pics/b.jpg", "b two"),
        ],
        test=[(7, "./pics/sub/7.jpg", "")],
    )
    adapter = Cusa(tmp_path)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert records.photos is None
    assert [path.name for path in records.sources] == ["new_train.json", "new_test.json"]
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == ["b.jpg", "a.jpg", "7"]
    assert corpus.images["file"].to_list() == ["b.jpg", "a.jpg", "sub/7.jpg"]
    assert corpus.splits == {"train": (0, 2), "test": (2, 3)}
    assert corpus.captions["caption_id"].to_list() == ["b.jpg#0", "b.jpg#1", "a.jpg#0", "7#0"]
    assert corpus.captions["text"].to_list() == ["b one", "b two", "a one", ""]
    assert corpus.quarantine["id"].to_list() == ["7#0"]


@pytest.mark.parametrize("name", ["pics", "images"])
def test_photographs(tmp_path: Path, name: str) -> None:
    write(tmp_path, val=[("a", "./pics/a.jpg", "x")])
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.jpg").write_bytes(b"x")
    assert Cusa(tmp_path).read().photos == tmp_path / name


def test_an_image_in_two_splits_is_a_duplicate(tmp_path: Path) -> None:
    write(tmp_path, train=[("a", "./pics/a.jpg", "x")], val=[("a", "./pics/a.jpg", "y")])
    with pytest.raises(DatasetError, match="image ids occur more than once"):
        arrange(Cusa(tmp_path).read())


def test_an_image_with_two_files(tmp_path: Path) -> None:
    write(tmp_path, train=[("a", "./pics/a.jpg", "x"), ("a", "./pics/b.jpg", "y")])
    with pytest.raises(DatasetError, match="two files"):
        Cusa(tmp_path).read()


@pytest.mark.parametrize("path", ["/pics/a.jpg", "./pics/../a.jpg", "../a.jpg", "pics\\a.jpg"])
def test_unsafe_paths(tmp_path: Path, path: str) -> None:
    write(tmp_path, train=[("a", path, "x")])
    with pytest.raises(DatasetError, match="not safe"):
        arrange(Cusa(tmp_path).read())


def test_other_forms(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not the data set 'cusa'"):
        Cusa(tmp_path).read()
    (tmp_path / "new_val.json").write_text('[{"image": "a.jpg", "caption": "x"}]')
    with pytest.raises(DatasetError, match=r"entry 0 of new_val.json has no field 'image_id'"):
        Cusa(tmp_path).read()
    write(tmp_path, val=[("a", "./pics/a.jpg", ["x", "y"])])
    with pytest.raises(DatasetError, match="not text"):
        Cusa(tmp_path).read()
    (tmp_path / "new_val.json").write_text("[]")
    with pytest.raises(DatasetError, match="empty"):
        arrange(Cusa(tmp_path).read())
