"""Matrices that the tiled engine multiplies for the requested lists, and lists that follow from others.

==========================  =================================  ====================================================
lists                       matrix                             how
==========================  =================================  ====================================================
`t2t`, `i2t`, `t2i` (max)   captions x captions, symmetric     one list per caption; others follow
`i2t`, `t2i` (mean)         mean captions of images x captions  mean s(m, c) = (mean of unit rows m) . (unit row c)
`i2i`                       images x images, symmetric
`i2t`, `t2i` (cross-modal)  images x captions
==========================  =================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from labelgen.similarity import exact
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.groups import Side, cut, sides
from labelgen.similarity.tiled.bits import self_dots
from labelgen.similarity.tiled.equal_rows import EqualRows
from labelgen.similarity.tiled.lists import Block, Lists, Ranks
from labelgen.similarity.tiled.product import TileProduct
from labelgen.types import Bool, Float16, Float32, Float64, Int32, Int64, Relation, Scope, UInt16

#: Numbers of rows that are converted at once, 12 bytes each.
_PIECE = 1 << 20
#: Most units that a list keeps in addition; where this is not enough, the proof fails and the list is searched again.
_MOST_SPARE = 16


@dataclass(frozen=True)
class SearchMatrix:
    """Rows that meet, and the lists they serve.

    Attributes:
        left, right: what the rows are: of a grouped side a row is the mean of the unit rows of its members. One object
            where the matrix is symmetric.
        requests: the lists, of one scope.
    """

    left: Side
    right: Side
    requests: tuple[ListRequest, ...]

    @property
    def symmetric(self) -> bool:
        """Every pair of rows is met once for both."""
        return self.left is self.right

    @property
    def means(self) -> bool:
        """The rows of a side are means."""
        return self.left.grouped or self.right.grouped

    def requests_of(self, side: Side) -> tuple[ListRequest, ...]:
        """The requests that lists of the rows of a side serve."""
        return tuple(request for request in self.requests if self.symmetric or request.relation.query == side.modality)

    def ranks(self, side: Side) -> Ranks:
        """Ranks that the lists of the rows of a side must determine."""
        requests = self.requests_of(side)
        by_image = [request.k + 1 for request in requests if self.follows_by_image(request)]
        by_row = [request.k + 1 for request in requests if not self.follows_by_image(request)]
        return Ranks(max(by_row, default=0), max(by_image, default=0))

    def follows_by_image(self, request: ListRequest) -> bool:
        """Whether candidates are images of which each counts by its best caption."""
        return self.symmetric and request.relation is Relation.T2I

    def follows_by_caption(self, request: ListRequest) -> bool:
        """Whether queries are images whose lists are the best of their captions' lists."""
        return self.symmetric and request.relation is Relation.I2T

    def row_request(self, side: Side) -> ListRequest:
        """The request for `ranks.rows` of plain lists of rows."""
        some = self.requests_of(side)[0]
        if not self.symmetric:
            return replace(some, k=self.ranks(side).rows - 1)
        relation = Relation.T2T if side.modality == "text" else Relation.I2I
        return ListRequest(relation, max(0, self.ranks(side).rows - 1), "max", some.scope)

    def image_request(self, side: Side) -> ListRequest:
        """The request for `ranks.images`."""
        return ListRequest(Relation.T2I, max(0, self.ranks(side).images - 1), "max", self.requests[0].scope)


def matrices(plan: SearchPlan, scope: Scope) -> list[SearchMatrix]:
    """The matrices that serve all requests of a scope."""
    requests = [request for request in plan.requests if request.scope == scope]
    if not requests:
        return []
    if plan.product == "cross":
        return [SearchMatrix(*_both(plan), tuple(requests))]
    means = [
        request
        for request in requests
        if request.aggregation == "mean" and request.relation in (Relation.I2T, Relation.T2I)
    ]
    others = [request for request in requests if request not in means]
    found = []
    if others:
        relation = Relation.I2I if plan.product == "image" else Relation.T2T
        side = sides(plan, relation)[0]
        found.append(SearchMatrix(side, side, tuple(others)))
    if means:
        found.append(SearchMatrix(*_both(plan), tuple(means)))
    return found


def all_matrices(plan: SearchPlan) -> Sequence[SearchMatrix]:
    """The matrices of both scopes."""
    return matrices(plan, "split") + matrices(plan, "cross")


def _both(plan: SearchPlan) -> tuple[Side, Side]:
    return sides(plan, Relation.I2T)


