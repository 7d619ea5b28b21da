"""Rows: order, splits, limits, distinct texts, quarantine, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.corpus.arrange import Corpus, arrange
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.corpus.frames import CAPTION_SCHEMA, IMAGE_SCHEMA, QUARANTINE_SCHEMA
from labelgen.errors import DatasetError


def records(images: Sequence[tuple[str, str]], captions: Sequence[tuple[str, str, str]] = ()) -> Records:
    """From (image id, split) and (caption id, image id, text)."""
    return Records(
        [ImageRecord(image_id, split, f"{image_id}.jpg", row) for row, (image_id, split) in enumerate(images)],
        [CaptionRecord(*caption, row) for row, caption in enumerate(captions)],
        None,
    )


SMALL = records(
    [("a", "test"), ("b", "train"), ("c", "extra"), ("d", "val"), ("e", "train"), ("f", "another")],
    [("5", "e", "a dog"), ("1", "b", "a cat"), ("2", "b", "a dog"), ("3", "a", " \n"), ("4", "e", "a cat")],
)


def test_order_of_rows() -> None:
    corpus = arrange(SMALL)
    assert corpus.images["image_id"].to_list() == ["b", "e", "d", "a", "f", "c"]
    assert corpus.images["split"].to_list() == ["train", "train", "val", "test", "another", "extra"]
    assert corpus.images["source_row"].to_list() == [1, 4, 3, 0, 5, 2]
    assert corpus.images["n_captions"].to_list() == [2, 2, 0, 1, 0, 0]
    assert corpus.captions["caption_id"].to_list() == ["1", "2", "5", "4", "3"]
    assert corpus.captions["image_row"].to_list() == [0, 0, 1, 1, 3]
    assert corpus.captions["split"].to_list() == ["train"] * 4 + ["test"]
    assert corpus.offsets.tolist() == [0, 2, 4, 4, 5, 5, 5]
    assert corpus.offsets.dtype == np.int64
    assert corpus.splits == {"train": (0, 2), "val": (2, 3), "test": (3, 4), "another": (4, 5), "extra": (5, 6)}
    assert list(corpus.splits) == ["train", "val", "test", "another", "extra"]


def test_distinct_texts_in_order_of_first_appearance() -> None:
    corpus = arrange(SMALL)
    assert corpus.texts() == ["a cat", "a dog"]
    assert corpus.captions["text_row"].to_list() == [0, 1, 1, 0, None]


def test_schemas() -> None:
    for corpus in (arrange(SMALL), arrange(records([("a", "train")]))):
        assert dict(corpus.images.schema) == dict(IMAGE_SCHEMA)
        assert dict(corpus.captions.schema) == dict(CAPTION_SCHEMA)
        assert dict(corpus.quarantine.schema) == dict(QUARANTINE_SCHEMA)


def test_images_without_captions_are_a_corpus() -> None:
    corpus = arrange(records([("a", "train"), ("b", "train")]))
    assert corpus.offsets.tolist() == [0, 0, 0]
    assert corpus.texts() == []
    assert len(corpus.captions) == len(corpus.quarantine) == 0


@pytest.mark.parametrize(
    ("text", "status", "stored"),
    [
        ("", "blank", ""),
        (" \t\u3000\n", "blank", " \t\u3000\n"),
        ("caf\udce9", "not_utf8", "caf\ufffd"),
        ("half \ud83d a pair", "not_utf8", "half \ufffd a pair"),
        ("a line\nand a NUL\0", "ok", "a line\nand a NUL\0"),
        (" ".join(["word"] * 10_000), "ok", " ".join(["word"] * 10_000)),
        ("\ufffd was there before", "ok", "\ufffd was there before"),
    ],
)
def test_odd_texts(text: str, status: str, stored: str) -> None:
    corpus = arrange(records([("a", "train")], [("0", "a", "first"), ("1", "a", text)]))
    assert corpus.captions["status"].to_list() == ["ok", status]
    assert corpus.captions["text"][1] == stored
    assert corpus.captions["text_row"].to_list() == [0, 1 if status == "ok" else None]
    assert corpus.offsets.tolist() == [0, 2]
    expected = [] if status == "ok" else [("caption", 1, "1", None, "ingest", None, status)]
    assert corpus.quarantine.rows() == expected


def test_ids_that_differ_only_by_case_are_two() -> None:
    corpus = arrange(records([("a", "train"), ("A", "train")], [("x", "a", "one"), ("X", "A", "two")]))
    assert corpus.images["image_id"].to_list() == ["a", "A"]
    assert corpus.captions["image_row"].to_list() == [0, 1]


def test_splits_are_chosen_in_canonical_order() -> None:
    corpus = arrange(SMALL, splits=("test", "train"))
    assert corpus.images["image_id"].to_list() == ["b", "e", "a"]
    assert corpus.splits == {"train": (0, 2), "test": (2, 3)}
    assert corpus.captions["image_row"].to_list() == [0, 0, 1, 1, 2]


def test_limit_counts_per_split() -> None:
    images = [(str(number), split) for number, split in enumerate(["train"] * 3 + ["test"] * 2 + ["train"])]
    corpus = arrange(records(images, [(f"c{number}", str(number), "text") for number in range(6)]), limit=2)
    assert corpus.images["image_id"].to_list() == ["0", "1", "3", "4"]
    assert corpus.captions["caption_id"].to_list() == ["c0", "c1", "c3", "c4"]
    assert arrange(records(images), limit=100).images["image_id"].to_list() == ["0", "1", "2", "5", "3", "4"]


REFUSED = {
    "duplicate image": (records([("a", "train"), ("a", "test")]), "1 image ids occur more than once", "'a'"),
    "duplicate caption": (
        records([("a", "train")], [("7", "a", "x"), ("7", "a", "y")]),
        "1 caption ids occur more than once",
        "'7'",
    ),
    "unknown image": (records([("a", "train")], [("7", "b", "x")]), "1 captions belong to images", "'b'"),
    "empty": (records([]), "empty", "no image"),
    "empty id": (records([("", "train")]), "'image id' are empty", "''"),
    "empty caption id": (records([("a", "train")], [("", "a", "x")]), "'caption id' are empty", "''"),
    "empty split": (records([("a", "")]), "'split' are empty", "''"),
    "id not UTF-8": (records([("caf\udce9", "train")]), "'image id' are not UTF-8", "caf"),
    "split not UTF-8": (records([("a", "caf\udce9")]), "'split' are not UTF-8", "caf"),
    "number as id": (records([(7, "train")]), "not text", "7"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    source, what, found = REFUSED[case]
    with pytest.raises(DatasetError) as caught:
        arrange(source)
    assert what in caught.value.what
    assert found in caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize("file", ["/a.jpg", "../a.jpg", "a\\b.jpg", "C:\\a.jpg", "s.tar::../x", "caf\udce9.jpg", ""])
def test_unsafe_file_names_are_refused(file: str) -> None:
    with pytest.raises(DatasetError, match="file name"):
        arrange(Records([ImageRecord("a", "train", file, 0)], [], None))


def test_many_offenders_are_counted_and_some_named() -> None:
    doubled = records([(str(number % 10), "train") for number in range(20)])
    with pytest.raises(DatasetError, match=r"10 image ids occur .*\n.*'0', '1', '2', '3', '4' and 5 more"):
        arrange(doubled)


def test_unknown_split_offers_the_existing_ones() -> None:
    with pytest.raises(DatasetError, match="no split 'tset'") as caught:
        arrange(SMALL, splits=("tset",))
    assert caught.value.expected == "some of train, val, test, another, extra"
    assert caught.value.todo == "did you mean 'test'?"


def test_negative_limit() -> None:
    with pytest.raises(DatasetError, match="limit"):
        arrange(SMALL, limit=-1)


def test_what_splits_leave_out_is_checked_too() -> None:
    with pytest.raises(DatasetError, match="more than once"):
        arrange(records([("a", "train"), ("b", "test"), ("b", "test")]), splits=("train",))


def test_fingerprint_sees_content_only() -> None:
    base = arrange(SMALL)
    found = base.images.with_columns(
        pl.lit(640, pl.UInt32).alias("width"),
        pl.lit("truncated").alias("status"),
        pl.lit(480, pl.UInt32).alias("height"),
    )
    assert base.with_images(found, base.quarantine).content_fingerprint() == base.content_fingerprint()
    assert len(base.content_fingerprint()) == 32

    def changed(**columns: pl.Expr) -> str:
        return Corpus(base.images.with_columns(**columns), base.captions, base.quarantine, None).content_fingerprint()

    def changed_text(**columns: pl.Expr) -> str:
        return Corpus(base.images, base.captions.with_columns(**columns), base.quarantine, None).content_fingerprint()

    prints = [
        base.content_fingerprint(),
        changed(image_id=pl.col("image_id") + "x"),
        changed(split=pl.lit("train")),
        changed(file=pl.lit(None, pl.String)),
        changed(file=pl.lit("")),
        changed(category=pl.lit("art")),
        changed(source_row=pl.col("source_row") + 1),
        changed(n_captions=pl.col("n_captions").reverse()),
        changed_text(caption_id=pl.col("caption_id") + "x"),
        changed_text(text=pl.col("text") + "."),
        changed_text(source_row=pl.col("source_row") + 1),
    ]
    assert len(set(prints)) == len(prints)


def test_fingerprint_counts_borders_between_texts() -> None:
    one = arrange(records([("a", "train")], [("1", "a", "ab"), ("2", "a", "c")]))
    two = arrange(records([("a", "train")], [("1", "a", "a"), ("2", "a", "bc")]))
    assert one.content_fingerprint() != two.content_fingerprint()


def test_with_images_adds_quarantine() -> None:
    corpus = arrange(SMALL)
    more = pl.DataFrame(
        {"kind": ["image"], "row": [0], "id": ["b"], "file": ["b.jpg"], "stage": ["ingest"], "alias": [None]}
        | {"reason": ["missing"]},
        schema=dict(QUARANTINE_SCHEMA),
    )
    both = corpus.with_images(corpus.images, more)
    assert both.quarantine["reason"].to_list() == ["blank", "missing"]
    assert len(corpus.quarantine) == 1


def test_a_corpus_survives_pickling() -> None:
    corpus = arrange(SMALL)
    again = pickle.loads(pickle.dumps(corpus))
    assert again.content_fingerprint() == corpus.content_fingerprint()
    assert again.offsets.tolist() == corpus.offsets.tolist()


@st.composite
def any_records(draw: st.DrawFn) -> Records:
    """Up to 12 images in up to 5 splits, 0 to 3 captions each, captions in any order, source rows with ties."""
    splits = st.sampled_from(["train", "val", "test", "restval", "Train"])
    n_images = draw(st.integers(1, 12))
    images = [
        ImageRecord(f"i{number}", draw(splits), None, draw(st.integers(0, 5)), draw(st.sampled_from([None, "art"])))
        for number in range(n_images)
    ]
    texts = st.sampled_from(["a cat", "a dog", "A cat", "", " ", "caf\udce9", "x\ny"])
    captions = [
        CaptionRecord(f"c{image.image_id}.{number}", image.image_id, draw(texts), draw(st.integers(0, 5)))
        for image in images
        for number in range(draw(st.integers(0, 3)))
    ]
    return Records(draw(st.permutations(images)), draw(st.permutations(captions)), None)


@settings(max_examples=150, deadline=None)
@given(any_records(), st.integers(0, 4))
def test_contract_of_rows(source: Records, limit: int) -> None:
    corpus = arrange(source, limit=limit)
    images, captions = corpus.images, corpus.captions

    assert images["image_row"].to_list() == list(range(len(images)))
    assert captions["caption_row"].to_list() == list(range(len(captions)))

    # Every image of the source is there once, with what the source says (or is beyond the limit of its split).
    by_id = {image.image_id: image for image in source.images}
    kept = images["image_id"].to_list()
    assert len(set(kept)) == len(kept)
    for row in images.iter_rows(named=True):
        image = by_id[row["image_id"]]
        assert (row["split"], row["source_row"], row["category"]) == (image.split, image.source_row, image.category)
    for split, (start, stop) in corpus.splits.items():
        of_split = [image for image in source.images if image.split == split]
        assert stop - start == (min(limit, len(of_split)) if limit else len(of_split))
        rows = images["source_row"][start:stop].to_list()
        assert rows == sorted(image.source_row for image in of_split)[: stop - start]

    # The captions of image v are rows offsets[v]:offsets[v + 1], in source order.
    offsets = corpus.offsets.tolist()
    assert offsets[0] == 0
    assert offsets[-1] == len(captions)
    for image_row, image_id in enumerate(kept):
        own = captions[offsets[image_row] : offsets[image_row + 1]]
        assert own["image_row"].to_list() == [image_row] * len(own)
        assert own["split"].to_list() == [by_id[image_id].split] * len(own)
        expected = {caption.caption_id for caption in source.captions if caption.image_id == image_id}
        assert set(own["caption_id"].to_list()) == expected
        assert own["source_row"].to_list() == sorted(own["source_row"].to_list())

    # Distinct texts: numbered by first appearance, exactly the usable ones.
    texts = corpus.texts()
    usable = captions.filter(pl.col("status") == "ok")
    assert texts == list(dict.fromkeys(usable["text"].to_list()))
    assert [texts[row] for row in usable["text_row"].to_list()] == usable["text"].to_list()
    unusable = captions.filter(pl.col("status") != "ok")
    assert unusable["text_row"].null_count() == len(unusable)
    assert corpus.quarantine["row"].to_list() == unusable["caption_row"].to_list()
