"""Columns of the tables of an ingest or a sealed store, read once per process.

Repeated appends write several corpora into one folder, so a result is reused only for the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from labelgen.corpus import frames
from labelgen.store import layout
from labelgen.store.disk.parquet import read_frame
from labelgen.store.splits import SplitRows, splits_of
from labelgen.types import Int64, Modality

Read = TypeVar("Read", bound=Callable[..., Any])


def _once(maxsize: int) -> Callable[[Read], Read]:
    """Cache a function of a folder for as long as its tables are the same files."""

    def remembering(function: Read) -> Read:
        @lru_cache(maxsize)
        def read(_stamps: tuple[tuple[int, int], ...], folder: Path, *arguments: Any) -> Any:
            return function(folder, *arguments)

        @wraps(function)
        def remembered(folder: Path, *arguments: Any) -> Any:
            stats = [(folder / name).stat() for name in (layout.IMAGES, layout.CAPTIONS)]
            return read(tuple((stat.st_ino, stat.st_mtime_ns) for stat in stats), folder, *arguments)

        return remembered  # type: ignore[return-value]  # the same arguments, the same result

    return remembering


@_once(maxsize=2)
def distinct_texts(folder: Path) -> list[str]:
    """The distinct usable texts in order of first appearance: entry i is `text_row` i."""
    texts = read_frame(folder / layout.CAPTIONS, columns=["text"])["text"].to_list()
    return [texts[caption] for caption in first_captions(folder)]


@_once(maxsize=2)
def text_rows(folder: Path) -> Int64:
    """`text_row` of every caption, -1 where it has no usable text; [n_captions]."""
    frame = read_frame(folder / layout.CAPTIONS, columns=["text_row"])
    rows: Int64 = frame["text_row"].cast(int).fill_null(-1).to_numpy().astype(np.int64)
    return rows


@_once(maxsize=2)
def first_captions(folder: Path) -> Int64:
    """The first caption row of every distinct text: entry i has `text_row` i; [n_texts]."""
    rows = text_rows(folder)
    usable = np.flatnonzero(rows >= 0)
    return usable[np.unique(rows[usable], return_index=True)[1]].astype(np.int64)


@_once(maxsize=2)
def categories(folder: Path) -> list[str | None]:
    """Category of every image, None where the data set has none."""
    listed: list[str | None] = read_frame(folder / layout.IMAGES, columns=["category"])["category"].to_list()
    return listed


@_once(maxsize=2)
def groups(folder: Path) -> list[str | None]:
    """Group of every image, None where it has none; empty where the data set has no groups."""
    frame = read_frame(folder / layout.IMAGES)
    listed: list[str | None] = frame["group"].to_list() if "group" in frame.columns else []
    return listed


@_once(maxsize=2)
def image_files(folder: Path) -> list[str | None]:
    """File of every image, None where the ingest found it unusable."""
    frame = read_frame(folder / layout.IMAGES, columns=["file", "status"])
    pairs = zip(frame["file"].to_list(), frame["status"].to_list(), strict=True)
    return [file if status == "ok" else None for file, status in pairs]


@_once(maxsize=4)
def ids(folder: Path, modality: Modality) -> list[str]:
    """Ids of all captions or images, by row."""
    table, column = (layout.CAPTIONS, "caption_id") if modality == "text" else (layout.IMAGES, "image_id")
    listed: list[str] = read_frame(folder / table, columns=[column])[column].to_list()
    return listed


@_once(maxsize=2)
def offsets(folder: Path) -> Int64:
    """Captions of image v are rows offsets[v]:offsets[v + 1]; [n_images + 1]."""
    counts = read_frame(folder / layout.IMAGES, columns=["n_captions"])["n_captions"].to_numpy()
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


@_once(maxsize=2)
def splits(folder: Path) -> dict[str, SplitRows]:
    """Image rows of every split, in the order in which splits first appear."""
    return splits_of(read_frame(folder / layout.IMAGES, columns=["split"])["split"].to_list())


@_once(maxsize=2)
def rows_of_kinds(folder: Path, kinds: tuple[str, ...]) -> Int64:
    """Caption rows of some kinds, see `frames.rows_of_kinds`."""
    return frames.rows_of_kinds(read_frame(folder / layout.CAPTIONS, columns=["kind"]), kinds)


def split_spans(folder: Path) -> list[list[tuple[int, int]]]:
    """Image ranges [start, stop) of every split, in the order of `splits`."""
    return [[(part.start, part.stop) for part in rows.ranges] for rows in splits(folder).values()]


def spread(count: int, sample: int) -> Int64:
    """Up to `sample` of `count` rows, evenly spread and ascending."""
    return np.unique(np.linspace(0, max(0, count - 1), min(sample, count)).astype(np.int64))
