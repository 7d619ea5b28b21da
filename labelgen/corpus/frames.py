"""The corpus: every image and caption with its permanent row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from labelgen.corpus.ledger import Account, with_quarantine
from labelgen.fingerprint import digest_many
from labelgen.store import layout
from labelgen.types import UNSPECIFIED, Int64

_TYPES: Mapping[str, type[pl.DataType]] = {"uint32": pl.UInt32, "string": pl.String}


def _schema(table: str) -> dict[str, type[pl.DataType]]:
    """All columns that a table of a store can have, and their types in a frame."""
    columns = {**layout.TABLES[table], **layout.ADDED_COLUMNS[table]}
    return {name: _TYPES[kind.rstrip("?")] for name, kind in columns.items()}


IMAGE_SCHEMA = _schema(layout.IMAGES)
CAPTION_SCHEMA = _schema(layout.CAPTIONS)
QUARANTINE_SCHEMA = _schema(layout.QUARANTINE)

#: Most kinds of captions, and characters of one: a column with more has another meaning.
MAX_KINDS, MAX_KIND = 256, 256
#: The kind whose texts come first.
HUMAN = "human"

# What identifies a corpus: found in the metadata, never in the photographs or on this machine.
_IDENTITY = {
    "images": ("image_id", "split", "file", "source_row", "n_captions", "category"),
    "captions": ("caption_id", "text", "text_row", "source_row"),
}
# Columns that not every store has: they identify a corpus only where they hold a value.
_ADDED = {"images": "group", "captions": "kind"}


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
        """Identity of ids, order, splits, files, categories, groups, texts and kinds: 32 hexadecimal digits.

        Photographs do not count (neither their place nor their sizes or damages): their bytes belong to the
        fingerprint of the embeddings that are made of them.
        """
        frames = {"images": self.images, "captions": self.captions}
        parts: list[bytes] = []
        for frame, columns in _IDENTITY.items():
            added = _ADDED[frame]
            for column in (*columns, added) if _holds(frames[frame], added) else columns:
                parts += [f"{frame}.{column}".encode(), *_column_bytes(frames[frame][column])]
        return digest_many(parts)


def numbered_texts(
    texts: Sequence[str], usable: Sequence[bool], kinds: Sequence[str | None], known: Iterable[str] = ()
) -> list[int | None]:
    """`text_row` of every caption: the number of its text among `known` ones, then further numbers.

    Further texts are numbered kind by kind, in the order of `kinds_in_order`, and by first appearance within a kind: a
    text that several kinds have belongs to the first of them.
    """
    ranks = {kind: rank for rank, kind in enumerate(kinds_in_order(kinds))}
    seen = {text: row for row, text in enumerate(known)}
    for row in sorted(range(len(texts)), key=lambda row: ranks[kinds[row]]):
        if usable[row]:
            seen.setdefault(texts[row], len(seen))
    return [seen[text] if good else None for text, good in zip(texts, usable, strict=True)]


def kinds_in_order(kinds: Iterable[str | None]) -> list[str | None]:
    """The distinct kinds: `human` first, then None, then others by name."""
    return sorted(set(kinds), key=lambda kind: (kind != HUMAN, kind is not None, kind or ""))


def text_borders(captions: pl.DataFrame, parts: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The distinct texts that begin another kind than the text before them, among those that `numbered_texts` made new.

    Args:
        parts: first caption and first text of the captions that were numbered together, in row order.
    """
    kinds = kinds_in_order(captions["kind"].unique())
    if len(kinds) < 2:
        return ()
    ranked = captions.select("text_row", rank=pl.col("kind").replace_strict(kinds, range(len(kinds))))
    borders = list[int]()
    for (caption, text), after in zip(parts, [*(first for first, _ in parts[1:]), len(captions)], strict=True):
        new = ranked[caption:after].filter(pl.col("text_row") >= text)
        ranks = new.group_by("text_row").agg(pl.col("rank").min()).sort("text_row")["rank"].to_numpy()
        borders += (text + 1 + np.flatnonzero(np.diff(ranks))).tolist()
    return tuple(borders)


def captions_by_kind(captions: pl.DataFrame) -> dict[str, int]:
    """Number of captions of every kind, in the order of `kinds_in_order`; empty where none has a kind."""
    if not _holds(captions, "kind"):
        return {}
    counts = dict(captions["kind"].value_counts().iter_rows())
    return {UNSPECIFIED if kind is None else kind: counts[kind] for kind in kinds_in_order(counts)}


def rows_of_kinds(captions: pl.DataFrame, kinds: Sequence[str]) -> Int64:
    """Rows of the captions of some kinds, ascending; `unspecified` are captions without one."""
    named = captions["kind"].fill_null(UNSPECIFIED)
    return np.flatnonzero(named.is_in(list(kinds)).to_numpy()).astype(np.int64)


def group_count(images: pl.DataFrame) -> int:
    """Number of groups of images."""
    return images["group"].drop_nulls().n_unique() if "group" in images.columns else 0


def completed(frame: pl.DataFrame, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """A table of a store with all columns of `schema`: those that it was written without are null."""
    return frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in frame)


def _holds(frame: pl.DataFrame, column: str) -> bool:
    return column in frame.columns and frame[column].null_count() < len(frame)


def _column_bytes(column: pl.Series) -> list[bytes]:
    """Lengths and bytes of a text column, or the numbers of another; null counts as length or number -1."""
    if column.dtype != pl.String:
        return [column.cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes()]
    lengths = column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy().astype("<i8").tobytes()
    return [lengths, "".join(column.drop_nulls().to_list()).encode()]
