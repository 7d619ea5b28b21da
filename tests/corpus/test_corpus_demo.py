"""The packaged demo set: whole, readable, and with its licences."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from labelgen import resources
from labelgen.corpus.adapters.demo import Demo
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.corpus.facts import check
from labelgen.corpus.photos.photos import decode_photo, probe_photo, read_photo
from labelgen.errors import DatasetError


def test_rows() -> None:
    adapter = Demo()
    assert isinstance(adapter, Dataset)
    corpus = arrange(adapter.read())
    assert corpus.splits == {"train": (0, 26), "val": (26, 76)}
    assert corpus.images["n_captions"].to_list() == [5] * 76
    assert len(corpus.quarantine) == 0
    assert check("demo", corpus) == []
    assert corpus.images["image_id"][0] == "790"
    assert corpus.captions.row(0)[1:5] == ("576009", 0, "train", "a family is sitting down at a table to have cake")


def test_every_photograph_opens_as_its_header_says() -> None:
    records = Demo().read()
    assert records.photos == resources.demo_root() / "images"
    for image in records.images:
        file = str(image.file)
        assert decode_photo(read_photo(records.photos, file)).size == probe_photo(records.photos, file)


def test_every_photograph_has_its_licence() -> None:
    root = resources.demo_root()
    with (root / "photos.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {path.name for path in (root / "images").iterdir()}
    assert {row["image_id"] for row in rows} == {image.image_id for image in Demo().read().images}
    assert {row["license_url"] for row in rows} == {
        "http://creativecommons.org/licenses/by/2.0/",
        "http://creativecommons.org/licenses/by-sa/2.0/",
    }
    for row in rows:
        assert row["license_name"]
        assert row["flickr_url"].startswith("http")
        assert row["coco_url"].endswith(row["file"])
    notice = (root / "NOTICE.md").read_text(encoding="utf-8")
    assert "creativecommons.org/licenses/by/4.0/" in notice


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        Demo(tmp_path / "nowhere").read()
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.csv").write_text("image_id,caption\n1,x\n")
    assert len(Demo(tmp_path).read().images) == 1
