"""Data in Python as tables: the same corpus from every kind of frame, and nothing lost."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from labelgen.corpus.adapters.table import Table
from labelgen.corpus.arrange import arrange
from labelgen.corpus.frames import Corpus
from labelgen.corpus.in_memory.rows import is_saved_dataset, load_saved
from labelgen.corpus.in_memory.snapshot import take
from labelgen.corpus.photos.photos import decode_photo, read_photo
from labelgen.errors import DatasetError, DiskError, LabelgenError, UnknownNameError
from labelgen.fingerprint import digest

ROWS: list[dict[str, Any]] = [
    {"image_id": "b", "caption": "two dogs", "split": "test", "caption_id": "x1", "kind": "human"},
    {"image_id": "a", "caption": "a cat, asleep", "split": "train", "caption_id": "x2", "kind": "blip"},
    {"image_id": "b", "caption": "zwei Hunde 🐕", "split": "test", "caption_id": "x3", "kind": None},
]


def read(tmp_path: Path, data: Any, **options: Any) -> Corpus:
    snapshot = take(data, tmp_path / "data", **options)
    return arrange(Table(snapshot.table, photos=snapshot.photos).read())


def saved_png(color: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def pandas_frame(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows)


def arrow_table(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(rows)


def hugging_face(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(rows)


KINDS: Mapping[str, Callable[[list[dict[str, Any]]], Any]] = {
    "polars": pl.DataFrame,
    "lazy": lambda rows: pl.DataFrame(rows).lazy(),
    "pandas": pandas_frame,
    "arrow": arrow_table,
    "hugging_face": hugging_face,
    "columns": columns,
    "records": list,
    "iterator": iter,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_one_corpus(tmp_path: Path, kind: str) -> None:
    corpus = read(tmp_path, KINDS[kind](ROWS))
    assert corpus.images["image_id"].to_list() == ["a", "b"]
    assert corpus.captions["text"].to_list() == ["a cat, asleep", "two dogs", "zwei Hunde 🐕"]
    assert corpus.captions["kind"].to_list() == ["blip", "human", None]
    assert corpus.content_fingerprint() == read(tmp_path / "again", ROWS).content_fingerprint()


def test_lists_of_captions_and_several_columns(tmp_path: Path) -> None:
    listed = [{"image_id": 7, "caption": ["one", "two"]}, {"image_id": 8, "caption": []}]
    corpus = read(tmp_path, listed)
    assert corpus.images["n_captions"].to_list() == [2, 0]
    assert corpus.captions["caption_id"].to_list() == ["7#0", "7#1"]
    wide = [
        {"image_id": 7, "caption_0": "one", "caption_1": "two"},
        {"image_id": 8, "caption_0": None, "caption_1": None},
    ]
    named = read(tmp_path, wide, columns={"caption": ["caption_0", "caption_1"]})
    assert named.content_fingerprint() == corpus.content_fingerprint()


def test_pictures_in_every_form(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "p.png")
    stream = BytesIO()
    picture.save(stream, "PNG")
    forms = [str(tmp_path / "p.png"), tmp_path / "p.png", stream.getvalue(), picture, noise]
    forms += [{"bytes": stream.getvalue(), "path": "hf.png"}, {"bytes": None, "path": str(tmp_path / "p.png")}]
    rows = [{"image_id": str(number), "image": form, "caption": "x"} for number, form in enumerate(forms)]
    rows.append({"image_id": "none", "image": None, "caption": "y"})
    corpus = read(tmp_path, rows)
    assert corpus.photos is not None
    for file in corpus.images["file"].to_list()[: len(forms)]:
        assert np.array_equal(np.asarray(decode_photo(read_photo(corpus.photos, file))), noise)
    assert corpus.images["file"].to_list()[-1] is None
    assert len(list((tmp_path / "data" / "pictures").iterdir())) == 2  # equal bytes and equal pixels are saved once


def test_images_without_ids_are_named_by_path_or_content(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "red")]
    corpus = read(tmp_path, [{"image": picture, "text": str(n)} for n, picture in enumerate(pictures)])
    assert len(corpus.images) == 2
    assert corpus.captions["text"].to_list() == ["0", "2", "1"]
    pictures[0].save(tmp_path / "r.png")
    named = read(tmp_path, [{"filepath": "r.png", "title": "red"}], photos=str(tmp_path))
    assert named.images["image_id"].to_list() == ["r.png"]


def test_upright_pixels_of_a_turned_picture(tmp_path: Path) -> None:
    """A PIL image read from a photograph with an EXIF orientation is the same photograph."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "t.png", exif=exif)
    with Image.open(tmp_path / "t.png") as opened:
        corpus = read(tmp_path, [{"image": opened, "caption": "x"}])
    assert corpus.photos is not None
    saved = decode_photo(read_photo(corpus.photos, corpus.images["file"][0]))
    assert np.array_equal(np.asarray(saved), np.asarray(decode_photo((tmp_path / "t.png").read_bytes())))
    assert saved.size == (6, 10)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "YCbCr", "HSV"])
