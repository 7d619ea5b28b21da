"""Tar shards in the WebDataset convention."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from labelgen.corpus.adapters.tar_shards import WebDataset
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.corpus.photos.photos import decode_photo, probe_photo, read_photo
from labelgen.errors import DatasetError, UnknownNameError


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is a parameter
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def picture(size: tuple[int, int] = (4, 3)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_shards(tmp_path: Path) -> None:
    write(
        tmp_path / "00000.tar",
        {
            "000000001.jpg": picture(),
            "000000001.txt": b"a cat\n",
            "000000001.json": json.dumps({"caption": "a cat", "url": "u"}).encode(),  # img2dataset repeats it
            "000000000.png": picture((9, 2)),
            "000000000.json": json.dumps({"caption": ["one", "two"]}).encode(),
            "a.b/x.seg.png": picture(),  # another member of sample a.b/x, no picture of it
            "a.b/x.webp": picture(),
            "only.txt": b"caf\xe9",
        },
    )
    write(tmp_path / "00001.tar", {"000000007.jpeg": picture(), "__key__": b"x"})
    adapter = WebDataset(tmp_path)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert records.photos == tmp_path
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == ["000000001", "000000000", "a.b/x", "only", "000000007"]
    assert corpus.images["file"].to_list() == [
        "00000.tar::000000001.jpg",
        "00000.tar::000000000.png",
        "00000.tar::a.b/x.webp",
        None,
        "00001.tar::000000007.jpeg",
    ]
    assert corpus.captions["text"].to_list() == ["a cat", "one", "two", "caf\ufffd"]
    assert corpus.captions["caption_id"].to_list() == ["000000001#0", "000000000#0", "000000000#1", "only#0"]
    assert corpus.captions["status"].to_list() == ["ok", "ok", "ok", "not_utf8"]
    assert probe_photo(tmp_path, corpus.images["file"][1]) == (9, 2)
    assert decode_photo(read_photo(tmp_path, corpus.images["file"][0])).getpixel((0, 0)) == (255, 0, 0)


def test_splits_of_shards(tmp_path: Path) -> None:
    names = ["train/0.tar", "val-00001.tar", "coco_x/test_0.tar", "training.tar", "latest/0.tar"]
    for number, name in enumerate(names):
        write(tmp_path / name, {f"{number}.txt": b"text"})
    split = {str(image.image_id): image.split for image in WebDataset(tmp_path).read().images}
    assert split == {"0": "train", "1": "val", "2": "test", "3": "train", "4": "train"}


def test_keys_that_repeat(tmp_path: Path) -> None:
    for shard in ("a.tar", "b.tar"):
        write(tmp_path / shard, {"0.jpg": picture(), "0.txt": b"x"})
    with pytest.raises(DatasetError, match="image ids occur more than once"):
        arrange(WebDataset(tmp_path).read())
    corpus = arrange(WebDataset(tmp_path, ids="shard/key").read())
    assert corpus.images["image_id"].to_list() == ["a/0", "b/0"]
    assert corpus.captions["caption_id"].to_list() == ["a/0#0", "b/0#0"]
    with pytest.raises(UnknownNameError, match="kind of ids"):
        WebDataset(tmp_path, ids="keys")


def test_caption_field(tmp_path: Path) -> None:
    record = json.dumps({"caption": "one", "captions": ["two", "three"], "alt": "four"}).encode()
    write(tmp_path / "a.tar", {"0.json": record})
    for field, texts in {"caption": ["one"], "captions": ["two", "three"], "alt": ["four"], "none": []}.items():
        records = WebDataset(tmp_path, caption_field=field).read()
        assert [caption.text for caption in records.captions] == texts


def test_captions_as_a_list_under_the_plural(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"0.json": json.dumps({"captions": ["two", "three"]}).encode()})
    assert [caption.text for caption in WebDataset(tmp_path).read().captions] == ["two", "three"]


@pytest.mark.parametrize("name", ["/etc/x.jpg", "../x.jpg"])
def test_unsafe_members(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.tar", {name: picture()})
    with pytest.raises(DatasetError, match="not safe"):
        arrange(WebDataset(tmp_path).read())


def test_damaged_shards(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not the data set 'webdataset'"):
        WebDataset(tmp_path).read()
    write(tmp_path / "a.tar", {"0.json": b"{"})
    with pytest.raises(DatasetError, match=r"a.tar::0.json is not JSON"):
        WebDataset(tmp_path).read()
    write(tmp_path / "a.tar", {"0.txt": b"x" * 5000}, "w:gz")
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        WebDataset(tmp_path).read()
    write(tmp_path / "a.tar", {"0.txt": b"x" * 5000, "1.txt": b"y" * 5000})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:8000])
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        WebDataset(tmp_path).read()
