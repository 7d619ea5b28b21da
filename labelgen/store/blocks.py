"""Blocks of similarities of mapped rows, and the arithmetic of single pairs that goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from labelgen.similarity.caption_sets import PairAggregation, block_sets, pair_set_similarities, pair_sets
from labelgen.similarity.exact import block_group_similarity, block_similarity, pair_similarities
from labelgen.similarity.groups import rows_of
from labelgen.similarity.single_precision import block_group_similarity32, block_similarity32
from labelgen.store.disk.centred import CentredRows
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.kinds import CaptionKinds
from labelgen.types import BlockAggregation, Bool, Float16, Float32, Int64, Relation

__all__ = [
    "BlockReader",
    "PairAggregation",
    "ReadRows",
    "block_sets",
    "block_similarity",
    "block_similarity32",
    "has_embedding",
    "pair_set_similarities",
    "pair_sets",
    "pair_similarities",
]

#: Rows of a teacher as they are stored, or centred when they are read.
ReadRows: TypeAlias = "MappedArray | CentredRows"


@dataclass(frozen=True)
class BlockReader:
    """Blocks of one relation by one teacher, with everything looked up that does not depend on the batch.

    Attributes:
        alias: the teacher.
        aggregation: of an image's captions.
        images, captions: the rows that images and captions are compared by.
        offsets: where an image is the set of its captions, which are its rows; None where it has one row.
        kinds: where these sets hold captions of some kinds only.
    """

    relation: Relation
    alias: str
    aggregation: BlockAggregation
    images: ReadRows
    captions: ReadRows
    offsets: MappedArray | None
    kinds: CaptionKinds | None = None

    def members(self, images: Int64) -> tuple[Int64, Int64 | None]:
        """Rows of the given images, and how many each has, [n]; None where it is one."""
        if self.offsets is None:
            return images, None
        if self.kinds is not None:
            starts, stops = self.kinds.offsets[images], self.kinds.offsets[images + 1]
            return self.kinds.captions(rows_of(starts, stops - starts)), stops - starts
        starts = self.offsets.take(images)
        sizes = self.offsets.take(images + 1) - starts
        return rows_of(starts, sizes), sizes

    def wanted(self, images: Int64 | None, captions: Int64 | None) -> Iterator[tuple[MappedArray, Int64]]:
        """The rows that the block of the given ones reads, by array."""
        if captions is not None:
            yield _stored(self.captions), captions
        if images is not None:
            yield _stored(self.images), self.members(images)[0]

    def similarities(self, images: Int64 | None, captions: Int64 | None, *, exact: bool) -> Float32:
        """The block of the given rows as in `Store.block`, -inf where an item has no embedding.

        Without `exact` they are float32 products within 1e-6 of the definition, see `similarity.single_precision`.
        """
        sizes = None
        y: Any = None if captions is None else self.captions.take(captions)
        x: Any = y
        if images is not None:
            rows, sizes = self.members(images)
            x = self.images.take(rows)
            y = x if captions is None else y
        if sizes is None:
            block = (block_similarity if exact else block_similarity32)(x, y)
        else:
            grouped = block_group_similarity if exact else block_group_similarity32
            block = grouped(x, sizes, y, self.aggregation)
        return np.ascontiguousarray(block.T) if self.relation is Relation.T2I else block

    def living(self, images: Int64) -> Bool:
        """Mask of the images with a row that is not zero, [n]."""
        rows, sizes = self.members(images)
        present = has_embedding(self.images.take(rows))
        if sizes is None:
            return present
        owners = np.repeat(np.arange(len(sizes)), sizes)
        living: Bool = np.bincount(owners[present], minlength=len(sizes)) > 0
        return living


def has_embedding(rows: Float16) -> Bool:
    """Mask of the rows that are not all zero, [n]. Rows rarely begin with a zero, so few are looked at whole."""
    alive: Bool = rows[:, 0] != 0
    suspects = np.flatnonzero(~alive)
    if suspects.size:
        alive[suspects] = (rows[suspects] != 0).any(axis=1)
    return alive


def _stored(rows: MappedArray | CentredRows) -> MappedArray:
    return rows.rows if isinstance(rows, CentredRows) else rows
