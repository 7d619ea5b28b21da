"""Tables have a fixed schema; other readers and ours agree on them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelgen.errors import CorruptStoreError, DatasetError
from labelgen.fingerprint import digest_file
from labelgen.store.disk.parquet import iter_columns, read_frame, read_strings, write_frame
from labelgen.store.layout import QUARANTINE, TABLES

FRAME = pl.DataFrame(
    {
        "kind": ["image", "caption", "image"],
        "row": pl.Series([3, None, 1], dtype=pl.UInt32),
        "id": ["a", "b\nwith a line", "Größe"],
        "file": ["x.jpg", None, None],
        "stage": ["embed", "ingest", "embed"],
        "alias": pl.Series([None, None, None], dtype=pl.String),
        "reason": ["truncated", "blank", "zero\0byte"],
    }
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / QUARANTINE
    fact = write_frame(path, FRAME)
    assert fact == (path.stat().st_size, digest_file(path))
    assert read_frame(path).equals(FRAME)
    assert read_frame(path, columns=["id"]).columns == ["id"]
    assert pl.read_parquet(path).equals(FRAME)


def test_the_schema_is_fixed_whatever_the_frame_looks_like(tmp_path: Path) -> None:
    """Column order, wider integers and an all-null column do not change a byte."""
    odd = FRAME.select(reversed(FRAME.columns)).with_columns(
        pl.col("row").cast(pl.Int64), pl.lit(None).alias("alias"), pl.col("kind").cast(pl.Categorical)
    )
    first, second = write_frame(tmp_path / "a" / QUARANTINE, FRAME), write_frame(tmp_path / "b" / QUARANTINE, odd)
    assert first == second
    schema = pq.read_schema(tmp_path / "a" / QUARANTINE)
    assert schema.names == list(TABLES[QUARANTINE])
    assert [str(field.type) for field in schema] == [kind.rstrip("?") for kind in TABLES[QUARANTINE].values()]
    assert [field.nullable for field in schema] == [kind.endswith("?") for kind in TABLES[QUARANTINE].values()]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.drop("reason"), "wrong columns"),
        (FRAME.with_columns(pl.lit(1).alias("more")), "wrong columns"),
        (FRAME.with_columns(pl.lit(None, pl.String).alias("id")), "nulls in column 'id'"),
        (FRAME.with_columns(pl.Series("row", [-1, 0, 0])), "do not fit"),
        (FRAME.with_columns(pl.Series("row", [2**32, 0, 0])), "do not fit"),
    ],
)
def test_other_frames_are_refused(tmp_path: Path, frame: pl.DataFrame, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        write_frame(tmp_path / QUARANTINE, frame)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table(tmp_path: Path) -> None:
    write_frame(tmp_path / QUARANTINE, FRAME.head(0))
    assert read_frame(tmp_path / QUARANTINE).equals(FRAME.head(0))
    assert len(read_strings(tmp_path / QUARANTINE, "id")) == 0


def test_strings_by_row(tmp_path: Path) -> None:
    write_frame(tmp_path / QUARANTINE, FRAME)
    column = read_strings(tmp_path / QUARANTINE, "id")
    assert len(column) == 3
    assert column.take([2, 0, 2]) == ["Größe", "a", "Größe"]


def test_pieces_are_in_order_and_bounded(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": pa.array(range(150_000))}), tmp_path / "t", row_group_size=70_000)
    pieces = list(iter_columns(tmp_path / "t", ["n"]))
    assert [row for piece in pieces for row in piece["n"]] == list(range(150_000))
    assert max(len(piece["n"]) for piece in pieces) <= 65_536


@pytest.mark.parametrize("damage", ["not parquet", "other columns"])
def test_damaged_tables(tmp_path: Path, damage: str) -> None:
    if damage == "not parquet":
        (tmp_path / "t").write_bytes(b"PAR1 but not really PAR1")
    else:
        pq.write_table(pa.table({"m": [1]}), tmp_path / "t")
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        list(iter_columns(tmp_path / "t", ["n"]))
