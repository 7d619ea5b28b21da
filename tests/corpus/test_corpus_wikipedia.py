"""The Rasiwasia 2010 layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelgen.corpus.adapters.wikipedia import Wikipedia
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError

HEX = [f"{number:032x}" for number in range(10)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training documents (the first with the stray character of the released list) and one test document."""
    (tmp_path / "trainset_txt_img_cat.list").write_text(f"A{HEX[1]}-3\t{HEX[2]}\t2\n{HEX[3]}-5.8\t{HEX[4]}\t1\n")
    (tmp_path / "testset_txt_img_cat.list").write_text(f"{HEX[5]}-1\t{HEX[6]}\t2\n")
    (tmp_path / "categories.list").write_text("art\nbiology\n")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / f"{HEX[1]}-3.xml").write_text(
        "<?xml version='1.0' encoding='utf-8'?>\n<document><name>n</name>"
        "<text>First\nda\u00e9mon &amp; more</text></document>",
        encoding="utf-8",
    )
    (texts / f"{HEX[3]}-5.8.xml").write_text("<document><text>  Second </text></document>")
    (texts / f"{HEX[5]}-1.xml").write_text("<document><text>Third</text><text>part</text></document>")
    return tmp_path


def test_reading(root: Path) -> None:
    adapter = Wikipedia(root)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert len(records.sources) == 3
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == [HEX[2], HEX[4], HEX[6]]
    assert corpus.images["category"].to_list() == ["biology", "art", "biology"]
    assert corpus.images["file"][1] == f"art/{HEX[4]}.jpg"
    assert corpus.splits == {"train": (0, 2), "test": (2, 3)}
    assert corpus.captions["caption_id"].to_list() == [f"A{HEX[1]}-3", f"{HEX[3]}-5.8", f"{HEX[5]}-1"]
    assert corpus.captions["text"].to_list() == ["First\nda\u00e9mon & more", "Second", "Third\npart"]


def test_categories_without_names_keep_their_numbers(root: Path) -> None:
    (root / "categories.list").unlink()
    (root / "images" / "art").mkdir(parents=True)
    (root / "images" / "art" / f"{HEX[4]}.JPG").write_bytes(b"x")
    records = Wikipedia(root).read()
    assert [image.category for image in records.images] == ["2", "1", "2"]
    assert records.images[1].file == f"art/{HEX[4]}.JPG"  # found by its name, whatever the folder is called
    assert records.images[0].file == f"2/{HEX[2]}.jpg"
    assert records.photos == root / "images"


def test_features_alone(root: Path) -> None:
    for path in (root / "texts").iterdir():
        path.unlink()
    (root / "texts").rmdir()
    with pytest.raises(DatasetError, match="texts of 'wikipedia' are missing") as caught:
        Wikipedia(root).read()
    assert "features_only=true" in caught.value.todo
    corpus = arrange(Wikipedia(root, features_only=True).read())
    assert corpus.captions["text"].to_list() == corpus.captions["caption_id"].to_list()
    assert corpus.images["category"].to_list() == ["biology", "art", "biology"]


def test_missing_and_damaged_texts(root: Path) -> None:
    (root / "texts" / f"{HEX[1]}-3.xml").unlink()
    (root / "texts" / f"{HEX[3]}-5.8.xml").write_text("<document><text>AT&T &lt;3</text>")  # not well-formed
    (root / "texts" / f"{HEX[5]}-1.xml").write_bytes(b"<document><text>caf\xe9</text></document>")
    corpus = arrange(Wikipedia(root).read())
    assert corpus.captions["status"].to_list() == ["blank", "ok", "not_utf8"]
    assert corpus.captions["text"].to_list() == ["", "AT&T <3", "caf\ufffd"]


BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><d><text>&b;</text></d>'
OUTSIDE = '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d><text>&x;</text></d>'


@pytest.mark.parametrize("content", [BOMB, OUTSIDE])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(root: Path, content: str, encoding: str) -> None:
    (root / "texts" / f"{HEX[5]}-1.xml").write_bytes(content.encode(encoding))
    with pytest.raises(DatasetError, match="DOCTYPE"):
        Wikipedia(root).read()


def test_a_text_id_that_leaves_the_folder_opens_nothing(root: Path) -> None:
    (root / "secret.xml").write_text("<d><text>secret</text></d>")
    (root / "testset_txt_img_cat.list").write_text(f"../secret\t{HEX[6]}\t2\n")
    corpus = arrange(Wikipedia(root).read())
    assert corpus.captions["status"][2] == "blank"


def test_byte_order_mark(root: Path) -> None:
    (root / "testset_txt_img_cat.list").write_bytes(b"\xef\xbb\xbf" + f"{HEX[5]}-1\t{HEX[6]}\t2\n".encode())
    assert Wikipedia(root).read().captions[2].caption_id == f"{HEX[5]}-1"


def test_other_forms(root: Path, tmp_path: Path) -> None:
    (root / "testset_txt_img_cat.list").write_text("only two\n")
    with pytest.raises(DatasetError, match=r"line 1 of testset_txt_img_cat.list is not an entry"):
        Wikipedia(root).read()
    (root / "testset_txt_img_cat.list").unlink()
    with pytest.raises(DatasetError, match="not the data set 'wikipedia'"):
        Wikipedia(root).read()
    with pytest.raises(DatasetError, match="does not exist"):
        Wikipedia(tmp_path / "nowhere").read()


def test_an_image_twice_is_refused(root: Path) -> None:
    (root / "testset_txt_img_cat.list").write_text(f"{HEX[5]}-1\t{HEX[2]}\t2\n")
    with pytest.raises(DatasetError, match="image ids occur more than once"):
        arrange(Wikipedia(root).read())
