"""Arrange the records of a data set into rows: order, limits and the quarantine of the ingest are decided here."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.corpus.checks import check_records
from labelgen.corpus.frames import CAPTION_SCHEMA, IMAGE_SCHEMA, QUARANTINE_SCHEMA, Corpus, numbered_texts
from labelgen.corpus.ledger import Account, Ledger
from labelgen.corpus.text.names import is_utf8, repaired
from labelgen.errors import DatasetError
from labelgen.types import SPLIT_ORDER, Int64

__all__ = ["Corpus", "arrange"]

OK, BLANK, NOT_UTF8 = "ok", "blank", "not_utf8"


def arrange(records: Records, *, splits: Sequence[str] = (), limit: int = 0, before: Records | None = None) -> Corpus:
    """Give every image and caption its row.

    Splits follow each other as train, val, test, then others by name; inside a split images keep the order of the
    source, and captions follow their image in the order of the source. Captions that cannot be used (blank, not
    UTF-8) keep their row, get a status and an entry in the quarantine, and have no `text_row`.

    Args:
        records: what an adapter read; all of it is checked, also what `splits` and `limit` leave out.
        splits: splits to take (in any order), all when empty.
        limit: the first `limit` images of every split with all their captions, all when 0.
        before: the records before a patch took some away, for the account.

    Raises:
        DatasetError: no images, a split that does not exist, duplicate, empty or not UTF-8 ids, captions of unknown
            images, or file names that leave their folder.
    """
    check_records(records)
    if limit < 0:
        raise DatasetError("limit is negative", found=str(limit), expected="a number of images, or 0 for all")
    images = _ordered_images(records.images, splits, limit)
    image_rows, captions = _ordered_captions(records.captions, images)
    frame = _caption_frame(captions, image_rows, images)
    quarantine = _quarantine(frame)
    ledger = (*records.ledger, *_accounts(before or records, records, images, captions, limit))
    corpus = Corpus(_image_frame(images, image_rows), frame, quarantine, records.photos, ledger)
    return corpus.with_quarantine(quarantine)


def split_order(names: Sequence[str]) -> list[str]:
    """Distinct split names in the order of rows: train, val, test, others by name."""
    present = set(names)
    return [name for name in SPLIT_ORDER if name in present] + sorted(present - set(SPLIT_ORDER))


def _ordered_images(images: Sequence[ImageRecord], wanted: Sequence[str], limit: int) -> list[ImageRecord]:
    order = split_order([image.split for image in images])
    _check_splits(wanted, order)
    rank = {name: number for number, name in enumerate(order) if not wanted or name in wanted}
    chosen = [image for image in images if image.split in rank]
    ranks = np.fromiter((rank[image.split] for image in chosen), np.int64, len(chosen))
    sources = np.fromiter((image.source_row for image in chosen), np.int64, len(chosen))
    rows = np.lexsort((sources, ranks))  # stable, so records of one source row keep their order
    if limit:
        sorted_ranks = ranks[rows]
        rows = rows[np.arange(len(rows)) - np.searchsorted(sorted_ranks, sorted_ranks) < limit]
    return [chosen[row] for row in rows]


def _check_splits(wanted: Sequence[str], present: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            raise DatasetError(
                f"the data set has no split {name!r}",
                expected=f"some of {', '.join(present)}",
                todo=f"did you mean {near[0]!r}?" if near else "name existing splits, or none for all",
            )


def _ordered_captions(
    captions: Sequence[CaptionRecord], images: Sequence[ImageRecord]
) -> tuple[Int64, list[CaptionRecord]]:
    """The captions of the chosen images in row order, with the image row of each."""
    row_of = {image.image_id: row for row, image in enumerate(images)}
    rows = np.fromiter((row_of.get(caption.image_id, -1) for caption in captions), np.int64, len(captions))
    sources = np.fromiter((caption.source_row for caption in captions), np.int64, len(captions))
    order = np.lexsort((sources, rows))
    order = order[np.searchsorted(rows[order], 0) :]  # -1: of images that were not chosen
    return rows[order], [captions[position] for position in order]


def _accounts(
    before: Records, records: Records, images: Sequence[ImageRecord], captions: Sequence[CaptionRecord], limit: int
) -> tuple[Account, ...]:
    """Account of every image and caption that an adapter found; blank captions are booked by their quarantine."""
    ledger = Ledger()
    chosen = {image.split for image in images}
    of_image = {image.image_id: image.split for image in records.images}
    of_caption = {item.caption_id: of_image.get(item.image_id) for item in records.captions}
    for unit, found, split_of, taken in (
        ("images", [image.image_id for image in before.images], of_image, {image.image_id for image in images}),
        ("captions", [item.caption_id for item in before.captions], of_caption, {item.caption_id for item in captions}),
    ):
        ledger.seen(unit, len(found))
        for name in found:
            if name in taken:
                ledger.used(unit)
            else:
                ledger.skipped(unit, _why_left_out(split_of.get(name), chosen, limit), name)
    return ledger.closed()


def _why_left_out(split: str | None, chosen: Collection[str], limit: int) -> str:
    """`split` is None where the patch took the item away."""
    if split is None:
        return "removed by the patch"
    return "beyond the limit" if limit and split in chosen else "in another split"


def _image_frame(images: Sequence[ImageRecord], caption_images: Int64) -> pl.DataFrame:
    columns = {
        "image_row": np.arange(len(images), dtype=np.uint32),
        "image_id": [image.image_id for image in images],
        "split": [image.split for image in images],
        "file": [image.file for image in images],
        "source_row": [image.source_row for image in images],
        "n_captions": np.bincount(caption_images, minlength=len(images)).astype(np.uint32),
        "category": [image.category for image in images],
        "width": [None] * len(images),
        "height": [None] * len(images),
        "status": [OK] * len(images),
        "group": [image.group for image in images],
    }
    return pl.DataFrame(columns, schema=IMAGE_SCHEMA)


def _caption_frame(captions: Sequence[CaptionRecord], image_rows: Int64, images: Sequence[ImageRecord]) -> pl.DataFrame:
    status = [_status(caption.text) for caption in captions]
    texts, kinds = [caption.text for caption in captions], [caption.kind for caption in captions]
    columns = {
        "caption_row": np.arange(len(captions), dtype=np.uint32),
        "caption_id": [caption.caption_id for caption in captions],
        "image_row": image_rows.astype(np.uint32),
        "split": [images[row].split for row in image_rows.tolist()],
        "text": [
            caption.text if state == OK else repaired(caption.text)
            for caption, state in zip(captions, status, strict=True)
        ],
        "text_row": numbered_texts(texts, [state == OK for state in status], kinds),
        "source_row": [caption.source_row for caption in captions],
        "status": status,
        "kind": kinds,
    }
    return pl.DataFrame(columns, schema=CAPTION_SCHEMA)


def _status(text: str) -> str:
    if not text.strip():
        return BLANK
    return OK if is_utf8(text) else NOT_UTF8


def _quarantine(captions: pl.DataFrame) -> pl.DataFrame:
    unusable = captions.filter(pl.col("status") != OK)
    found = {"row": unusable["caption_row"], "id": unusable["caption_id"], "reason": unusable["status"]}
    same = {"kind": "caption", "file": None, "stage": "ingest", "alias": None}
    columns = {name: found[name] if name in found else [same[name]] * len(unusable) for name in QUARANTINE_SCHEMA}
    return pl.DataFrame(columns, schema=QUARANTINE_SCHEMA)
