"""Tables: CSV, JSONL and parquet with a mapping of columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.corpus.adapters.table import Table
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Dataset
from labelgen.errors import DatasetError

ROWS: list[dict[str, Any]] = [
    {"image_id": 7, "file_name": "7.jpg", "split": "val", "caption_id": "7#a", "caption": "a cat, asleep"},
    {"image_id": 5, "file_name": "5.jpg", "split": "train", "caption_id": "5#a", "caption": 'a "dog"\nbarks'},
    {"image_id": 7, "file_name": "7.jpg", "split": "val", "caption_id": "7#b", "caption": ""},
    {"image_id": 5, "file_name": "5.jpg", "split": "train", "caption_id": "5#b", "caption": "NUL \0 inside"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(stream.getvalue().encode())
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_formats_agree(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"captions{suffix}", ROWS)
    adapter = Table(tmp_path)
    assert isinstance(adapter, Dataset)
    records = adapter.read()
    assert records.sources == [tmp_path / f"captions{suffix}"]
    assert records.photos is None
    corpus = arrange(records)
    assert corpus.images["image_id"].to_list() == ["5", "7"]
    assert corpus.images["file"].to_list() == ["5.jpg", "7.jpg"]
    assert corpus.images["source_row"].to_list() == [1, 0]
    assert corpus.captions["caption_id"].to_list() == ["5#a", "5#b", "7#a", "7#b"]
    assert corpus.captions["text"].to_list() == ['a "dog"\nbarks', "NUL \0 inside", "a cat, asleep", ""]
    assert corpus.captions["status"].to_list() == ["ok", "ok", "ok", "blank"]


def test_the_column_of_file_names_is_that_of_ids_where_there_is_no_other(tmp_path: Path) -> None:
    rows = [{"filepath": f"pics/{name}", "title": f"a {name}"} for name in ("b.jpg", "a.jpg", "b.jpg")]
    write(tmp_path / "captions.csv", rows)
    records = Table(tmp_path, image_file="filepath", caption="title").read()
    assert [(image.image_id, image.file) for image in records.images] == [("pics/b.jpg",) * 2, ("pics/a.jpg",) * 2]
    assert [caption.image_id for caption in records.captions] == ["pics/b.jpg", "pics/a.jpg", "pics/b.jpg"]
    assert Table(tmp_path).read() == records  # usual names are found


def test_root_may_be_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", ROWS)
    assert len(Table(path).read().images) == 2
    assert len(Table(tmp_path, file="mine.csv").read().images) == 2


def test_mapping_of_columns(tmp_path: Path) -> None:
    rows = [
        {"img": "x", "text": "one", "fold": "train", "path": "sub/x.png", "topic": "art"},
        {"img": "y", "text": "two", "fold": "", "path": "", "topic": ""},
        {"img": "x", "text": "three", "fold": "train", "path": "sub/x.png", "topic": "art"},
    ]
    write(tmp_path / "t.csv", rows)
    table = Table(
        tmp_path, file="t.csv", image_id="img", caption="text", split="fold", image_file="path", category="topic"
    )
    corpus = arrange(table.read())
    assert corpus.images["split"].to_list() == ["train", "unassigned"]
    assert corpus.images["file"].to_list() == ["sub/x.png", None]
    assert corpus.images["category"].to_list() == ["art", None]
    assert corpus.captions["caption_id"].to_list() == ["x#0", "x#1", "y#0"]  # made


def test_least_table(tmp_path: Path) -> None:
    write(tmp_path / "captions.jsonl", [{"image_id": "x", "caption": "one"}])
    corpus = arrange(Table(tmp_path).read())
    assert corpus.images.row(0)[:5] == (0, "x", "train", None, 0)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_null_captions_are_images_without_captions(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": "a", "caption": None},
        {"image_id": "b", "caption": "x"},
        {"image_id": "c", "caption": ""},
    ]
    write(tmp_path / f"captions{suffix}", rows)
    corpus = arrange(Table(tmp_path).read())
    assert corpus.images["n_captions"].to_list() == [0, 1, 1]
    assert corpus.captions["caption_id"].to_list() == ["b#0", "c#0"]


def test_jsonl_without_the_key_is_null(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1}\n\n{"image_id": 2, "caption": "x"}')
    assert arrange(Table(tmp_path).read()).images["n_captions"].to_list() == [0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_bytes_that_are_not_utf8(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"captions{suffix}", [{"image_id": "1", "caption": "PLACE"}, {"image_id": "2", "caption": "x"}]
    )
    path.write_bytes(path.read_bytes().replace(b"PLACE", b"caf\xe9"))
    corpus = arrange(Table(tmp_path).read())
    assert corpus.captions["status"].to_list() == ["not_utf8", "ok"]
    assert corpus.captions["text"][0] == "caf\ufffd"


def test_binary_captions_of_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image_id": ["1", "2"], "caption": [b"caf\xe9", "caf\u00e9".encode()]})
    frame.write_parquet(tmp_path / "captions.parquet")
    corpus = arrange(Table(tmp_path).read())
    assert corpus.captions["text"].to_list() == ["caf\ufffd", "caf\u00e9"]
    assert corpus.captions["status"].to_list() == ["not_utf8", "ok"]


def test_byte_order_mark_of_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.csv", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(Table(tmp_path).read().images) == 2


def test_misspelt_columns(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", ROWS)
    with pytest.raises(DatasetError, match="no column 'captoin'") as caught:
        Table(tmp_path, caption="captoin").read()
    assert caught.value.found == "columns image_id, file_name, split, caption_id, caption"
    assert caught.value.todo == "did you mean 'caption'?"
    with pytest.raises(DatasetError, match="no column 'zzz'"):
        Table(tmp_path, category="zzz").read()


def test_required_columns(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", [{"image_no": "1", "caption": "x"}])
    with pytest.raises(DatasetError, match="no column 'image_id'") as caught:
        Table(tmp_path).read()
    assert caught.value.todo == "did you mean 'image_no'?"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"split": "train"}, "row 3 .* contradicts"), ({"file_name": "8.jpg"}, "contradicts an earlier row of image '7'")],
)
def test_contradictions(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write(tmp_path / "captions.parquet", [*ROWS[:2], {**ROWS[2], **change}])
    with pytest.raises(DatasetError, match=message):
        Table(tmp_path).read()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": 1.5, "caption": "x"}, "unusable id"),
        ({"image_id": None, "caption": "x"}, "unusable id"),
        ({"image_id": 1, "caption": [["x"], ["y"]]}, "not text"),
        ({"image_id": 1, "caption": 3}, "not text"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_values_of_wrong_types(tmp_path: Path, row: dict[str, Any], message: str, suffix: str) -> None:
    write(tmp_path / f"captions{suffix}", [row])
    with pytest.raises(DatasetError, match=f"row 1 of captions{suffix}.*{message}"):
        Table(tmp_path).read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", b"image_id,caption\n1,a cat, asleep\n", "line 2 of captions.csv has 3 fields"),
        ("captions.csv", b"", "no column 'image_id'"),
        ("captions.csv", b'image_id,caption\n1,"' + b"x" * 200_000 + b'"\n', "not CSV"),
        ("captions.jsonl", b'{"image_id": 1\n', "line 1 of captions.jsonl is not JSON"),
        ("captions.jsonl", b"[1]\n", "not a JSON object"),
        ("captions.parquet", b"no parquet", "not parquet"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        Table(tmp_path).read()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        Table(tmp_path / "nowhere").read()
    with pytest.raises(DatasetError, match="table does not exist"):
        Table(tmp_path, file="x.csv").read()
    (tmp_path / "x.txt").touch()
    with pytest.raises(DatasetError, match=r"x.txt is not a table"):
        Table(tmp_path, file="x.txt").read()
    (tmp_path / "new_val.json").touch()
    with pytest.raises(DatasetError, match="try dataset 'cusa'"):
        Table(tmp_path).read()


def test_photographs(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", ROWS)
    (tmp_path / "7.jpg").write_bytes(b"x")
    assert Table(tmp_path).read().photos == tmp_path
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "5.jpg").write_bytes(b"x")
    assert Table(tmp_path).read().photos == tmp_path / "images"
    (tmp_path / "other").mkdir()
    assert Table(tmp_path, photos="other").read().photos == tmp_path / "other"


def test_empty_table(tmp_path: Path) -> None:
    pl.DataFrame({"image_id": [], "caption": []}).write_parquet(tmp_path / "captions.parquet")
    with pytest.raises(DatasetError, match="empty"):
        arrange(Table(tmp_path).read())


_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=8))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """Whatever ids and captions are written as CSV come back as they were."""
    folder = tmp_path_factory.mktemp("table")
    write(folder / "captions.csv", [{"image_id": image_id, "caption": text} for image_id, text in rows])
    records = Table(folder, quoting="csv").read()
    assert [image.image_id for image in records.images] == list(dict.fromkeys(image_id for image_id, _ in rows))
    assert [(caption.image_id, caption.text) for caption in records.captions] == rows
