"""An explicit list of pairs, (caption, image, y), as rows of a store, for data sets of relevance judgements.

A pair may combine any caption with any image; y = 1 where they belong together. The list is a table of the columns
`caption_id`, `image_id` and `y` (parquet, CSV, TSV or JSONL).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.corpus.text.table_files import SUFFIXES, TableFile
from labelgen.errors import ArrayError, DatasetError, UnknownIdError, some
from labelgen.store.items import Ids
from labelgen.store.reader import Store
from labelgen.types import Bool, Int64

COLUMNS = ("caption_id", "image_id", "y")


@dataclass(frozen=True)
class ListedPairs:
    """n pairs, none listed twice.

    Attributes:
        captions, images: rows of the store, int64 [n].
        positives: y, bool [n].
    """

    captions: Int64
    images: Int64
    positives: Bool

    def __len__(self) -> int:
        return len(self.positives)

    @classmethod
    def of(cls, store: Store, caption_ids: Ids, image_ids: Ids, y: Sequence[Any]) -> ListedPairs:
        """From three columns of one length.

        Raises:
            ArrayError: columns of several lengths.
            DatasetError: a y that is neither 0 nor 1, or a pair that is listed twice, with one y or with both.
            UnknownIdError: ids that are not in the store.
        """
        captions, images, values = list(caption_ids), list(image_ids), list(y)
        if not len(captions) == len(images) == len(values):
            lengths = f"{len(captions)} captions, {len(images)} images, {len(values)} values of y"
            raise ArrayError(
                "the columns of a list of pairs have different lengths", found=lengths, expected="one length"
            )
        positives = _positives(values)
        rows = _rows(store, captions, images)
        _refuse_repeats(*rows, positives, captions, images)
        return cls(*rows, positives)


def read_pairs(store: Store, path: str | Path) -> ListedPairs:
    """The pairs of a table with the columns `caption_id`, `image_id` and `y`; other columns are left alone.

    Raises:
        DatasetError: no such table, a column or a value is missing, and what `ListedPairs.of` refuses.
        UnknownIdError: ids that are not in the store.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES or not file.is_file():
        found = "no such file" if file.suffix in SUFFIXES else f"a name that ends in {file.suffix!r}"
        raise DatasetError(
            f"there is no list of pairs at {file}", found=found, expected=f"one of {', '.join(SUFFIXES)}"
        )
    table = TableFile(file)
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        near = {name: difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5) for name in lacking}
        renamed = ", ".join(f"{found[0]!r} to {name!r}" for name, found in near.items() if found)
        raise DatasetError(
            f"{file.name} is not a list of pairs: it lacks {', '.join(lacking)}",
            found=f"columns {', '.join(table.columns)}",
            expected="columns caption_id, image_id and y (1: they belong together, 0: they do not)",
            todo=f"rename {renamed}" if renamed else "",
        )
    rows = [values for _, values in table.rows(COLUMNS)]
    if not rows:
        raise DatasetError(f"{file.name} lists no pairs")
    captions, images, y = (list(column) for column in zip(*rows, strict=True))
    for name, column in zip(COLUMNS, (captions, images, y), strict=True):
        empty = [number for number, value in enumerate(column) if value is None]
        if empty:
            raise DatasetError(f"{file.name} has no {name} in some rows", found=f"rows {some(empty)}, counted from 0")
    return ListedPairs.of(store, captions, images, y)


def _positives(values: Sequence[Any]) -> Bool:
    """0, 1, false, true, in numbers or in the text of a CSV."""
    meant = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
    found = [meant.get(str(value).strip().lower()) for value in values]
    wrong = [(row, values[row]) for row, value in enumerate(found) if value is None]
    if wrong:
        raise DatasetError(
            "y of a pair is neither 0 nor 1",
            found=", ".join(f"{value!r} in row {row}" for row, value in wrong[:5])
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            expected="1: the caption and the image belong together, 0: they do not",
        )
    return np.array(found, np.bool_)


def _rows(store: Store, captions: Sequence[Any], images: Sequence[Any]) -> tuple[Int64, Int64]:
    """Caption and image rows; both kinds of unknown ids in one message."""
    found = store.caption_rows(captions, missing_ok=True), store.image_rows(images, missing_ok=True)
    unknown = {
        kind: sorted({str(ids[row]) for row in np.flatnonzero(rows < 0).tolist()})
        for kind, ids, rows in zip(("caption", "image"), (captions, images), found, strict=True)
    }
    if any(unknown.values()):
        named = (f"{len(ids)} {kind} ids: {some(ids)}" for kind, ids in unknown.items() if ids)
        raise UnknownIdError(
            "the list of pairs has ids that are not in the store",
            found="; ".join(named),
            expected=f"ids such as caption {store.caption_ids([0])[0]!r} and image {store.image_ids([0])[0]!r}",
            todo="build the store from this data set, with all splits of the list",
        )
    return found


def _refuse_repeats(
    captions: Int64, images: Int64, positives: Bool, caption_ids: Sequence[Any], image_ids: Sequence[Any]
) -> None:
    order = np.lexsort((images, captions))
    again = np.flatnonzero((np.diff(captions[order]) == 0) & (np.diff(images[order]) == 0))
    if not again.size:
        return
    torn = again[positives[order][again] != positives[order][again + 1]]
    shown = torn if torn.size else again
    pairs = [(str(caption_ids[row]), str(image_ids[row])) for row in order[shown].tolist()]
    raise DatasetError(
        "pairs contradict each other: listed with y = 0 and with y = 1" if torn.size else "pairs are listed twice",
        found=f"{len(shown)} (caption, image): {some(pairs)}",
        expected="every pair once",
        todo="decide which is right" if torn.size else "leave the copies out",
    )
