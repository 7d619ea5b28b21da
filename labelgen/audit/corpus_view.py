"""Data of a store for an audit: unit rows, caption sets and neighbor lists, in pieces that fit the memory.

Audits rank, so they compute in float32 from the stored float16 rows: differences to `store.block` are below 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelgen.errors import ConfigError
from labelgen.similarity.caption_sets import TakenRows
from labelgen.store import choose
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.types import PAD_ROW, PAD_SCORE, Aggregation, Bool, Float16, Float32, Int64, Relation, Scope

#: Bytes of gathered rows of a piece.
CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class Held:
    """Rows in memory."""

    rows: Float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def take(self, rows: Int64) -> Float32:
        return self.rows[rows]


@dataclass(frozen=True)
class Unit:
    """Rows of a source, of length 1; missing rows are zero."""

    source: TakenRows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def take(self, rows: Int64) -> Float32:
        return unit(self.source.take(rows))


@dataclass(frozen=True)
class Centered:
    """Unit rows of a source with its mean row subtracted, unit again; missing rows are zero."""

    source: TakenRows
    mean: Float32

    @classmethod
    def of(cls, source: TakenRows, among: Int64 | None = None) -> Centered:
        """Subtract the mean of the unit rows that are not missing, of all or `among` some."""
        total, present = np.zeros(source.shape[1]), 0
        every = np.arange(source.shape[0]) if among is None or not len(among) else among
        for here in pieces(every, 4 * source.shape[1]):
            rows = unit(source.take(here))
            total += rows.sum(axis=0, dtype=np.float64)
            present += int(rows.any(axis=1).sum())
        return cls(source, (total / max(present, 1)).astype(np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def take(self, rows: Int64) -> Float32:
        wide = unit(self.source.take(rows))
        return unit(wide - self.mean * wide.any(axis=1, keepdims=True))


@dataclass(frozen=True)
class NeighborLists:
    """Neighbor lists in memory: `ids` int64 [n, k], -1 where a list is shorter, and `scores` float32 [n, k]."""

    ids: Int64
    scores: Float32


@dataclass
class View:
    """Rows and lists of a corpus.

    Attributes:
        offsets: the captions of image v are rows offsets[v]:offsets[v + 1].
        splits: image rows of every split, ascending.
        text: rows of captions by alias of text teachers.
        image: rows of images by alias of image teachers.
        cross: alias -> rows of (images, captions) in one space.
        t2t, i2i: lists, None where the corpus has none.
        group_of: number of the group of every image, -1 for those without one, [n_images]; None where none has.
    """

    offsets: Int64
    splits: Mapping[str, Sequence[int]]
    text: dict[str, TakenRows]
    image: dict[str, TakenRows]
    cross: dict[str, tuple[TakenRows, TakenRows]]
    t2t: NeighborLists | None
    i2i: NeighborLists | None
    group_of: Int64 | None = None

    @classmethod
    def of(cls, store: Store, *, k: int = 64) -> View:
        """Return the view of a store; lists are cut to `k` entries."""
        held = {(entry.alias, entry.modality) for entry in store.manifest.embeddings}
        cross = [alias for alias, modality in held if modality == "image" and (alias, "text") in held]
        text, image = (
            {alias: store.embeddings(alias, side) for alias, modality in sorted(held) if modality == side}
            for side in ("text", "image")
        )
        return cls(
            offsets=np.asarray(store.offsets, np.int64),
            splits=store.splits,
            text={alias: rows for alias, rows in text.items() if alias not in cross},
            image={alias: rows for alias, rows in image.items() if alias not in cross},
            cross={alias: (image[alias], text[alias]) for alias in sorted(cross)},
            t2t=read_lists(store, Relation.T2T, k=k),
            i2i=read_lists(store, Relation.I2I, k=k),
            group_of=store.group_numbers if store.manifest.corpus.groups else None,
        )

    @property
    def n_images(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_captions(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def image_of(self) -> Int64:
        """The image of every caption, [n_captions]."""
        return np.repeat(np.arange(self.n_images, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def split_of(self) -> Int64:
        """Number of the split of every image, [n_images]."""
        return split_numbers(self.splits, self.n_images)

    @cached_property
    def width(self) -> int:
        """The largest number of captions of an image."""
        return int(np.diff(self.offsets).max(initial=0))

    def centered(self, alias: str) -> Centered:
        """Return rows of captions minus the mean row of those of the train split, of all where there is none."""
        train = np.asarray(self.splits.get("train", ()), np.int64)
        return Centered.of(self.text[alias], np.flatnonzero(np.isin(self.image_of, train)))

    def share_group(self, images: Int64, captions: Int64) -> Bool:
        """Whether an image and the image of a caption are in one group; shapes broadcast."""
        if self.group_of is None:
            return np.zeros(np.broadcast_shapes(images.shape, captions.shape), bool)
        group = self.group_of[images]
        same: Bool = (group == self.group_of[self.image_of[captions]]) & (group >= 0)
        return same

    def sets(self, images: Int64) -> tuple[Int64, Bool]:
        """Return caption rows of images, int64 [n, width], and which of them exist; the others are row 0."""
        starts, stops = self.offsets[images], self.offsets[images + 1]
        rows = starts[:, None] + np.arange(self.width)
        real = rows < stops[:, None]
        return np.where(real, rows, 0), real

    def centroids(self, alias: str, weights: Float32 | None = None) -> Float32:
        """Return the mean of the unit rows of every image's captions, [n_images, d]; zero where there are none."""
        source = self.text[alias]
        sums = np.zeros((self.n_images, source.shape[1]), np.float32)
        totals = np.zeros(self.n_images, np.float32)
        weight = np.ones(self.n_captions, np.float32) if weights is None else weights
        images = np.flatnonzero(np.diff(self.offsets))
        for here in pieces(images, 2 * 4 * max(1, self.width) * source.shape[1]):
            first, last = int(self.offsets[here[0]]), int(self.offsets[here[-1] + 1])
            rows = unit(source.take(np.arange(first, last))) * weight[first:last, None]
            starts = self.offsets[here] - first
            sums[here] = np.add.reduceat(rows, starts, axis=0)
            totals[here] = np.add.reduceat(weight[first:last], starts)
        sums /= np.maximum(totals, 1e-6)[:, None]
        return sums


