"""Galleries: rows with pictures, every text escaped."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

import labelgen
from labelgen.audit.report.gallery import show
from labelgen.errors import UnknownIdError
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
