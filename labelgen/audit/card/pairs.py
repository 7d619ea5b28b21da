"""Judged pairs as rows of a store: ids in several spellings, sentences by their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.judgements.judgements import Judgements, Kind
from labelgen.corpus.text.names import file_stem
from labelgen.errors import UnknownIdError, some
from labelgen.store.index import hash_ids
from labelgen.store.reader import Store
from labelgen.types import Bool, Float64, Int64, Relation

Half: TypeAlias = Literal["first", "second"]


@dataclass(frozen=True)
class JudgedPairs:
    """The judged pairs that a store holds, n of them.

    Attributes:
        judgements: where they come from.
        left, right: image or caption rows, by the relation, int64 [n]; -1 - i for sentence i of `sentences`.
        ratings: [n].
        annotated: whether the two items belong to the same image, bool [n].
        groups: number of the image that the bootstrap draws for a pair: that of its left item (a sentence that is
            no caption is a group by itself), int64 [n], numbers from 0.
        first_half: whether the image of the pair is in the first half, bool [n].
        sentences: texts that are no captions of the store.
        unknown: number of judged pairs that are not in the store.
    """

    judgements: Judgements
    left: Int64
    right: Int64
    ratings: Float64
    annotated: Bool
    groups: Int64
    first_half: Bool
    sentences: tuple[str, ...] = ()
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.ratings)

    @property
    def relation(self) -> Relation:
        return self.judgements.relation

    @property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1 if len(self) else 0

    @property
    def n_sentences(self) -> int:
        """Number of groups that are sentences, not images."""
        alone = self.left < 0 if self.judgements.kinds[0] == "text" else np.zeros(len(self), bool)
        return len(np.unique(self.groups[alone]))

    @property
    def positive(self) -> Bool | None:
        """Pairs that people call right, [n]; None where the file does not say."""
        threshold = self.judgements.positive_from
        return None if threshold is None else self.ratings >= threshold

    def take(self, chosen: Bool) -> JudgedPairs:
        """Return some of the pairs; groups are renumbered."""
        groups = np.unique(self.groups[chosen], return_inverse=True)[1].astype(np.int64)
        names = ("left", "right", "ratings", "annotated", "first_half")
        return replace(self, groups=groups, **{name: getattr(self, name)[chosen] for name in names})

    def half(self, which: Half) -> JudgedPairs:
        """Return the pairs of one half of the judged images: one to choose parameters on, the other to report."""
        return self.take(self.first_half if which == "first" else ~self.first_half)


def resolve(store: Store, judgements: Judgements) -> JudgedPairs:
    """Return the pairs of `judgements` that a store holds; others are counted.

    Image ids are compared with the store's ids, then with file names, their stems, and the number at the end of the
    stem (COCO names a photograph by its id). Captions are compared by id, sentences by text.

    Raises:
        UnknownIdError: the store holds none of the pairs.
    """
    finder = _Finder(store)
    left_values, right_values, ratings = (judgements.frame[name].to_list() for name in ("left", "right", "rating"))
    left = finder.rows(judgements.kinds[0], left_values)
    right = finder.rows(judgements.kinds[1], right_values)
    known = (left != _ABSENT) & (right != _ABSENT)
    if not known.any():
        raise UnknownIdError(
            f"this store holds none of the {len(known):,} judged pairs of {judgements.name}",
            found=some(value for value, row in zip(left_values, left, strict=True) if row == _ABSENT),
            expected=f"ids of {store.name}, for example {some(store.image_ids(range(min(2, _images(store)))))}",
            todo="build the store from the data set and the splits that were judged",
        )
    left, right = left[known], right[known]
    owners = [_owner(store, kind, rows) for kind, rows in zip(judgements.kinds, (left, right), strict=True)]
    # a sentence that is no caption has no image: it is a group of its own
    groups = np.where(owners[0] < 0, left - _images(store), owners[0])
    return JudgedPairs(
        judgements,
        left,
        right,
        np.asarray(ratings, np.float64)[known],
        (owners[0] == owners[1]) & (owners[0] >= 0),
        np.unique(groups, return_inverse=True)[1].astype(np.int64),
        _first_half(store, owners[0], left, tuple(finder.sentences)),
        tuple(finder.sentences),
        int((~known).sum()),
    )


_ABSENT = np.iinfo(np.int64).min


class _Finder:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.sentences: dict[str, int] = {}

    def rows(self, kind: Kind, values: Sequence[str]) -> Int64:
        if kind == "text":
            return self._texts(values)
        look_up = self._store.image_rows if kind == "image" else self._store.caption_rows
        rows = look_up(values, missing_ok=True)
        absent = np.flatnonzero(rows < 0)
        if kind == "image" and absent.size:
            rows[absent] = self._by_file([values[place] for place in absent.tolist()])
        return np.where(rows < 0, _ABSENT, rows)

    def _by_file(self, values: Sequence[str]) -> Int64:
        names: dict[str, int] = {}
        for row, file in self._store.images.select("image_row", "file").drop_nulls("file").rows():
            for name in _spellings(file):
                names.setdefault(name, row)
        found = ((names.get(name) for name in _spellings(value)) for value in values)
        return np.array([next((row for row in rows if row is not None), -1) for rows in found], np.int64)

    def _texts(self, values: Sequence[str]) -> Int64:
        captions = self._store.captions.filter(self._store.captions["status"] == "ok").select("text", "caption_row")
        known = dict(reversed(captions.rows()))
        return np.array(
            [
                known[value] if value in known else -1 - self.sentences.setdefault(value, len(self.sentences))
                for value in values
            ],
            np.int64,
        )


def _spellings(file: str) -> list[str]:
    """Return a file name, its stem, and the number at the end of the stem."""
    name, stem = file.rpartition("/")[2], file_stem(file)
    number = stem.rpartition("_")[2]
    return [name, stem, *([str(int(number))] if number.isdecimal() else [])]


def _owner(store: Store, kind: Kind, rows: Int64) -> Int64:
    """Return image rows; -1 - i for sentence i."""
    if kind == "image":
        return rows
    captions = rows >= 0
    owners = rows.copy()
    owners[captions] = store.image_of(rows[captions])
    return owners


def _first_half(store: Store, owners: Int64, rows: Int64, sentences: tuple[str, ...]) -> Bool:
    """Return one bit of the hash of the id of every pair's image, or of its sentence."""
    bits = np.empty(len(owners), bool)
    inside = owners >= 0
    for chosen, names in (
        (inside, store.image_ids(owners[inside])),
        (~inside, [sentences[-1 - row] for row in rows[~inside]]),
    ):
        bits[chosen] = (hash_ids(names) >> np.uint64(7)) & np.uint64(1) == 0
    return bits


def _images(store: Store) -> int:
    return store.manifest.corpus.n_images
