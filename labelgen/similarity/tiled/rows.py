"""The rows of a range of images in the fused engine: in low precision while tiles are met, as float16 bits after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from labelgen.similarity import exact
from labelgen.similarity.groups import Side, cut
from labelgen.similarity.tiled.lists import Block, Lists
from labelgen.similarity.tiled.pairs import self_dots
from labelgen.similarity.tiled.product import TileProduct
from labelgen.types import Bool, Float32, Float64, Int32, Int64, UInt16

#: Numbers of rows that are converted at once, 12 bytes each.
_PIECE = 1 << 22


class Part:
    """The rows of one side of a matrix for the images [first, last).

    Attributes:
        start, stop: units (images or captions) of the side; a row of the matrix is a unit.
        group: the image of every unit, counted from `first`, int32.
        image: the image of every unit, -1 for dead ones, int32.
        dots: x.x by embedding row of all rows, shared by parts of the same rows; filled in where rows are loaded.
        bits: the embedding rows [row_start, ...) of the images as uint16, once they are asked for.
    """

    def __init__(self, side: Side, first: int, last: int, dots: Float64) -> None:
        self.side, self.first, self.last, self.dots = side, first, last, dots
        units = side.units(first, last)
        self.start = int(side.offsets[first]) if side.modality == "text" else first
        self.stop = self.start + len(units)
        self.group: Int32 = (side.images(units) - first).astype(np.int32)
        self.image: Int32 = self.group + np.int32(first)
        self.blocks: list[Block] = []
        self.lists: Lists | None = None
        self._bits = np.empty((0, 0), np.uint16)

    def __len__(self) -> int:
        return self.stop - self.start

    def members(self, start: int, stop: int) -> tuple[int, int]:
        """The range of embedding rows that the units [start, stop) are made of."""
        if not self.side.grouped:
            return start, stop
        return int(self.side.offsets[start]), int(self.side.offsets[stop])

    def spans(self, limit: int) -> list[tuple[int, int]]:
        """The units in ranges of at most `limit`, cut between images where these are not longer."""
        sizes = np.bincount(self.group, minlength=self.last - self.first)
        ends = self.start + np.concatenate([[0], np.cumsum(sizes)])
        images = [(int(ends[a]), int(ends[b])) for a, b in cut(sizes, 0, len(sizes), limit)]
        return [(at, min(at + limit, high)) for low, high in images for at in range(low, high, limit)]

    def block(self, start: int, stop: int, product: TileProduct) -> tuple[Block, float]:
        """Units in low precision, and the largest loss of one.

        Raises:
            StoreError: rows that are not finite or far from unit length.
        """
        low = torch.empty((stop - start, self.side.rows.shape[1]), dtype=product.dtype)
        image = self.image[start - self.start : stop - self.start]
        loss = 0.0
        for first, last in self._pieces(start, stop):
            rows, alive = self._means(first, last) if self.side.grouped else self._unit(first, last)
            image[first - start : last - start][~alive] = -1
            loss = max(loss, product.lower(rows, low[first - start : last - start]))
        return Block(start, product.placed(low), image, self.lists), loss

    def load_bits(self) -> None:
        """Read the float16 rows into memory."""
        start, stop = self.members(self.start, self.stop)
        self._bits = np.empty((stop - start, self.side.rows.shape[1]), np.uint16)
        step = max(1, _PIECE // self._bits.shape[1])
        for low in range(start, stop, step):
            high = min(low + step, stop)
            self._bits[low - start : high - start] = self.side.rows.slice(low, high).view(np.uint16)

    def bits(self, rows: Int64) -> tuple[UInt16, Int64]:
        """All bits, and where in them embedding rows are."""
        return self._bits, rows - self.members(self.start, self.stop)[0]

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        limit = max(1, _PIECE // self.side.rows.shape[1])
        for low, high in cut(self.side.sizes(np.arange(start, stop)), 0, stop - start, limit):
            yield start + low, start + high

    def _unit(self, start: int, stop: int) -> tuple[Float32, Bool]:
        """Embedding rows of unit length, zero where they are dead, and which are alive."""
        rows = np.ascontiguousarray(self.side.rows.slice(start, stop))
        dots = self.dots[start:stop]
        self_dots(rows.view(np.uint16), dots)
        exact.check_rows(dots, np.arange(start, stop))
        alive = dots > 0
        scale = np.divide(1.0, np.sqrt(dots), out=np.zeros(len(dots)), where=alive).astype(np.float32)
        unit = rows.astype(np.float32)
        unit *= scale[:, None]
        return unit, alive

    def _means(self, start: int, stop: int) -> tuple[Float32, Bool]:
        """Means of the living members' unit rows of images, and which images have some."""
        low, high = self.members(start, stop)
        unit, alive = self._unit(low, high)
        bounds = self.side.offsets[start : stop + 1] - low
        some = np.flatnonzero(np.diff(bounds))
        means = np.zeros((stop - start, unit.shape[1]), np.float32)
        living = np.zeros(stop - start, np.int64)
        if len(some):
            means[some] = np.add.reduceat(unit, bounds[some], axis=0)
            living[some] = np.add.reduceat(alive.astype(np.int64), bounds[some])
        means /= np.maximum(living, 1)[:, None].astype(np.float32)
        return means, living > 0
