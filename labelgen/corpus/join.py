"""New images after the rows of a store: what may be appended, and the rows that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from labelgen.corpus.frames import CAPTION_SCHEMA, IMAGE_SCHEMA, QUARANTINE_SCHEMA, Corpus, numbered_texts
from labelgen.corpus.ledger import rebooked
from labelgen.errors import DatasetError, some

#: Kind of images, and of their captions, that a data set shares with the store that it is appended to.
_THERE = "in the store already"


@dataclass(frozen=True, eq=False)
class Joined:
    """A corpus behind another one.

    Attributes:
        corpus: all rows: the old ones as they were, then the new ones; `photos` are those of the new ones.
        new: the new rows alone, numbered from 0, as they were read, with the account of the data set.
        first_image, first_caption, first_text: the first new rows.
        skipped: images of the data set that were there already, with the same captions.
    """

    corpus: Corpus
    new: Corpus
    first_image: int
    first_caption: int
    first_text: int
    skipped: int


def join(old: Corpus, read: Corpus) -> Joined:
    """Put the images of a data set that a store does not hold behind its rows.

    Texts of the store keep their `text_row`, further ones get the next numbers. `source_row` counts in the data set
    that a row came from.

    Raises:
        DatasetError: an image that is there already with other captions or in another split, or a caption id that
            belongs to another image there.
    """
    there = set(old.images["image_id"].to_list())
    known = read.images["image_id"].is_in(there)
    _refuse_other_captions(old, read)
    new = _only(read, ~known)
    _refuse_known_captions(old, new)
    n_images, n_captions, texts = len(old.images), len(old.captions), old.texts()
    images = new.images.with_columns(pl.col("image_row") + n_images)
    captions = new.captions.with_columns(
        pl.col("caption_row") + n_captions, pl.col("image_row") + n_images, _text_rows(new.captions, texts)
    )
    quarantine = new.quarantine.with_columns(
        row=pl.when(pl.col("kind") == "image").then(pl.col("row") + n_images).otherwise(pl.col("row") + n_captions)
    )
    corpus = Corpus(
        pl.concat([old.images, _typed(images, IMAGE_SCHEMA)]),
        pl.concat([old.captions, _typed(captions, CAPTION_SCHEMA)]),
        pl.concat([old.quarantine, _typed(quarantine, QUARANTINE_SCHEMA)]),
        new.photos,
    )
    return Joined(corpus, new, n_images, n_captions, len(texts), int(known.sum()))


def _typed(frame: pl.DataFrame, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())


def refuse_other_data(old: Corpus, read: Corpus) -> None:
    """Refuse a data set that does not hold all images of a corpus with the same captions, splits and files.

    Raises:
        DatasetError: images that are missing or differ, with their ids.
    """
    missing = old.images.filter(~pl.col("image_id").is_in(set(read.images["image_id"].to_list())))["image_id"].to_list()
    differing = missing or _differing(old, read, ("split", "file", "caption_id", "text"))
    if differing:
        raise DatasetError(
            f"the data set {'lacks' if missing else 'has other data for'} {len(differing)} images of the store",
            found=some(differing),
            expected="the data set that they came from",
            todo="restore it, or give its new folder",
        )


def _differing(old: Corpus, read: Corpus, columns: Sequence[str]) -> list[str]:
    """Ids of the images that two corpora share and that differ; ids and texts of captions count in their order."""
    both = _contents(old).join(_contents(read), on="image_id", how="inner", suffix="_read")
    equal = [pl.col(name).eq_missing(pl.col(f"{name}_read")) for name in columns]
    found: list[str] = both.filter(~pl.all_horizontal(equal)).sort("image_row")["image_id"].to_list()
    return found


def _refuse_other_captions(old: Corpus, read: Corpus) -> None:
    differing = _differing(old, read, ("split", "caption_id", "text"))
    if differing:
        raise DatasetError(
            f"{len(differing)} images of the data set are in the store with other captions or in another split",
            found=some(differing),
            expected="new images with their captions; images that are already in the store must be unchanged",
            todo="leave these images out, or build another store: sealed rows cannot change",
        )


def _contents(corpus: Corpus) -> pl.DataFrame:
    """Of every image: image_row, image_id, split, file, and lists of the ids and texts of its captions."""
    listed = corpus.captions.group_by("image_row", maintain_order=True).agg("caption_id", "text")
    return corpus.images.select("image_row", "image_id", "split", "file").join(listed, on="image_row", how="left")


def _only(corpus: Corpus, chosen: pl.Series) -> Corpus:
    """Some images of a corpus with their captions, numbered from 0."""
    images = corpus.images.filter(chosen)
    image_rows = images.select("image_row").with_row_index("new_image")
    captions = corpus.captions.join(image_rows, on="image_row", how="inner").sort("caption_row")
    caption_rows = captions.select("caption_row").with_row_index("new_caption")
    quarantined = corpus.quarantine.filter(pl.col("kind") == "caption").join(
        caption_rows, left_on="row", right_on="caption_row", how="inner"
    )
    quarantine = quarantined.with_columns(row=pl.col("new_caption")).drop("new_caption").sort("row")
    excluded = corpus.images.filter(~chosen)
    captioned = corpus.captions.join(excluded.select("image_row"), on="image_row", how="semi")
    ledger = rebooked(corpus.ledger, "images", _THERE, excluded["image_id"].to_list())
    ledger = rebooked(ledger, "captions", _THERE, captioned["caption_id"].to_list())
    new = Corpus(
        images.with_columns(image_row=pl.int_range(len(images), dtype=pl.UInt32)),
        captions.with_columns(
            image_row=pl.col("new_image"), caption_row=pl.int_range(len(captions), dtype=pl.UInt32)
        ).drop("new_image"),
        quarantine,
        corpus.photos,
        ledger,
    )
    return replace(new, captions=new.captions.with_columns(_text_rows(new.captions, []))).with_quarantine(quarantine)


def _text_rows(captions: pl.DataFrame, texts: list[str]) -> pl.Series:
    """`text_row` of every caption: the numbers of known texts, then further ones in order of first appearance."""
    usable = captions["status"] == "ok"
    rows = numbered_texts(captions["text"].to_list(), usable.to_list(), texts)
    return pl.Series("text_row", rows, dtype=pl.UInt32)


def _refuse_known_captions(old: Corpus, new: Corpus) -> None:
    taken = new.captions.filter(pl.col("caption_id").is_in(set(old.captions["caption_id"].to_list())))
    if len(taken):
        raise DatasetError(
            f"{len(taken)} captions of new images have ids that belong to other images of the store",
            found=some(taken["caption_id"].to_list()),
            expected="ids that are not in the store",
            todo="rename them: the ids of captions are unique in a store",
        )
