"""Galleries: rows with pictures, every text escaped."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

import labelgen
from labelgen.audit.checks.false_negatives import false_negatives
from labelgen.audit.report.gallery import show
from labelgen.errors import ConfigError, UnknownIdError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Its first photograph lies in the folder `photos`."""
    made = labelgen.open(make_store(tmp_path / "s", n_images=4))
    made._frames[f"{made.manifest.corpus.path}/images.parquet"] = made.images.with_columns(
        pl.Series("file", ["a.jpg", "absent.jpg", None, "b.jpg"], dtype=pl.String)
    )
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "photos" / "b.jpg").write_bytes(b"no picture")
    return made


def test_rows_with_pictures(store: Store, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"rank": [1, 2, 3], "score": [0.5] * 3, "image_id": ["img-0", "img-1", "img-3"], "text": [EVIL] * 3}
    )
    made = show(store, frame, count=3, photos=tmp_path / "photos")
    assert list(made.pictures) == ["img-0"]
    page = made._repr_html_()
    assert page.count("<img ") == 1
    assert "data:image/jpeg;base64," in page
    assert page.count("&lt;img src=x onerror=&quot;") == 3
    assert repr(made).splitlines()[0].startswith("1. score 0.500")
    assert len(show(store, frame, count=2).findings) == 2


def test_nothing_and_unknown(store: Store, tmp_path: Path) -> None:
    assert "nothing" in show(store, pl.DataFrame({"image_id": []}, schema={"image_id": pl.String}))._repr_html_()
    with pytest.raises(UnknownIdError):
        show(store, pl.DataFrame({"image_id": ["nobody"]}), photos=tmp_path)
    with pytest.raises(ConfigError, match="mass"):
        show(store, pl.DataFrame({"relation": ["i2t"], "mass": [0.5]}))
    with pytest.raises(ConfigError, match="a dict"):
        show(store, {"image_id": ["img-0"]})  # type: ignore[arg-type]


def test_from_a_store_to_a_gallery(demo_store: Path, tmp_path: Path) -> None:
    """One call shows the false negatives: photographs first, then the candidate caption and the annotated captions."""
    store = labelgen.open(demo_store)
    made = show(store, count=3)
    frame = false_negatives(store).head(3)
    assert [dict(finding.ids)["caption id"] for finding in made.findings] == frame["caption_id"].to_list()
    card = made._repr_html_().split("<details>")[0]
    places = [
        card.index(text) for text in ("<img", frame["text"][0], "annotated captions</div>", frame["image_text"][0])
    ]
    assert places == sorted(places)
    assert card.count("<img") == 2
    assert "mean of its two largest similarities" in made._repr_html_().lower()
    saved = made.save(tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert made._repr_html_() in saved
    assert "<script" not in saved
    assert "color-scheme" in saved


def test_long_sets_and_texts_are_cut(tmp_path: Path) -> None:
    """Ten annotated captions of 500 characters say enough; the caption in question is whole."""
    store = labelgen.open(make_store(tmp_path / "s", n_images=3, captions_per_image=14))
    long = store.captions.with_columns(text=pl.col("text") + "x" * 600)
    store._frames[f"{store.manifest.corpus.path}/captions.parquet"] = long
    frame = pl.DataFrame({"image_id": ["img-0"], "caption_id": ["cap-0"], "text": [long["text"][0]]})
    made = show(store, frame, photos=tmp_path)
    ((_, texts),) = made.findings[0].others(made.captions)
    assert texts == [text[:499] + "…" for text in long["text"][:10] if text != long["text"][0]]
    assert long["text"][0] in made._repr_html_()
