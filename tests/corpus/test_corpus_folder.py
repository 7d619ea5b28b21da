"""Folders of photographs with text files or captions.jsonl."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from labelgen.corpus.adapters.folder import Folder
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError


def touch(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def test_text_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        {
            "00000/000000001.jpg": b"x",
            "00000/000000001.txt": b"a cat",
            "00000/000000000.PNG": b"x",
            "00000/000000000.txt": b"two lines\nof one caption\r\n",
            "00000/000000002.webp": b"x",
            "00000/000000003.jpg": b"x",
            "00000/000000003.txt": b"caf\xe9",
            "00000/000000004.jpg": b"x",
            "00000/000000004.txt": b"",
            "00000.parquet": b"x",
            "README.txt": b"not a caption",
            ".hidden/a.jpg": b"x",
        },
    )
    adapter = Folder(tmp_path)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert records.photos == tmp_path
    corpus = arrange(records)
    names = ["000000000.PNG", "000000001.jpg", "000000002.webp", "000000003.jpg", "000000004.jpg"]
    assert corpus.images["image_id"].to_list() == [f"00000/{name}" for name in names]
    assert corpus.images["file"].to_list() == corpus.images["image_id"].to_list()
    assert corpus.images["n_captions"].to_list() == [1, 1, 0, 1, 1]
    assert corpus.captions["text"].to_list() == ["two lines\nof one caption", "a cat", "caf\ufffd", ""]
    assert corpus.captions["status"].to_list() == ["ok", "ok", "not_utf8", "blank"]
    assert corpus.captions["caption_id"][1] == "00000/000000001.jpg#0"


def test_splits_are_folders(tmp_path: Path) -> None:
    touch(tmp_path, {f"{split}/a.jpg": b"x" for split in ("train", "val", "test", "more")})
    touch(tmp_path, {"test.jpg": b"x", "test/a.txt": b"text"})
    corpus = arrange(Folder(tmp_path).read())
    assert corpus.images["image_id"].to_list() == ["more/a.jpg", "test.jpg", "train/a.jpg", "val/a.jpg", "test/a.jpg"]
    assert corpus.splits == {"train": (0, 3), "val": (3, 4), "test": (4, 5)}


def test_captions_jsonl(tmp_path: Path) -> None:
    lines = [
        {"file": "b.jpg", "captions": ["one", "two"]},
        {"file": "./a.jpg", "caption": "three"},
        {"file": "gone.jpg", "caption": "of a missing photograph"},
        {"file": "c.jpg", "captions": []},
        {"file": "d.jpg"},
    ]
    touch(tmp_path, {"a.jpg": b"x", "b.jpg": b"x", "c.jpg": b"x", "a.txt": b"zero"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = Folder(tmp_path).read()
    assert records.sources == [tmp_path / "captions.jsonl"]
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == ["a.jpg", "b.jpg", "c.jpg", "gone.jpg", "d.jpg"]
    assert corpus.images["n_captions"].to_list() == [2, 2, 0, 1, 0]
    assert corpus.captions["text"].to_list() == ["zero", "three", "one", "two", "of a missing photograph"]
    assert corpus.captions["caption_id"].to_list() == ["a.jpg#0", "a.jpg#1", "b.jpg#0", "b.jpg#1", "gone.jpg#0"]


@pytest.mark.parametrize("file", ["../a.jpg", "/a.jpg", 3, None])
def test_captions_jsonl_with_unsafe_names(tmp_path: Path, file: object) -> None:
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": file, "caption": "x"}))
    with pytest.raises(DatasetError, match=r"line 1 of captions\.jsonl has an unsafe file name"):
        Folder(tmp_path).read()


def test_captions_jsonl_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": 3, "text": "x"}')
    with pytest.raises(DatasetError, match="not of this form") as caught:
        Folder(tmp_path).read()
    assert "dataset 'table'" in caught.value.todo
    (tmp_path / "captions.jsonl").write_text('{"file": "a.jpg", "captions": {"a": 1}}')
    with pytest.raises(DatasetError, match="not a list"):
        Folder(tmp_path).read()


def test_links_are_followed_once(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    touch(disk, {"a.jpg": b"x", "a.txt": b"text"})
    (tmp_path / "train").symlink_to(disk, target_is_directory=True)
    (disk / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [image.file for image in Folder(tmp_path).read().images] == ["train/a.jpg"]


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "real", {"a.jpg": b"x", "a.txt": b"text"})
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    records = Folder(tmp_path / "link").read()
    assert records.photos == tmp_path / "link"
    assert len(records.images) == 1


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.txt": b"text"})
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(DatasetError, match="not UTF-8"):
        arrange(Folder(tmp_path).read())


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        Folder(tmp_path / "nowhere").read()
    touch(tmp_path, {"images/a.jpg": b"x", "Flickr8k.token.txt": b"x"})
    with pytest.raises(DatasetError, match="try dataset 'flickr8k'"):
        Folder(tmp_path).read()