def test_every_mode_of_pictures_is_kept_or_converted(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (5, 4)) if mode != "P" else Image.new("RGB", (5, 4), "red").quantize(4)
    corpus = read(tmp_path, [{"image": picture, "caption": "x"}])
    assert corpus.photos is not None
    assert decode_photo(read_photo(corpus.photos, corpus.images["file"][0])).size == (5, 4)


def test_texts_that_are_not_utf8_and_odd_ids(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a\nb", "caption": b"caf\xe9".decode("utf-8", "surrogateescape")},
        {"image_id": "ü", "caption": "\ud83d alone"},
        {"image_id": "c", "caption": "fine"},
        {"image_id": "c", "caption": "   "},
    ]
    corpus = read(tmp_path, rows)
    assert sorted(corpus.captions["status"].to_list()) == ["blank", "not_utf8", "not_utf8", "ok"]


def test_missing_values_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"image_id": pandas.array([1, 1], dtype="Int64"), "caption": ["x", float("nan")], "category": [pandas.NA, None]}
    )
    corpus = read(tmp_path, frame)
    assert corpus.captions["text"].to_list() == ["x"]
    assert corpus.images["image_id"].to_list() == ["1"]


def test_hugging_face_splits_labels_and_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = {}
    for split, color in (("train", "red"), ("validation", "blue")):
        stream = BytesIO()
        Image.new("RGB", (8, 8), color).save(stream, "PNG")
        rows = {
            "image": [{"bytes": stream.getvalue(), "path": f"{color}.png"}],
            "caption": [[f"a {color} one", "x"]],
            "category": [1],
        }
        kinds = {"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))}
        kinds["category"] = datasets.ClassLabel(names=["no", "yes"])
        made[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    whole = datasets.DatasetDict(made)
    corpus = read(tmp_path, whole)
    assert corpus.images.select("image_id", "split", "category").rows() == [
        ("red.png", "train", "yes"),
        ("blue.png", "val", "yes"),
    ]
    whole.save_to_disk(str(tmp_path / "saved"))
    assert is_saved_dataset(tmp_path / "saved")
    again = read(tmp_path / "again", load_saved(tmp_path / "saved"))
    assert again.content_fingerprint() == corpus.content_fingerprint()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no rows"),
        (3, "not a data set"),
        ("captions", "not a data set"),
        ([1, 2], "record 0 is not a mapping"),
        ([("a", "b")], "record 0 is not a mapping"),
        ([{"image_id": "a"}], "no column of captions"),
        ([{"caption": "a"}], "which image"),
        ({"image_id": "a", "caption": ["b"]}, "lists of one length"),
        ({"image_id": ["a", "b"], "caption": ["b"]}, "lists of one length"),
        ([{"image_id": 1.5, "caption": "x"}], "row 0 has an unusable id"),
        ([{"image_id": "a", "caption": 3}], "row 0 has a caption that is not text"),
        ([{"image_id": "a", "caption": "x"}, {"caption": "y"}], "row 1 has neither"),
        ([{"image": "nowhere.jpg", "caption": "x"}], "photographs are not there"),
        ([{"image": "https://example.org/a.jpg", "caption": "x"}], "is an address"),
        ([{"image": 5, "caption": "x"}], "picture of an unknown kind"),
        ([{"image_id": "a", "caption": ["x", "y"], "caption_id": ["1"]}], "2 captions and a list of 1"),
    ],
)
def test_refused_data_leaves_nothing(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(LabelgenError, match=message):
        read(tmp_path, data)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (iter([]), "give a list"),
        ([], ""),
        ([{"image_id": 1.0, "caption": "x"}], "astype('Int64')"),
        ([{"caption": "y", "image": None}], "dropna"),
        ([{"image": "a", "caption_0": "x", "caption_1": "y"}], '{"caption": ["caption_0", "caption_1"]}'),
        ([{"image": "a", "raw_caption": "x"}], '{"caption": "raw_caption"}'),
        ([{"image": "a", "alt": "x"}], '{"caption": "..."}'),
    ],
)
def test_advice_names_what_to_write(tmp_path: Path, data: Any, advice: str) -> None:
    with pytest.raises(DatasetError) as refused:
        take(data, tmp_path)
    assert advice in refused.value.todo
    assert bool(advice) == bool(refused.value.todo)


