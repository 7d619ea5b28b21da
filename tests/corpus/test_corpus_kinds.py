"""Kinds of captions and groups of images: read from tables, numbered, appended, written only where there are any."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.corpus.adapters.table import Table
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.corpus.frames import (
    CAPTION_SCHEMA,
    IMAGE_SCHEMA,
    Corpus,
    captions_by_kind,
    completed,
    group_count,
    numbered_texts,
)
from labelgen.corpus.join import join, refuse_other_data, without_unsealed
from labelgen.errors import DatasetError
from labelgen.store.disk.parquet import read_frame, write_frame
from labelgen.store.layout import CAPTIONS, IMAGES, TABLES

ROWS: list[dict[str, Any]] = [
    {"image_id": "a", "caption": "a dog", "kind": "blip", "group": 1},
    {"image_id": "a", "caption": "a cat", "kind": "human", "group": 1},
    {"image_id": "b", "caption": "a dog", "kind": "human", "group": 1},
    {"image_id": "b", "caption": "a boat", "kind": None, "group": 1},
    {"image_id": "c", "caption": "a cow", "kind": "blip", "group": None},
]


def written(folder: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> Path:
    path = folder / f"captions{suffix}"
    if suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    elif suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder: Path, **options: str) -> Corpus:
    return arrange(Table(folder, **options).read())  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_formats_agree(tmp_path: Path, suffix: str) -> None:
    corpus = read(written(tmp_path, ROWS, suffix))
    assert corpus.images["group"].to_list() == ["1", "1", None]
    assert corpus.captions["kind"].to_list() == ["blip", "human", "human", None, "blip"]
    assert captions_by_kind(corpus.captions) == {"human": 2, "unspecified": 1, "blip": 2}
    assert list(captions_by_kind(corpus.captions)) == ["human", "unspecified", "blip"]
    assert group_count(corpus.images) == 1


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_kinds_of_lists(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"image_id": "a", "caption": ["x", "y"], "kind": ["human", None]},
        {"image_id": "b", "caption": ["z"], "kind": ["blip"]},
    ]
    assert read(written(tmp_path, rows, suffix)).captions["kind"].to_list() == ["human", None, "blip"]


def test_one_kind_for_a_list(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "caption": ["x", "y"], "kind": "blip"}, {"image_id": "b", "caption": ["z"]}]
    assert read(written(tmp_path, rows)).captions["kind"].to_list() == ["blip", "blip", None]


def test_other_columns_and_no_column(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "caption": "x", "kind": "k", "from": "human", "group": "g", "sku": 7}]
    folder = written(tmp_path, rows)
    corpus = read(folder, kind="from", group="sku")
    assert (corpus.captions["kind"][0], corpus.images["group"][0]) == ("human", "7")
    corpus = read(folder, kind="none", group="none")
    assert (corpus.captions["kind"][0], corpus.images["group"][0]) == (None, None)
    with pytest.raises(DatasetError, match="no column 'source'"):
        read(folder, kind="source")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROWS[0], {**ROWS[1], "group": 2}], r"row 2 .* contradicts an earlier row of image 'a'(.|\n)*group='none'"),
        ([{"image_id": "a", "caption": ["x", "y"], "kind": ["human"]}], "2 captions and a different number of kinds"),
        ([{"image_id": "a", "caption": "x", "kind": 1.5}], r"a kind that is not a name(.|\n)*1.5(.|\n)*kind='none'"),
        ([{"image_id": "a", "caption": "x", "kind": ["human"]}], "a kind that is not a name"),
        ([{"image_id": "a", "caption": "x", "group": {"id": 1}}], r"a group that is not a name(.|\n)*group='none'"),
        ([{"image_id": "a", "caption": "x", "group": True}], "a group that is not a name"),
        ([{"image_id": "a", "caption": "x", "kind": "unspecified"}], r"without a kind(.|\n)*leave the kind"),
        ([{"image_id": str(n), "caption": "x", "kind": n} for n in range(257)], r"too many(.|\n)*at most 256"),
        ([{"image_id": "a", "caption": "x", "kind": "k" * 257}], "more than 256 characters"),
        ([{"image_id": "a", "caption": "x", "kind": "caf\udce9"}], "'kind' are not UTF-8"),
        ([{"image_id": "a", "caption": "x", "group": "caf\udce9"}], "'group' are not UTF-8"),
    ],
)
def test_refusals(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(written(tmp_path, rows))


def test_an_empty_kind_is_none_and_not_a_number_too(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"image_id": ["a", "b"], "caption": ["x", "y"], "kind": ["", None], "group": [float("nan")] * 2}
    )
    frame.write_parquet(tmp_path / "captions.parquet")
    corpus = read(tmp_path)
    assert corpus.captions["kind"].to_list() == [None, None]
    assert corpus.images["group"].to_list() == [None, None]
    assert captions_by_kind(corpus.captions) == {}


@pytest.mark.parametrize("kind", ["", 7])
def test_kinds_of_other_adapters_are_checked(kind: Any) -> None:
    with pytest.raises(DatasetError, match="'kind' are empty or not text"):
        arrange(Records([ImageRecord("a", "train", None, 0)], [CaptionRecord("1", "a", "x", 0, kind)], None))


def test_texts_are_numbered_kind_by_kind() -> None:
    texts = ["b1", "h1", "none", "both", "both", "a1", "b1"]
    kinds = ["blip", "human", None, "blip", "human", "alt", "blip"]
    assert numbered_texts(texts, [True] * 7, kinds) == [4, 0, 2, 1, 1, 3, 4]
    assert numbered_texts(texts, [True] * 6 + [False], kinds, known=["x", "both"]) == [5, 2, 3, 1, 1, 4, None]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["human", None, "blip"]))))
def test_texts_of_the_first_kind_have_the_numbers_that_they_have_alone(rows: list[tuple[str, str | None]]) -> None:
    numbers = numbered_texts([text for text, _ in rows], [True] * len(rows), [kind for _, kind in rows])
    alone = [text for text, kind in rows if kind == "human"]
    kept = [number for number, (_, kind) in zip(numbers, rows, strict=True) if kind == "human"]
    assert kept == numbered_texts(alone, [True] * len(alone), [None] * len(alone))
    assert sorted(set(numbers)) == list(range(len({text for text, _ in rows})))


def test_without_kinds_and_groups_nothing_changes(tmp_path: Path) -> None:
    bare = [{"image_id": row["image_id"], "caption": row["caption"]} for row in ROWS]
    plain, named = read(written(tmp_path, bare)), read(written(tmp_path, ROWS))
    assert plain.content_fingerprint() == "ac6496c2ef3dee628f3178b058be07a4"  # as before there were kinds
    only_groups = Corpus(named.images, plain.captions, plain.quarantine, None)
    assert len({corpus.content_fingerprint() for corpus in (plain, named, only_groups)}) == 3
    for name, frame in ((IMAGES, plain.images), (CAPTIONS, plain.captions)):
        columns = list(TABLES[name])
        with_null = write_frame(tmp_path / "with" / name, frame)
        assert with_null == write_frame(tmp_path / "without" / name, frame.select(columns))
        assert read_frame(tmp_path / "with" / name).columns == columns
    schemas = {IMAGES: IMAGE_SCHEMA, CAPTIONS: CAPTION_SCHEMA}
    for name, frame in ((IMAGES, named.images), (CAPTIONS, named.captions)):
        write_frame(tmp_path / name, frame)
        assert completed(read_frame(tmp_path / name), schemas[name]).equals(frame)
        assert completed(read_frame(tmp_path / "without" / name), schemas[name]).columns == list(schemas[name])


def corpus_of(**images: tuple[str | None, str | None]) -> Corpus:
    """One caption an image: image id -> (kind, group); the text is the id."""
    return arrange(
        Records(
            [
                ImageRecord(image, "train", None, row, None, group)
                for row, (image, (_, group)) in enumerate(images.items())
            ],
            [
                CaptionRecord(f"{image}#0", image, image, row, kind)
                for row, (image, (kind, _)) in enumerate(images.items())
            ],
            None,
        )
    )


def test_append_in_both_directions() -> None:
    plain, named = corpus_of(a=(None, None), b=(None, None)), corpus_of(c=("human", "g"), d=("blip", None))
    joined = join(plain, named)
    assert joined.corpus.captions["kind"].to_list() == [None, None, "human", "blip"]
    assert joined.corpus.images["group"].to_list() == [None, None, "g", None]
    joined = join(named, plain)
    assert joined.corpus.captions["kind"].to_list() == ["human", "blip", None, None]
    assert (joined.skipped, joined.unnamed) == (0, 0)


def test_new_texts_of_an_append_are_numbered_kind_by_kind() -> None:
    joined = join(corpus_of(a=("blip", None)), corpus_of(c=("blip", None), d=("human", None)))
    assert joined.corpus.captions["text_row"].to_list() == [0, 2, 1]


def test_sealed_rows_keep_their_names() -> None:
    """Names that the store lacks are ignored and counted, others must be the same."""
    grown = corpus_of(a=("human", "g"), b=("blip", "g"), c=("human", None))
    joined = join(corpus_of(a=("human", None), b=(None, None)), grown)
    assert (joined.skipped, joined.unnamed) == (2, 3)
    assert joined.corpus.captions["kind"].to_list() == ["human", None, "human"]
    with pytest.raises(DatasetError, match=r"1 captions .* another kind(.|\n)*'a#0'"):
        join(corpus_of(a=("blip", None)), grown)
    with pytest.raises(DatasetError, match=r"1 images .* another group(.|\n)*'b'"):
        join(corpus_of(a=("human", "g"), b=("blip", "h")), grown)
    with pytest.raises(DatasetError, match=r"1 captions .* another kind"):
        join(corpus_of(a=("human", None)), corpus_of(a=(None, None), c=(None, None)))
    with pytest.raises(DatasetError, match=r"another group"):
        refuse_other_data(corpus_of(a=(None, "g")), corpus_of(a=(None, "h")))
    refuse_other_data(corpus_of(a=(None, None)), grown)


def test_a_store_without_names_equals_its_data_set_with_them(tmp_path: Path) -> None:
    named, plain = read(written(tmp_path, ROWS)), read(tmp_path, kind="none", group="none")
    assert named.captions["text_row"].to_list() != plain.captions["text_row"].to_list()
    assert without_unsealed(plain, named).content_fingerprint() == plain.content_fingerprint()
    assert without_unsealed(named, named).content_fingerprint() == named.content_fingerprint()
    grouped = replace(plain, images=named.images)
    assert without_unsealed(grouped, named).content_fingerprint() == grouped.content_fingerprint()
