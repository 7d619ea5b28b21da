"""A parquet file with any byte changed is read or refused: polars panics on some, which is no `Exception`."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import polars as pl
import pytest

from labelgen.audit.judgements.judgements import read_judgements
from labelgen.errors import LabelgenError
from labelgen.patches import patch
from labelgen.store.disk import parquet

PATCH = pl.DataFrame(
    {
        "store_id": ["s"] * 3,
        "decision": ["add_positive", "drop_caption", "drop_image"],
        "image_id": ["a", None, "c"],
        "caption_id": ["b", "b2", None],
        "score": [0.5, None, None],
    }
)
RATINGS = pl.DataFrame({"image_id": ["a", "b"], "caption_id": ["c", "d"], "rating": [1.0, 2.0]})


def _bytes(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


READERS = {
    "patch": (_bytes(PATCH), patch.read),
    "judgements": (_bytes(RATINGS), read_judgements),
    "table of a store": (_bytes(RATINGS), parquet.read_frame),
}


@pytest.mark.parametrize("name", READERS)
def test_any_changed_byte_is_read_or_refused(name: str, tmp_path: Path) -> None:
    whole, read = READERS[name]
    file = tmp_path / "file.parquet"
    refused = 0
    for place in range(4, len(whole) - 8, 3):
        for value in (0xFF, 0x15):
            data = bytearray(whole)
            data[place] ^= value
            file.write_bytes(data)
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    read(file)
            except LabelgenError:
                refused += 1
    assert refused > 50