def read_lists(store: Store, relation: Relation, *, k: int = 64, scope: Scope = "split") -> NeighborLists | None:
    """Return the lists of a relation, of the first teacher that has them; None where no teacher has."""
    for entry in choose.lists_over_all(store.manifest):
        if (entry.relation, entry.scope, entry.aggregation) == (relation, scope, "max"):
            return listed(store, relation, entry.alias, k=min(k, entry.k), scope=scope)
    return None


def listed(
    store: Store,
    relation: Relation,
    alias: str,
    *,
    k: int,
    scope: Scope = "split",
    aggregation: Aggregation = "max",
) -> NeighborLists:
    """Return the lists of one teacher, cut to `k`, in memory."""
    found = store.neighbors(relation, alias=alias, k=k, scope=scope, aggregation=aggregation)
    ids = found.rows.astype(np.int64)
    ids[found.rows == PAD_ROW] = -1
    return NeighborLists(ids, found.scores)


def or_nan(scores: Float32) -> Float32:
    """Return scores with NaN where there is none."""
    return np.where(scores > PAD_SCORE, scores, np.float32(np.nan))


def unit(rows: Float16 | Float32) -> Float32:
    """Return float32 rows of length 1; zero rows stay zero."""
    wide = np.asarray(rows, np.float32)
    lengths = np.sqrt(np.einsum("...d,...d->...", wide, wide))[..., None]
    result: Float32 = (wide / np.where(lengths == 0, np.float32(1), lengths)).astype(np.float32, copy=False)
    return result


def pieces(rows: Int64, bytes_each: int) -> Iterator[Int64]:
    """Yield consecutive pieces of `rows` of about `CHUNK_BYTES`; a row needs `bytes_each`."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def need(present: object, what: str, todo: str) -> None:
    """Refuse a finding for which the store lacks data.

    Raises:
        ConfigError: `present` is false.
    """
    if not present:
        raise ConfigError(f"this store has no {what}", todo=todo)
