"""The corpus: every image and caption with its permanent row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from labelgen.corpus.ledger import Account, with_quarantine
from labelgen.fingerprint import digest_many
from labelgen.types import Int64

IMAGE_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "image_row": pl.UInt32,
    "image_id": pl.String,
    "split": pl.String,
    "file": pl.String,
    "source_row": pl.UInt32,
    "n_captions": pl.UInt32,
    "category": pl.String,
    "width": pl.UInt32,
    "height": pl.UInt32,
    "status": pl.String,
}

CAPTION_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "caption_row": pl.UInt32,
    "caption_id": pl.String,
    "image_row": pl.UInt32,
    "split": pl.String,
    "text": pl.String,
    "text_row": pl.UInt32,
    "source_row": pl.UInt32,
    "status": pl.String,
}

QUARANTINE_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "kind": pl.String,
    "row": pl.UInt32,
    "id": pl.String,
    "file": pl.String,
    "stage": pl.String,
    "alias": pl.String,
    "reason": pl.String,
}

# What identifies a corpus: found in the metadata, never in the photographs or on this machine.
_IDENTITY = {
    "images": ("image_id", "split", "file", "source_row", "n_captions", "category"),
    "captions": ("caption_id", "text", "text_row", "source_row"),
}


@dataclass(frozen=True, eq=False)  # frames have no single truth value; compare content_fingerprint()
class Corpus:
    """Rows of a data set. Row i of a frame is image_row or caption_row i.

    Attributes:
        images: one row an image, columns of `IMAGE_SCHEMA`; `status` is "ok" or why the photograph cannot be used.
        captions: one row a caption, columns of `CAPTION_SCHEMA`; the captions of an image are consecutive, `text_row`
            numbers the distinct usable texts and is null where `status` is not "ok".
        quarantine: what cannot be used and why, columns of `QUARANTINE_SCHEMA`; `kind` is "image" or "caption".
        photos: folder that `images.file` is relative to, None where no photographs were found.
        ledger: account of everything that was read, empty where there is none.
    """

    images: pl.DataFrame
    captions: pl.DataFrame
    quarantine: pl.DataFrame
    photos: Path | None
    ledger: tuple[Account, ...] = ()

    @cached_property
    def offsets(self) -> Int64:
        """The captions of image v are rows offsets[v]:offsets[v + 1]; int64 [n_images + 1]."""
        offsets = np.zeros(len(self.images) + 1, np.int64)
        np.cumsum(self.images["n_captions"].to_numpy(), out=offsets[1:])
        return offsets

    @cached_property
    def splits(self) -> dict[str, tuple[int, int]]:
        """Image rows (start, stop) of every split, in row order."""
        names = self.images["split"].to_list()
        starts = [row for row, name in enumerate(names) if row == 0 or name != names[row - 1]]
        stops = [*starts[1:], len(names)]
        return {names[start]: (start, stop) for start, stop in zip(starts, stops, strict=True)}

    def texts(self) -> list[str]:
        """The distinct usable texts: entry i is `text_row` i."""
        usable = self.captions.select("text_row", "text").filter(pl.col("text_row").is_not_null())
        listed: list[str] = usable.unique("text_row").sort("text_row")["text"].to_list()
        return listed

    def with_images(self, images: pl.DataFrame, quarantine: pl.DataFrame) -> Corpus:
        """The corpus with what was found in the photographs: new `images`, and more rows of quarantine."""
        return replace(self, images=images).with_quarantine(pl.concat([self.quarantine, quarantine]))

    def with_quarantine(self, quarantine: pl.DataFrame) -> Corpus:
        """The corpus with another quarantine table, and an account that follows it."""
        rows = quarantine.select("kind", "row", "id", "reason").iter_rows()
        return replace(self, quarantine=quarantine, ledger=with_quarantine(self.ledger, rows))

    def content_fingerprint(self) -> str:
        """Identity of ids, order, splits, files, categories and texts: 32 hexadecimal digits.

        Photographs do not count (neither their place nor their sizes or damages): their bytes belong to the
        fingerprint of the embeddings that are made of them.
        """
        frames = {"images": self.images, "captions": self.captions}
        parts: list[bytes] = []
        for frame, columns in _IDENTITY.items():
            for column in columns:
                parts += [f"{frame}.{column}".encode(), *_column_bytes(frames[frame][column])]
        return digest_many(parts)


def numbered_texts(texts: Iterable[str], usable: Iterable[bool], known: Iterable[str] = ()) -> list[int | None]:
    """`text_row` of every caption: the number of its text among `known` ones, then in order of first appearance."""
    seen = {text: row for row, text in enumerate(known)}
    return [seen.setdefault(text, len(seen)) if good else None for text, good in zip(texts, usable, strict=True)]


def _column_bytes(column: pl.Series) -> list[bytes]:
    """Lengths and bytes of a text column, or the numbers of another; null counts as length or number -1."""
    if column.dtype != pl.String:
        return [column.cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes()]
    lengths = column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes()
    return [lengths, "".join(column.drop_nulls().to_list()).encode()]
