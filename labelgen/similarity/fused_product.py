"""Similarities of tiles in the lowest precision that pays on this machine, and how far they can be off.

bfloat16 numbers are the upper halves of float32 numbers; units for them multiply several times faster and sum in
float32. What is lost is bounded per pass (`errors_of`), from the rounding of the rows that were really loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from labelgen.similarity.certificate import Errors, bfloat16_errors, product_bound
from labelgen.types import Float16, Float32

Precision: TypeAlias = Literal["bfloat16", "float32", "float32-blas"]

#: Unit rows of a block, in the precision of the pass.
Unit: TypeAlias = Any


@dataclass(frozen=True)
class TileProduct:
    """How tiles are multiplied: unit rows are converted once, tiles come back as integers of float bits."""

    precision: Precision

    @property
    def item_bytes(self) -> int:
        """Bytes of a number of a unit row and of a similarity of a tile."""
        return 2 if self.precision == "bfloat16" else 4

    def lowered(self, rows: Float16, scale: Float32) -> tuple[Unit, float]:
        """Rows times their scale in this precision, and the largest distance of one from what it was in float32."""
        single = torch.from_numpy(rows.astype(np.float32)).mul_(torch.from_numpy(scale)[:, None])
        if self.precision == "float32-blas":
            return single.numpy(), 0.0
        if self.precision == "float32":
            return single, 0.0
        low = single.to(torch.bfloat16)
        lost = single.sub_(low)
        return low, float((lost * lost).sum(1).max().sqrt()) if len(rows) else 0.0

    def buffer(self, rows: int) -> Any:
        """Memory for tiles of up to rows x rows similarities."""
        if self.precision == "float32-blas":
            return np.empty(rows * rows, np.float32)
        return torch.empty(rows * rows, dtype=torch.bfloat16 if self.precision == "bfloat16" else torch.float32)

    def tile(self, left: Unit, right: Unit, buffer: Any) -> NDArray[Any]:
        """Bits of the similarities of two blocks, int16 or int32 [m, n], in `buffer`."""
        shape = len(left), len(right)
        if self.precision == "float32-blas":
            product = buffer[: shape[0] * shape[1]].reshape(shape)
            np.matmul(left, right.T, out=product)
            whole: NDArray[Any] = product.view(np.int32)
            return whole
        out = buffer[: shape[0] * shape[1]].view(shape)
        torch.mm(left, right.t(), out=out)
        bits: NDArray[Any] = out.view(torch.int16 if self.precision == "bfloat16" else torch.int32).numpy()
        return bits

    def errors(self, dim: int, largest_loss: float) -> Errors:
        """Bounds of computed similarities, when no unit row lost more than `largest_loss`."""
        if self.precision == "bfloat16":
            return bfloat16_errors(dim, largest_loss)
        return Errors(product_bound(dim))


@lru_cache(maxsize=1)
def fastest() -> TileProduct:
    """The quickest of the precisions here, from a look of some milliseconds at each, once a process.

    Whichever it is, results are the same bits.
    """
    rows = (np.random.default_rng(0).standard_normal((1024, 256)) / 16).astype(np.float16)
    return min((TileProduct(name) for name in ("bfloat16", "float32", "float32-blas")), key=lambda p: _seconds(p, rows))


def _seconds(product: TileProduct, rows: Float16) -> float:
    unit, _ = product.lowered(rows, np.ones(len(rows), np.float32))
    buffer = product.buffer(len(rows))
    return min(_timed(lambda: product.tile(unit, unit, buffer)) for _ in range(4))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