def test_rows_without_a_caption_are_counted_in_a_note(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "caption": None}, {"image_id": "b", "caption": "x"}, {"image_id": "c", "caption": []}]
    assert take(rows, tmp_path).notes == ["2 rows have no caption: they only say that there is an image"]


def test_different_pictures_of_one_file_name_are_different_images(tmp_path: Path) -> None:
    """Saved data sets of Hugging Face keep `train/0.png` and `val/0.png` as `0.png`."""
    datasets = pytest.importorskip("datasets")
    red, blue = (saved_png(color) for color in ("red", "blue"))
    pictures = [{"bytes": data, "path": name} for data, name in ((red, "0.png"), (blue, "0.png"), (red, "1.png"))]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": pictures, "caption": ["x", "y", "z"]}, features=features)
    corpus = read(tmp_path, data)
    ids = corpus.images["image_id"].to_list()
    assert ids == [f"0.png-{digest(red)}", f"0.png-{digest(blue)}", "1.png"]
    assert "different pictures have one file name" in take(data, tmp_path / "again").notes[0]


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'captoin'"):
        read(tmp_path, ROWS, columns={"caption": "captoin"})
    with pytest.raises(UnknownNameError, match="meaning of a column"):
        read(tmp_path, ROWS, columns={"captions": "caption"})


def test_a_picture_saved_before_an_error_is_removed(tmp_path: Path) -> None:
    rows = [{"image": Image.new("RGB", (8, 8)), "caption": "x"}, {"image": 5, "caption": "y"}]
    with pytest.raises(DatasetError):
        read(tmp_path, rows)
    assert not (tmp_path / "data").exists()


def test_unused_columns_are_reported(tmp_path: Path) -> None:
    snapshot = take([{"image_id": "a", "caption": "x", "alt": "y", "score": 1}], tmp_path / "data")
    assert snapshot.notes == ["columns without a meaning are not used: 'alt', 'score'"]


def test_equal_data_is_written_once_and_changed_data_beside_it(tmp_path: Path) -> None:
    first, again = (take(ROWS, tmp_path / "data") for _ in range(2))
    assert (first.table, list(first.new), list(again.new)) == (again.table, [first.table], [])
    changed = take([*ROWS[:2], {**ROWS[2], "caption": "other"}], tmp_path / "data")
    assert changed.table != first.table
    changed.remove()
    assert first.table.is_file()
    assert json.loads(pl.read_parquet(first.table).write_json())[0]["image_id"] == "b"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both for the first picture and for the table behind it."""
    rows = [{"image": Image.new("RGB", (8, 8)), "caption": "x"}]
    for suffix in (".png", ".parquet"):

        def full(source: Path, target: Path, wanted: str = suffix) -> Path:
            if target.suffix == wanted:
                raise OSError(errno.ENOSPC, "full")
            return source.replace(target)

        monkeypatch.setattr("labelgen.store.disk.atomic.rename", full)
        with pytest.raises(DiskError, match="cannot write"):
            read(tmp_path, rows)
        assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
