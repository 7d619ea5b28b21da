"""New images after the rows of a store: what may be appended, and the rows that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from labelgen.corpus.frames import CAPTION_SCHEMA, IMAGE_SCHEMA, QUARANTINE_SCHEMA, Corpus, numbered_texts
from labelgen.corpus.ledger import rebooked
from labelgen.errors import DatasetError, shown, some

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
        unnamed: images and captions there that have a group or kind in the data set, but none in the store.
    """

    corpus: Corpus
    new: Corpus
    first_image: int
    first_caption: int
    first_text: int
    skipped: int
    unnamed: int = 0


def join(old: Corpus, read: Corpus) -> Joined:
    """Put the images of a data set that a store does not hold behind its rows.

    Texts of the store keep their `text_row`, further ones get the next numbers. `source_row` counts in the data set
    that a row came from.

    Raises:
        DatasetError: an image that is there already with other captions, kinds or group or in another split, or a
            caption id that belongs to another image there.
    """
    there = set(old.images["image_id"].to_list())
    known = read.images["image_id"].is_in(there)
    _refuse_other_captions(old, read)
    unnamed = _refuse_other_names(old, read)
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
    return Joined(corpus, new, n_images, n_captions, len(texts), int(known.sum()), unnamed)


def _typed(frame: pl.DataFrame, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())


def refuse_other_data(old: Corpus, read: Corpus) -> None:
    """Refuse a data set that does not hold all images of a corpus with the same captions, splits and files.

    Groups and kinds that the corpus has must be the same, too.

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
    _refuse_other_names(old, read)


def _differing(old: Corpus, read: Corpus, columns: Sequence[str]) -> list[str]:
    """Ids of the images that two corpora share and that differ; ids and texts of captions count in their order."""
    both = _contents(old).join(_contents(read), on="image_id", how="inner", suffix="_read")
    equal = [pl.col(name).eq_missing(pl.col(f"{name}_read")) for name in columns]
    found: list[str] = both.filter(~pl.all_horizontal(equal)).sort("image_row")["image_id"].to_list()
    return found


def _refuse_other_names(old: Corpus, read: Corpus) -> int:
    """Refuse another group of an image, or kind of a caption, than a store has; return how many it has none of."""
    unknown = 0
    for item, name, ours, theirs in (
        ("image", "group", old.images, read.images),
        ("caption", "kind", old.captions, read.captions),
    ):
        both = ours.select(f"{item}_id", name).join(theirs.select(f"{item}_id", other=name), on=f"{item}_id")
        unknown += len(both.filter(pl.col(name).is_null() & pl.col("other").is_not_null()))
        differing = both.filter(pl.col(name).is_not_null() & pl.col(name).ne_missing(pl.col("other")))
        if len(differing):
            raise DatasetError(
                f"{len(differing)} {item}s of the data set are in the store with another {name}",
                found=some(differing[f"{item}_id"].to_list()),
                expected=f"the {name} that the store has, for example {shown(differing[name][0])}",
                todo="leave these images out, or build another store: sealed rows cannot change",
            )
    return unknown


def without_unsealed(old: Corpus, read: Corpus) -> Corpus:
    """A data set without its groups or kinds where no row of the store that was made of it has one.

    Stores that were made before the data set, or labelgen, had such a column are equal to it all the same.
    """
    images, captions = read.images, read.captions
    if old.images["group"].null_count() == len(old.images):
        images = images.with_columns(group=pl.lit(None, pl.String))
    if old.captions["kind"].null_count() == len(old.captions):
        captions = captions.with_columns(kind=pl.lit(None, pl.String))
        captions = captions.with_columns(_text_rows(captions, []))
    return replace(read, images=images, captions=captions)


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
    """`text_row` of every caption: the numbers of known texts, then further ones, see `numbered_texts`."""
    usable = captions["status"] == "ok"
    rows = numbered_texts(captions["text"].to_list(), usable.to_list(), captions["kind"].to_list(), texts)
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
