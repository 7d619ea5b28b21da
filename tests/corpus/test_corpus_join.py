"""New images behind old ones: rows, texts and quarantine; what is refused."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.corpus.frames import Corpus
from labelgen.corpus.join import join, refuse_other_data
from labelgen.errors import DatasetError


def corpus(captions: dict[str, list[str]], split: str = "train", **splits: str) -> Corpus:
    """Images by id with the texts of their captions, in this order."""
    images = [ImageRecord(image, splits.get(image, split), f"{image}.jpg", row) for row, image in enumerate(captions)]
    listed = [(image, number, text) for image, texts in captions.items() for number, text in enumerate(texts)]
    records = [CaptionRecord(f"{image}#{number}", image, text, row) for row, (image, number, text) in enumerate(listed)]
    return arrange(Records(images, records, None))


OLD = corpus({"a": ["one", "two"], "b": [], "c": ["two", " "]}, c="val")


def test_new_rows_follow_and_known_texts_keep_their_numbers() -> None:
    read = corpus({"d": ["three", "two", ""], "a": ["one", "two"], "e": ["three"], "b": []}, e="test")
    joined = join(OLD, read)
    assert (joined.first_image, joined.first_caption, joined.first_text, joined.skipped) == (3, 4, 2, 2)
    images, captions = joined.corpus.images, joined.corpus.captions
    assert images["image_id"].to_list() == ["a", "b", "c", "d", "e"]
    assert images["image_row"].to_list() == [0, 1, 2, 3, 4]
    assert images["split"].to_list() == ["train", "train", "val", "train", "test"]
    assert captions["caption_id"].to_list()[4:] == ["d#0", "d#1", "d#2", "e#0"]
    assert captions["image_row"].to_list() == [0, 0, 2, 2, 3, 3, 3, 4]
    assert captions["text_row"].to_list() == [0, 1, 1, None, 2, 1, None, 2]
    assert joined.corpus.offsets.tolist() == [0, 2, 2, 4, 7, 8]
    assert joined.corpus.quarantine.select("row", "id", "reason").rows() == [(3, "c#1", "blank"), (6, "d#2", "blank")]
    assert joined.corpus.images[:3].equals(OLD.images)
    assert joined.corpus.captions[:4].equals(OLD.captions)


def test_nothing_new_is_an_empty_append() -> None:
    joined = join(OLD, corpus({"a": ["one", "two"]}))
    assert (len(joined.new.images), joined.skipped) == (0, 1)
    assert joined.corpus.captions.equals(OLD.captions)


def test_the_new_part_is_the_same_whatever_old_images_come_with_it() -> None:
    alone = join(OLD, corpus({"d": ["three"], "e": ["two"]}))
    among = join(OLD, corpus({"d": ["three"], "e": ["two"], "a": ["one", "two"]}))
    assert alone.new.content_fingerprint() == among.new.content_fingerprint()


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (corpus({"a": ["one"], "d": ["x"]}), r"1 images .* other captions(.|\n)*'a'"),
        (corpus({"a": ["two", "one"], "d": ["x"]}), r"1 images .* other captions(.|\n)*'a'"),
        (corpus({"b": ["a caption"], "d": ["x"]}), r"1 images .* other captions(.|\n)*'b'"),
        (corpus({"c": ["two", " "], "d": ["x"]}, c="train"), r"in another split(.|\n)*'c'"),
    ],
)
def test_images_that_are_there_must_be_the_same(read: Corpus, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        join(OLD, read)


def test_a_caption_id_of_another_image_is_refused() -> None:
    images = [ImageRecord("d", "train", None, 0)]
    read = arrange(Records(images, [CaptionRecord("a#0", "d", "x", 0)], None))
    with pytest.raises(DatasetError, match=r"belong to other images(.|\n)*'a#0'"):
        join(OLD, read)


def test_a_part_may_lie_in_a_data_set_that_has_grown_but_not_in_another_one() -> None:
    refuse_other_data(corpus({"a": ["one"]}), corpus({"z": [], "a": ["one"]}))
    with pytest.raises(DatasetError, match=r"lacks 1 images(.|\n)*'a'"):
        refuse_other_data(corpus({"a": ["one"]}), corpus({"z": []}))
    with pytest.raises(DatasetError, match=r"other data for 1 images(.|\n)*'a'"):
        refuse_other_data(corpus({"a": ["one"]}), corpus({"a": ["two"]}))


@pytest.mark.parametrize(
    ("change", "part"),
    [("caption_id", "captions"), ("text", "captions"), ("split", "images"), ("file", "images")],
)
def test_each_part_of_an_image_must_be_the_same(change: str, part: str) -> None:
    """One column of image a changed at a time. A file may have moved when images are appended: it is not read again."""
    old = corpus({"a": ["one"], "b": ["two"]})
    frame = getattr(old, part)
    values = ["other", *frame[change].to_list()[1:]]
    read = replace(old, **{part: frame.with_columns(pl.Series(change, values, dtype=pl.String))})
    with pytest.raises(DatasetError, match="'a'"):
        refuse_other_data(old, read)
    if change == "file":
        assert join(old, read).skipped == 2
    else:
        with pytest.raises(DatasetError, match="'a'"):
            join(old, read)