class Part:
    """The rows of one side of a matrix for the images [first, last).

    Attributes:
        start, stop: the rows of its lists: images or captions.
        row_image: the image of each of them, int32.
        equal: the *units*: rows that are equal bit for bit are one. A row of the matrix is a unit.
        units: the first row of each unit.
        whole: mask of the units whose rows all belong to one image.
        image: what keeps pairs of units of one image apart: the image of a whole unit, else a number of its own, and -1
            where it is dead; int32.
        group: first image of each unit, counted from `first`, and what it has in common with units of the same images:
            the image of a whole unit, else a number of its own; int32 [units, 2].
        dots: x.x by embedding row of all rows, shared by parts of the same rows; filled in where rows are loaded.
        streamed: the rows are candidates only and are read when they are needed, not kept; queries may be among them.
    """

    def __init__(self, side: Side, first: int, last: int, dots: Float64, *, streamed: bool = False) -> None:
        self.side, self.first, self.last, self.dots, self.streamed = side, first, last, dots, streamed
        rows = side.units(first, last)
        self.start = int(side.offsets[first]) if side.modality == "text" else first
        self.stop = self.start + len(rows)
        self.row_image: Int32 = side.images(rows).astype(np.int32)
        grouped = side.grouped  # sets of rows are rarely equal
        self.equal = EqualRows.none(len(rows)) if grouped else EqualRows.of(side.rows, self.start, self.stop)
        self.units: Int64 = rows[self.equal.firsts]
        self.whole = self.equal.whole(self.row_image)
        image = self.row_image[self.equal.firsts]
        numbers = 2 * self.units + (side.modality == "text") + len(side.offsets) - 1
        if streamed:  # a query that is not whole must meet the unit with its copies
            numbers += 2 * side.rows.shape[0]
        self.image: Int32 = np.where(self.whole, image, numbers).astype(np.int32)
        self.group: Int32 = np.stack([image - np.int32(first), self.image], axis=1)
        self.blocks: list[Block] = []
        self.lists: Lists | None = None
        self._bits = np.empty((0, 0), np.uint16)

    def __len__(self) -> int:
        return len(self.units)

    def spare(self, candidates: Part) -> tuple[int, int]:
        """Units and images, beside those that count, among the best candidates of a unit; see `equal_rows`."""
        inside = candidates.first <= self.first and self.last <= candidates.last
        if not inside or (self.whole.all() and candidates.whole.all()):
            return 0, 0
        whole = np.bincount(candidates.group[candidates.whole, 0], minlength=candidates.last - candidates.first)
        images = self.row_image[~self.whole[self.equal.unit]] - candidates.first
        return min(_MOST_SPARE, int(whole[images].max(initial=0))), 1

    def spans(self, limit: int) -> list[tuple[int, int]]:
        """The units in ranges of at most `limit`, cut between images where these are not longer."""
        sizes = np.bincount(self.group[:, 0], minlength=self.last - self.first)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        images = [(int(ends[a]), int(ends[b])) for a, b in cut(sizes, 0, len(sizes), limit)]
        return [(at, min(at + limit, high)) for low, high in images for at in range(low, high, limit)]

    def block(self, start: int, stop: int, product: TileProduct) -> tuple[Block, float]:
        """Units in low precision, and the largest loss of one.

        Raises:
            StoreError: rows that are not finite or far from unit length.
        """
        low = torch.empty((stop - start, self.side.rows.shape[1]), dtype=product.dtype)
        image = self.image[start:stop]
        loss = 0.0
        for first, last in self._pieces(start, stop):
            rows, alive = self._means(first, last) if self.side.grouped else self._unit(self.units[first:last])
            image[first - start : last - start][~alive] = -1
            loss = max(loss, product.lower(rows, low[first - start : last - start]))
        group = self.group[start:stop, 0].copy()
        return Block(start, product.placed(low), image, group, self.lists, seeded=self.lists is None), loss

    def load_bits(self) -> None:
        """Read the float16 rows of the units into memory."""
        members = self.side.members(self.units)
        self._bits = np.empty((len(members), self.side.rows.shape[1]), np.uint16)
        step = max(1, _PIECE // self._bits.shape[1])
        for low in range(0, len(members), step):
            self._bits[low : low + step] = self._read(members[low : low + step]).view(np.uint16)

    def bits(self, rows: Int64) -> tuple[UInt16, Int64]:
        """Bits of rows, and where in them embedding rows are, first rows of units."""
        if self.streamed:
            needed, places = np.unique(rows, return_inverse=True)
            return np.ascontiguousarray(self.side.rows.take(needed)).view(np.uint16), places.astype(np.int64)
        if self.side.grouped:
            return self._bits, rows - self.side.offsets[self.first]
        return self._bits, self.equal.unit[rows - self.start].astype(np.int64)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        limit = max(1, _PIECE // self.side.rows.shape[1])
        for low, high in cut(self.side.sizes(self.units[start:stop]), 0, stop - start, limit):
            yield start + low, start + high

    def _read(self, rows: Int64) -> Float16:
        """Embedding rows, ascending: a view where they are neighbours."""
        start = int(rows[0]) if len(rows) else 0
        neighbours = start + len(rows) == int(rows[-1]) + 1 if len(rows) else True
        return self.side.rows.slice(start, start + len(rows)) if neighbours else self.side.rows.take(rows)

    def _unit(self, numbers: Int64) -> tuple[Float32, Bool]:
        """Embedding rows of unit length, zero where they are dead, and which are alive."""
        rows = np.ascontiguousarray(self._read(numbers))
        dots = np.empty(len(rows))
        self_dots(rows.view(np.uint16), dots)
        self.dots[numbers] = dots
        exact.check_rows(dots, numbers)
        alive = dots > 0
        scale = np.divide(1.0, np.sqrt(dots), out=np.zeros(len(dots)), where=alive).astype(np.float32)
        unit = rows.astype(np.float32)
        unit *= scale[:, None]
        return unit, alive

    def _means(self, start: int, stop: int) -> tuple[Float32, Bool]:
        """Means of the living members' unit rows of images, and which images have some."""
        images = self.units[start:stop]
        unit, alive = self._unit(self.side.members(images))
        sizes = self.side.sizes(images)
        bounds, some = np.cumsum(sizes) - sizes, np.flatnonzero(sizes)
        means = np.zeros((stop - start, unit.shape[1]), np.float32)
        living = np.zeros(stop - start, np.int64)
        if len(some):
            means[some] = np.add.reduceat(unit, bounds[some], axis=0)
            living[some] = np.add.reduceat(alive.astype(np.int64), bounds[some])
        means /= np.maximum(living, 1)[:, None].astype(np.float32)
        return means, living > 0
