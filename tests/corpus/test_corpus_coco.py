"""COCO: Karpathy's JSON and COCO's own, photographs under the names of either year."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labelgen.corpus.adapters.coco import Coco
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError, UnknownNameError

KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {
            "filepath": folder,
            "filename": f"COCO_{folder}_{cocoid:012d}.jpg",
            "cocoid": cocoid,
            "imgid": number,
            "split": split,
            "sentids": list(sentids),
            "sentences": [
                {"raw": f"caption {sentid}", "tokens": ["caption", str(sentid)], "imgid": number, "sentid": sentid}
                for sentid in sentids
            ],
        }
        for number, (cocoid, folder, split, sentids) in enumerate(
            [
                (391895, "val2014", "test", (770, 771)),
                (522418, "val2014", "restval", (681,)),
                (9, "train2014", "train", (661, 662, 663)),
                (42, "val2014", "val", ()),
            ]
        )
    ],
}


def own(year: str) -> dict[str, Any]:
    """captions_train<year>.json and captions_val<year>.json, captions out of the order of the images."""
    prefix = "COCO_{}2014_" if year == "2014" else ""
    return {
        split: {
            "info": {},
            "images": [{"id": i, "file_name": f"{prefix.format(split)}{i:012d}.jpg"} for i in ids],
            "annotations": [{"id": 100 + i, "image_id": i, "caption": f"of {i}"} for i in reversed(ids)],
        }
        for split, ids in {"train": [9, 25], "val": [42]}.items()
    }


def write_own(folder: Path, year: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in own(year).items():
        (folder / f"captions_{split}{year}.json").write_text(json.dumps(content))


def write_karpathy(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_coco.json").write_text(json.dumps(KARPATHY))


def test_it_is_a_dataset(tmp_path: Path) -> None:
    assert isinstance(Coco(tmp_path), Dataset)


@pytest.mark.parametrize("below", [".", "caption_datasets"])
def test_karpathy(tmp_path: Path, below: str) -> None:
    write_karpathy(tmp_path / below)
    records = Coco(tmp_path).read()
    assert [path.name for path in records.sources] == ["dataset_coco.json"]
    assert records.photos is None
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == ["522418", "9", "42", "391895"]
    assert corpus.images["split"].to_list() == ["train", "train", "val", "test"]
    assert corpus.images["source_row"].to_list() == [1, 2, 3, 0]
    assert corpus.images["file"][0] == "val2014/COCO_val2014_000000522418.jpg"
    assert corpus.captions["caption_id"].to_list() == ["681", "661", "662", "663", "770", "771"]
    assert corpus.captions["text"][1] == "caption 661"
    assert corpus.offsets.tolist() == [0, 1, 4, 4, 6]


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize("below", [".", "annotations"])
def test_own_format(tmp_path: Path, year: str, below: str) -> None:
    write_own(tmp_path / below, year)
    corpus = arrange(Coco(tmp_path, annotations=int(year)).read())  # a bare number in TOML
    assert corpus.images["image_id"].to_list() == ["9", "25", "42"]
    assert corpus.splits == {"train": (0, 2), "val": (2, 3)}
    assert corpus.captions["caption_id"].to_list() == ["109", "125", "142"]
    assert corpus.captions["text"].to_list() == ["of 9", "of 25", "of 42"]
    name = "COCO_val2014_000000000042.jpg" if year == "2014" else "000000000042.jpg"
    assert corpus.images["file"][2] == f"val{year}/{name}"


def test_auto_prefers_karpathy_then_2014(tmp_path: Path) -> None:
    write_own(tmp_path / "annotations", "2017")
    assert Coco(tmp_path).read().sources[0].name == "captions_train2017.json"
    write_own(tmp_path / "annotations", "2014")
    assert Coco(tmp_path).read().sources[0].name == "captions_train2014.json"
    write_karpathy(tmp_path)
    assert Coco(tmp_path).read().sources[0].name == "dataset_coco.json"
    assert Coco(tmp_path, annotations="2017").read().sources[0].name == "captions_train2017.json"


def test_one_file_is_enough(tmp_path: Path) -> None:
    write_own(tmp_path, "2017")
    (tmp_path / "captions_train2017.json").unlink()
    assert arrange(Coco(tmp_path).read()).splits == {"val": (0, 1)}


def touch(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"x")


FILES_2014 = [
    "val2014/COCO_val2014_000000391895.jpg",
    "val2014/COCO_val2014_000000522418.jpg",
    "train2014/COCO_train2014_000000000009.jpg",
    "val2014/COCO_val2014_000000000042.jpg",
]


@pytest.mark.parametrize("below", [".", "images"])
def test_photographs_of_the_same_year(tmp_path: Path, below: str) -> None:
    write_karpathy(tmp_path)
    touch(tmp_path / below, FILES_2014[0])
    records = Coco(tmp_path).read()
    assert records.photos == tmp_path / below
    assert [image.file for image in records.images] == FILES_2014


def test_photographs_of_2017_under_2014_annotations(tmp_path: Path) -> None:
    """In 2017 most of the validation photographs moved to train2017: the folder tells."""
    write_karpathy(tmp_path)
    names = ["train2017/000000391895.jpg", "train2017/000000522418.jpg", "train2017/000000000009.jpg"]
    names.append("val2017/000000000042.jpg")
    touch(tmp_path, *names)
    records = Coco(tmp_path).read()
    assert [image.file for image in records.images] == names
    assert all((tmp_path / str(image.file)).exists() for image in records.images)


def test_photographs_of_2014_under_2017_annotations(tmp_path: Path) -> None:
    write_own(tmp_path / "annotations", "2017")
    names = ["train2014/COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000025.jpg"]
    names.append("val2014/COCO_val2014_000000000042.jpg")
    touch(tmp_path / "images", *names)
    records = Coco(tmp_path).read()
    assert records.photos == tmp_path / "images"
    assert [image.file for image in records.images] == names


def test_photographs_in_one_flat_folder(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    touch(tmp_path, *(f"images/{name.partition('/')[2]}" for name in FILES_2014))
    records = Coco(tmp_path).read()
    assert records.photos == tmp_path / "images"
    assert [image.file for image in records.images] == [name.partition("/")[2] for name in FILES_2014]


def test_photographs_elsewhere(tmp_path: Path) -> None:
    write_karpathy(tmp_path / "json")
    touch(tmp_path / "disk", *FILES_2014)
    records = Coco(tmp_path / "json", photos=str(tmp_path / "disk")).read()
    assert records.photos == tmp_path / "disk"
    assert [image.file for image in records.images] == FILES_2014
    with pytest.raises(DatasetError, match="folder of photographs does not exist"):
        Coco(tmp_path / "json", photos="disc").read()


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist") as caught:
        Coco(tmp_path / "nowhere").read()
    assert "dataset_coco.json" in caught.value.expected
    with pytest.raises(DatasetError, match="needs a root"):
        Coco(None).read()
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="not a folder"):
        Coco(tmp_path / "file").read()


def test_another_data_set_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "Flickr8k.token.txt").touch()
    with pytest.raises(DatasetError, match="not the data set 'coco'") as caught:
        Coco(tmp_path).read()
    assert "'Flickr8k.token.txt'" in caught.value.found
    assert caught.value.todo == "try dataset 'flickr8k'"


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        Coco(tmp_path).read()


def test_annotations_that_are_not_there(tmp_path: Path) -> None:
    write_own(tmp_path, "2014")
    with pytest.raises(DatasetError, match="not the data set"):
        Coco(tmp_path, annotations="2017").read()
    with pytest.raises(UnknownNameError, match="did you mean 'karpathy'"):
        Coco(tmp_path, annotations="karpaty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no field 'images'"),
        ('{"images": {}}', "not a list"),
        ('{"images": [3]}', "no field 'split'"),
        ('{"images": [{"split": "train"}]}', "image 0 of dataset_coco.json has no field 'sentences'"),
        ('{"images": [{"split": "train", "sentences": [], "filename": "x", "filepath": "y"}]}', "no field 'cocoid'"),
        ('{"images": [{"split": "train", "sentences": [], "cocoid": 1.5}]}', "unusable id"),
    ],
)
def test_json_of_another_form(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        Coco(tmp_path).read()


def test_captions_that_are_not_utf8_or_null(tmp_path: Path) -> None:
    content = own("2017")["val"]
    content["annotations"] = [
        {"id": 1, "image_id": 42, "caption": "PLACE"},
        {"id": 2, "image_id": 42, "caption": None},
        {"id": 3, "image_id": 42, "caption": "a line\nand another\0"},
    ]
    data = json.dumps(content).encode().replace(b"PLACE", b"caf\xe9")
    (tmp_path / "captions_val2017.json").write_bytes(data)
    corpus = arrange(Coco(tmp_path).read())
    assert corpus.captions["status"].to_list() == ["not_utf8", "blank", "ok"]
    assert corpus.captions["text"].to_list() == ["caf\ufffd", "", "a line\nand another\0"]


def test_names_that_leave_the_folder(tmp_path: Path) -> None:
    content = own("2017")["val"]
    content["images"][0]["file_name"] = "../../secret.jpg"
    (tmp_path / "captions_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="not safe"):
        arrange(Coco(tmp_path).read())


def test_captions_of_unknown_images(tmp_path: Path) -> None:
    content = own("2017")["val"]
    content["annotations"].append({"id": 7, "image_id": 43, "caption": "whose?"})
    (tmp_path / "captions_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="images that the data set does not have"):
        arrange(Coco(tmp_path).read())
