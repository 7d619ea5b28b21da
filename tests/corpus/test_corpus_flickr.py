"""Flickr8k and Flickr30k: token files with lists, Karpathy's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelgen.corpus.adapters.flickr import Flickr8k, Flickr30k
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError, UnknownNameError

TOKENS = (
    b"3_c.jpg#0\tA dog .\n"
    b"3_c.jpg#1\tA tab\tinside .\r\n"
    b"2258277193_586949ec62.jpg.1#0\tpeople waiting\n"
    b"1_a.jpg#0\tcaf\xe9\n"
    b"1_a.jpg#1\t \n"
    b"2_b.jpg#0\tA cat .\n"
)


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    (tmp_path / "Flickr8k.token.txt").write_bytes(TOKENS)
    for name, images in {"train": "1_a.jpg\n2_b.jpg\n", "dev": "3_c.jpg\r\n\n", "test": "4_d.jpg\n"}.items():
        (tmp_path / f"Flickr_8k.{name}Images.txt").write_text(images)
    return tmp_path


def karpathy(path: Path) -> None:
    images = [
        {
            "filename": f"{image}.jpg",
            "imgid": number,
            "split": split,
            "sentids": [2 * number, 2 * number + 1],
            "sentences": [
                {"raw": f"{word} {image}", "sentid": 2 * number + n} for n, word in enumerate(("one", "two"))
            ],
        }
        for number, (image, split) in enumerate([("1000092795", "test"), ("10002456", "train")])
    ]
    path.write_text(json.dumps({"images": images, "dataset": "flickr30k"}))


def test_flickr8k(flickr8k: Path) -> None:
    adapter = Flickr8k(flickr8k)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert len(records.sources) == 4
    corpus = arrange(records)
    # Order of the token file inside a split; 4_d is named by a list only and has no captions.
    assert corpus.images["image_id"].to_list() == ["1_a", "2_b", "3_c", "4_d", "2258277193_586949ec62"]
    assert corpus.images["split"].to_list() == ["train", "train", "val", "test", "unassigned"]
    assert corpus.images["file"].to_list()[3:] == ["4_d.jpg", "2258277193_586949ec62.jpg.1"]
    assert corpus.images["n_captions"].to_list() == [2, 1, 2, 0, 1]
    assert corpus.captions["caption_id"].to_list() == [
        "1_a.jpg#0",
        "1_a.jpg#1",
        "2_b.jpg#0",
        "3_c.jpg#0",
        "3_c.jpg#1",
        "2258277193_586949ec62.jpg.1#0",
    ]
    assert corpus.captions["status"].to_list() == ["not_utf8", "blank", "ok", "ok", "ok", "ok"]
    assert corpus.captions["text"][4] == "A tab\tinside ."
    assert corpus.quarantine["reason"].to_list() == ["not_utf8", "blank"]


@pytest.mark.parametrize("name", ["images", "Flicker8k_Dataset"])
def test_flickr8k_photographs(flickr8k: Path, name: str) -> None:
    assert Flickr8k(flickr8k).read().photos is None
    (flickr8k / name).mkdir()
    assert Flickr8k(flickr8k).read().photos == flickr8k / name


def test_photographs_may_be_a_link(flickr8k: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    (disk / "1_a.jpg").write_bytes(b"x")
    (flickr8k / "images").symlink_to(disk, target_is_directory=True)
    (flickr8k / "Images").mkdir()
    assert Flickr8k(flickr8k).read().photos == flickr8k / "images"


def test_the_folder_that_holds_the_files_wins(flickr8k: Path) -> None:
    (flickr8k / "images").mkdir()
    (flickr8k / "Flicker8k_Dataset").mkdir()
    (flickr8k / "Flicker8k_Dataset" / "1_a.jpg").write_bytes(b"x")
    assert Flickr8k(flickr8k).read().photos == flickr8k / "Flicker8k_Dataset"


def test_flickr8k_needs_its_lists(flickr8k: Path) -> None:
    (flickr8k / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(DatasetError, match="not the data set 'flickr8k'") as caught:
        Flickr8k(flickr8k).read()
    assert "Flickr_8k.devImages.txt" in caught.value.expected


@pytest.mark.parametrize("line", [b"no tab\n", b"1_a.jpg\ttext\n", b"\n", b"#0\tx\n"])
def test_lines_of_another_form(flickr8k: Path, line: bytes) -> None:
    (flickr8k / "Flickr8k.token.txt").write_bytes(TOKENS + line + TOKENS)
    with pytest.raises(DatasetError, match=r"line 7 of Flickr8k\.token\.txt"):
        Flickr8k(flickr8k).read()


def test_an_image_in_two_lists(flickr8k: Path) -> None:
    (flickr8k / "Flickr_8k.testImages.txt").write_text("1_a.jpg\n")
    with pytest.raises(DatasetError, match=r"1_a\.jpg' is in two lists"):
        Flickr8k(flickr8k).read()


def test_two_files_with_one_stem(flickr8k: Path) -> None:
    (flickr8k / "Flickr8k.token.txt").write_bytes(TOKENS + b"1_a.png#0\tx\n")
    with pytest.raises(DatasetError, match="same stem"):
        Flickr8k(flickr8k).read()


def test_repeated_captions_are_duplicate_ids(flickr8k: Path) -> None:
    (flickr8k / "Flickr8k.token.txt").write_bytes(TOKENS + b"2_b.jpg#0\tA cat again .\n")
    with pytest.raises(DatasetError, match="1 caption ids occur more than once"):
        arrange(Flickr8k(flickr8k).read())


def test_an_empty_token_file(flickr8k: Path) -> None:
    (flickr8k / "Flickr8k.token.txt").write_bytes(b"")
    assert arrange(Flickr8k(flickr8k).read()).offsets.tolist() == [0] * 5  # the images of the lists, without captions


@pytest.mark.parametrize(
    ("adapter", "file"), [(Flickr30k, "dataset_flickr30k.json"), (Flickr8k, "dataset_flickr8k.json")]
)
def test_karpathy(tmp_path: Path, adapter: type[Flickr30k] | type[Flickr8k], file: str) -> None:
    karpathy(tmp_path / file)
    corpus = arrange(adapter(tmp_path).read())
    assert corpus.images["image_id"].to_list() == ["10002456", "1000092795"]
    assert corpus.images["file"].to_list() == ["10002456.jpg", "1000092795.jpg"]
    assert corpus.captions["caption_id"].to_list() == ["2", "3", "0", "1"]
    assert corpus.captions["text"][0] == "one 10002456"


def test_flickr30k_token_file(tmp_path: Path) -> None:
    (tmp_path / "results_20130124.token").write_bytes(TOKENS)
    assert arrange(Flickr30k(tmp_path).read()).splits == {"unassigned": (0, 4)}
    (tmp_path / "train.txt").write_text("1_a\n2_b\n")  # Flickr30k Entities lists names without a suffix
    (tmp_path / "test.txt").write_text("3_c\n5_e\n")
    corpus = arrange(Flickr30k(tmp_path).read())
    assert corpus.splits == {"train": (0, 2), "test": (2, 4), "unassigned": (4, 5)}
    assert corpus.images["file"].to_list()[2:4] == ["3_c.jpg", "5_e.jpg"]


def test_choice_of_annotations(tmp_path: Path) -> None:
    karpathy(tmp_path / "dataset_flickr30k.json")
    (tmp_path / "results_20130124.token").write_bytes(TOKENS)
    assert Flickr30k(tmp_path).read().sources[0].name == "dataset_flickr30k.json"
    assert Flickr30k(tmp_path, annotations="token").read().sources[0].name == "results_20130124.token"
    with pytest.raises(UnknownNameError, match="annotations"):
        Flickr30k(tmp_path, annotations="tokens")
    with pytest.raises(UnknownNameError, match="annotations"):
        Flickr8k(tmp_path, annotations="tokens")


@pytest.mark.parametrize("adapter", [Flickr30k, Flickr8k])
def test_other_folders(tmp_path: Path, adapter: type[Flickr30k] | type[Flickr8k]) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        adapter(tmp_path / "nowhere").read()
    (tmp_path / "captions.parquet").touch()
    with pytest.raises(DatasetError, match="try dataset 'table'"):
        adapter(tmp_path).read()
