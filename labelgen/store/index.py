"""Rows of ids: a sorted table of 64-bit hashes, and the row of each.

The hash of an id is the first 8 bytes of its BLAKE2b (digest size 8) over UTF-8, read as a little-endian number, so
that any language can look ids up. A store refuses two ids with one hash when it is made (one chance in 10^8 at a
million ids); an id that is not in the store is mistaken for another with a probability of 10^-13.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from labelgen.errors import ConfigError, DatasetError, UnknownIdError, some
from labelgen.types import Int64, UInt32, UInt64


def hash_ids(ids: Iterable[str]) -> UInt64:
    """64-bit hashes, [n]. Ids that differ only by case differ."""
    try:
        digests = b"".join([blake2b(item.encode(), digest_size=8).digest() for item in ids])
    except UnicodeEncodeError as error:  # lone surrogates: no id of a store has any
        raise UnknownIdError("this id is not valid text", found=ascii(error.object)) from error
    return np.frombuffer(digests, "<u8").astype(np.uint64, copy=False)


def build_index(ids: Sequence[str]) -> tuple[UInt64, UInt32]:
    """Sorted hashes of `ids` and the row of each, [n] both; row i is `ids[i]`.

    Raises:
        DatasetError: an id is there twice, or two ids have the same hash.
    """
    hashes = hash_ids(ids)
    rows = np.argsort(hashes, kind="stable").astype(np.uint32)
    ordered = hashes[rows]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if same.size:
        pair = ids[int(rows[same[0]])], ids[int(rows[same[0] + 1])]
        raise DatasetError(
            "two items have the same id, or the same hash of it",
            found=f"{pair[0]!r} and {pair[1]!r} at rows {rows[same[0]]} and {rows[same[0] + 1]}",
            expected="different ids (with different 64-bit hashes)",
            todo="rename one of the two",
        )
    return ordered, rows


@dataclass(frozen=True)
class IdIndex:
    """From ids to rows.

    Attributes:
        hashes, row_numbers: what `build_index` returned.
        what: how errors name an id.
    """

    hashes: UInt64
    row_numbers: UInt32
    what: str = "id"

    def rows(self, ids: Iterable[Any], *, missing_ok: bool = False) -> Int64:
        """Rows of `ids`, [n]. Whole numbers stand for their decimal text (COCO's ids); arrays and tensors do too.

        Args:
            missing_ok: give -1 for an unknown id instead of raising.

        Raises:
            UnknownIdError: unknown ids, with some of them in the message.
            ConfigError: a single id instead of several, or ids that are neither text nor whole numbers.
        """
        texts = id_texts(ids, self.what)
        hashes = hash_ids(texts)
        if len(self.hashes):
            places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            found, hit = self.row_numbers[places].astype(np.int64), self.hashes[places] == hashes
        else:
            found, hit = np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
        if hit.all():
            return found
        if missing_ok:
            return np.where(hit, found, -1)
        absent = [texts[position] for position in np.flatnonzero(~hit)]
        raise UnknownIdError(
            f"{len(absent)} of {len(texts)} {self.what}s are not in this store",
            found=some(absent),
            expected=f"ids as the adapter of the data set makes them; the store has {len(self.hashes)} {self.what}s",
            todo="compare with store.images or store.captions, and check that the store has the same splits; "
            "labelgen.loader.Lookup finds the ids of paths and texts",
        )


def id_texts(ids: Iterable[Any], what: str = "id") -> list[str]:
    """Ids as the texts that are hashed."""
    if isinstance(ids, (str, bytes, int)):
        raise ConfigError(f"one {what} where a list is expected", found=repr(ids), todo=f"write [{ids!r}]")
    to_list = getattr(ids, "tolist", None)
    listed = list(to_list() if to_list is not None else ids)
    if set(map(type, listed)) <= {str}:
        return listed
    return [_text(item, what) for item in listed]


def _text(item: Any, what: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return str(int(item))
    raise ConfigError(
        f"this is not a {what}", found=f"{item!r}, a {type(item).__name__}", expected="text or a whole number"
    )
