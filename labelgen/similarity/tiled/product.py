"""Similarities of tiles in the fastest precision of this machine, and bounds of their error.

bfloat16 numbers are the upper halves of float32 numbers; units for them multiply several times faster and sum in
float32. The loss is bounded in each pass (`TileProduct.errors`) from the measured rounding of the loaded rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.similarity.error_bounds import Errors, low_precision_errors, whole_product_errors
from labelgen.similarity.tiled import kernels
from labelgen.types import Float32, Int32

Precision: TypeAlias = Literal["bfloat16", "float32", "float32-blas"]

#: Rows of a block: a tile of shorts (8 MB) passes through the second-level cache while it is compared.
BLOCK = 2048
#: Hits listed before they are taken into lists.
HITS = 1 << 14


class Tile(Protocol):
    """Similarities of two blocks, [m, n]."""

    def sample(
        self, side: int, image: Int32, other_image: Int32, other_group: Int32
    ) -> tuple[NDArray[Any], Int32, Int32]:
        """Similarities of all rows (side 0) or columns (1) with some of the others, or what is less, for first floors.

        Args:
            image, other_image: of every row and of every other one, -1 for dead ones.
            other_group: of every other one; those of one group are neighbours.

        Returns:
            Their bits, and image and group of each of the others; with the same images they are no candidates.
        """
        ...

    def scan(self, row: int, floors: Int32, others: Int32, image: Int32, other_image: Int32) -> tuple[Any, int]:
        """Entries above a floor, from a row on.

        Args:
            floors, others: keys for every row and column, int32.
            image, other_image: of every row and column, -1 for dead ones; equal images are left out.

        Returns:
            (places int32 [c, 2], keys int32 [c], how many), and the first row that was not looked at.
        """
        ...


class Multiplier(Protocol):
    """Multiplication of tiles: unit rows are converted once."""

    @property
    def dtype(self) -> torch.dtype:
        """Of unit rows and of tiles."""
        ...

    @property
    def block(self) -> int:
        """Rows of a block."""
        ...

    def lower(self, rows: Float32, out: Tensor) -> float:
        """Rows in this precision, and the largest distance of one from what it was."""
        ...

    def placed(self, unit: Tensor) -> Tensor:
        """Rows where they are multiplied."""
        ...

    def finer(self) -> Multiplier | None:
        """The product to try where this one leaves too many near ties."""
        ...

    def buffers(self) -> Any:
        """Memory for the tiles of one thread."""
        ...

    def tile(self, left: Tensor, right: Tensor, buffers: Any) -> Tile:
        """The similarities of two blocks, in the buffers."""
        ...

    def errors(self, dim: int, largest_loss: float, members: int) -> Errors:
        """Bounds of computed similarities, when no unit row lost more than `largest_loss`.

        Args:
            members: most rows that one row is the mean of, 0 where rows are no means.
        """
        ...


@dataclass(frozen=True)
class Buffers:
    """Memory of one thread: similarities of a tile, and places for what of them matters."""

    tile: Tensor
    places: Int32
    keys: Int32


@dataclass(frozen=True)
class HostTile:
    """Similarities of two blocks in this machine's memory.

    Attributes:
        bits: as integers, int16 or int32 [m, n].
    """

    bits: NDArray[Any]
    buffers: Buffers

    def sample(
        self, side: int, image: Int32, other_image: Int32, other_group: Int32
    ) -> tuple[NDArray[Any], Int32, Int32]:
        """See `Tile`; all of the others."""
        return self.bits if side == 0 else self.bits.T, other_image, other_group

    def scan(self, row: int, floors: Int32, others: Int32, image: Int32, other_image: Int32) -> tuple[Any, int]:
        """See `Tile`."""
        given = narrowed(floors, self.bits), narrowed(others, self.bits), image, other_image
        count, row = kernels.scan(self.bits, row, *given, self.buffers.places, self.buffers.keys)
        return (self.buffers.places, self.buffers.keys, count), row


@dataclass(frozen=True)
class TileProduct:
    """Products of this machine's units, see `Product`; tiles are integers of float bits."""

    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        """Of unit rows and of tiles."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def lower(self, rows: Float32, out: Tensor) -> float:
        """Rows in this precision, and the largest distance of one from what it was."""
        single = torch.from_numpy(rows)
        out.copy_(single)
        if self.precision != "bfloat16" or not len(rows):
            return 0.0
        lost = single.sub(out)
        return float(lost.mul_(lost).sum(1).max().sqrt())

    def finer(self) -> TileProduct | None:
        """The product to try where this one leaves too many near ties."""
        return TileProduct("float32-blas") if self.precision == "bfloat16" else None

    @property
    def block(self) -> int:
        """Rows of a block."""
        return BLOCK

    def placed(self, unit: Tensor) -> Tensor:
        """Rows where they are multiplied."""
        return unit

    def buffers(self) -> Buffers:
        """Memory for the tiles of one thread."""
        tile = torch.empty(BLOCK**2, dtype=self.dtype)
        return Buffers(tile, np.empty((max(HITS, BLOCK), 2), np.int32), np.empty(max(HITS, BLOCK), np.int32))

    def tile(self, left: Tensor, right: Tensor, buffers: Buffers) -> HostTile:
        """The similarities of two blocks, in the buffers."""
        out = buffers.tile[: len(left) * len(right)].view(len(left), len(right))
        if self.precision == "float32-blas":
            np.matmul(left.numpy(), right.numpy().T, out=out.numpy())
        else:
            torch.mm(left, right.t(), out=out)
        bits: NDArray[Any] = out.view(torch.int16 if self.precision == "bfloat16" else torch.int32).numpy()
        return HostTile(bits, buffers)

    def errors(self, dim: int, largest_loss: float, members: int) -> Errors:
        """See `Multiplier`."""
        if self.precision == "bfloat16":
            return low_precision_errors(dim, largest_loss, 2.0**-8, members)
        return whole_product_errors(dim, members)


@lru_cache(maxsize=1)
def fastest() -> TileProduct:
    """The quickest of the precisions here, from a look of some milliseconds at each, once a process.

    Whichever it is, results are the same bits.
    """
    rows = (np.random.default_rng(0).standard_normal((min(1024, BLOCK), 256)) / 16).astype(np.float32)
    names: tuple[Precision, ...] = ("bfloat16", "float32-blas")
    if multiplies_float32(torch.device("cpu")):
        names += ("float32",)
    return min((TileProduct(name) for name in names), key=lambda product: _seconds(product, rows))


def multiplies_float32(device: torch.device) -> bool:
    """Whether products of float32 matrices keep all bits (no TF32, no bfloat16): measured, not looked up."""
    ones = torch.ones((256, 256), device=device)
    product = torch.mm(ones * (1 + 2.0**-12), ones, out=torch.empty_like(ones))
    return bool((product == 256 + 2.0**-4).all())


def _seconds(product: TileProduct, rows: Float32) -> float:
    unit, buffers = torch.empty(rows.shape, dtype=product.dtype), product.buffers()
    product.lower(rows, unit)
    return min(_timed(lambda: product.tile(unit, unit, buffers)) for _ in range(4))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def narrowed(floors: Int32, bits: NDArray[Any]) -> NDArray[Any]:
    """Floors in the type of a tile: above them is what is above the floors as a key."""
    if bits.dtype == np.int32:
        return floors
    lowest = np.where(floors < 0, floors.astype(np.int64) - 0xFFFF, floors) >> 16
    narrow: NDArray[Any] = np.maximum(lowest, np.iinfo(np.int16).min).astype(np.int16)
    return narrow
