"""Similarities of tiles in the lowest precision that pays on this machine, and how far they can be off.

bfloat16 numbers are the upper halves of float32 numbers; units for them multiply several times faster and sum in
float32. What is lost is bounded per pass (`TileProduct.errors`), from the rounding of the rows that were really loaded.
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
from torch import Tensor

from labelgen.similarity.certificate import Errors, low_precision_errors, whole_product_errors
from labelgen.similarity.torch_rows import multiplies_float32
from labelgen.types import Float32

Precision: TypeAlias = Literal["bfloat16", "float32", "float32-blas"]


@dataclass(frozen=True)
class TileProduct:
    """How tiles are multiplied: unit rows are converted once, tiles come back as integers of float bits."""

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

    def tile(self, left: Tensor, right: Tensor, buffer: Tensor) -> NDArray[Any]:
        """Bits of the similarities of two blocks, int16 or int32 [m, n], in `buffer`."""
        out = buffer[: len(left) * len(right)].view(len(left), len(right))
        if self.precision == "float32-blas":
            np.matmul(left.numpy(), right.numpy().T, out=out.numpy())
        else:
            torch.mm(left, right.t(), out=out)
        bits: NDArray[Any] = out.view(torch.int16 if self.precision == "bfloat16" else torch.int32).numpy()
        return bits

    def errors(self, dim: int, largest_loss: float, members: int) -> Errors:
        """Bounds of computed similarities, when no unit row lost more than `largest_loss`.

        Args:
            members: most rows that one row is the mean of, 0 where rows are no means.
        """
        if self.precision == "bfloat16":
            return low_precision_errors(dim, largest_loss, 2.0**-8, members)
        return whole_product_errors(dim, members)


@lru_cache(maxsize=1)
def fastest() -> TileProduct:
    """The quickest of the precisions here, from a look of some milliseconds at each, once a process.

    Whichever it is, results are the same bits.
    """
    rows = (np.random.default_rng(0).standard_normal((1024, 256)) / 16).astype(np.float32)
    names: tuple[Precision, ...] = ("bfloat16", "float32-blas")
    if multiplies_float32(torch.device("cpu")):
        names += ("float32",)
    return min((TileProduct(name) for name in names), key=lambda product: _seconds(product, rows))


def _seconds(product: TileProduct, rows: Float32) -> float:
    unit = torch.empty(rows.shape, dtype=product.dtype)
    buffer = torch.empty(len(rows) ** 2, dtype=product.dtype)
    product.lower(rows, unit)
    return min(_timed(lambda: product.tile(unit, unit, buffer)) for _ in range(4))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
