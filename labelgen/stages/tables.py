"""The corpus as workers see it: the tables of an ingest or of a sealed store, read once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from labelgen.store import layout
from labelgen.store.parquet import read_frame
from labelgen.types import Int64, Modality


@lru_cache(maxsize=2)
def distinct_texts(folder: Path) -> list[str]:
    """The distinct usable texts in order of first appearance: entry i is `text_row` i."""
    frame = read_frame(folder / layout.CAPTIONS, columns=["text", "text_row"])
    rows = frame["text_row"].fill_null(-1).cast(int).to_numpy()
    _, first = np.unique(rows[rows >= 0], return_index=True)
    usable = frame["text"].to_list()
    positions = np.flatnonzero(rows >= 0)[first]
    return [usable[position] for position in positions]


@lru_cache(maxsize=2)
def text_rows(folder: Path) -> Int64:
    """`text_row` of every caption, -1 where it has no usable text; [n_captions]."""
    frame = read_frame(folder / layout.CAPTIONS, columns=["text_row"])
    rows: Int64 = frame["text_row"].cast(int).fill_null(-1).to_numpy().astype(np.int64)
    return rows


def first_captions(folder: Path) -> Int64:
    """The first caption row of every distinct text: entry i has `text_row` i; [n_texts]."""
    rows = text_rows(folder)
    usable = np.flatnonzero(rows >= 0)
    return usable[np.unique(rows[usable], return_index=True)[1]].astype(np.int64)


@lru_cache(maxsize=2)
def categories(folder: Path) -> list[str | None]:
    """Category of every image, None where the data set has none."""
    listed: list[str | None] = read_frame(folder / layout.IMAGES, columns=["category"])["category"].to_list()
    return listed


@lru_cache(maxsize=2)
def image_files(folder: Path) -> list[str | None]:
    """File of every image, None where the ingest found it unusable."""
    frame = read_frame(folder / layout.IMAGES, columns=["file", "status"])
    pairs = zip(frame["file"].to_list(), frame["status"].to_list(), strict=True)
    return [file if status == "ok" else None for file, status in pairs]


@lru_cache(maxsize=4)
def ids(folder: Path, modality: Modality) -> list[str]:
    """Ids of all captions or images, by row."""
    table, column = (layout.CAPTIONS, "caption_id") if modality == "text" else (layout.IMAGES, "image_id")
    listed: list[str] = read_frame(folder / table, columns=[column])[column].to_list()
    return listed


@lru_cache(maxsize=2)
def offsets(folder: Path) -> Int64:
    """Captions of image v are rows offsets[v]:offsets[v + 1]; [n_images + 1]."""
    counts = read_frame(folder / layout.IMAGES, columns=["n_captions"])["n_captions"].to_numpy()
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


@lru_cache(maxsize=2)
def splits(folder: Path) -> dict[str, tuple[int, int]]:
    """Image rows [start, stop) of every split, in row order."""
    names = read_frame(folder / layout.IMAGES, columns=["split"])["split"].to_list()
    ranges: dict[str, tuple[int, int]] = {}
    for row, name in enumerate(names):
        ranges[name] = (ranges[name][0] if name in ranges else row, row + 1)
    return ranges
