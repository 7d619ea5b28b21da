"""Embedding rows on a torch device: unit rows for approximate products, and exact float64 products of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.errors import ConfigError
from labelgen.similarity import exact
from labelgen.similarity.base import Rows
from labelgen.similarity.groups import ByMember
from labelgen.types import Float16, Float64, Int64

#: Pairs that are scored together share their query in runs of this length.
_RUN = 12


@dataclass(frozen=True)
class UnitRows:
    """Living rows of some images, scaled to unit length and laid out member by member.

    Attributes:
        unit: float32 [n, d].
        rows: embedding row of each, int64 [n].
        images: image of each, int64 [n].
        groups: the images that have living rows, in the order of the layout, int64 [g].
        sizes: living rows of each of them, float32 [g].
        slices: (start, count) of the first members, the second members, ...
        span: the range of images that was loaded.
    """

    unit: Tensor
    rows: Tensor
    images: Tensor
    groups: Tensor
    sizes: Tensor
    slices: list[tuple[int, int]]
    span: tuple[int, int]


@dataclass(frozen=True)
class Device:
    """Where rows are worked on, and how many numbers of them are converted at once (16 bytes each)."""

    torch: torch.device
    numbers: int

    def rows(self, dim: int) -> int:
        """Rows of `dim` numbers in one conversion."""
        return max(1, self.numbers // dim)


def load(source: Rows, first_row: int, sizes: Int64, first: int, dots: Float64, device: Device) -> UnitRows:
    """Rows of the images from `first` on, `sizes[v]` rows each, beginning at embedding row `first_row`.

    Args:
        dots: x.x by embedding row; filled in for the rows that are read.

    Raises:
        StoreError: rows that are not finite or far from unit length.
    """
    span = first, first + len(sizes)
    rows = np.arange(first_row, first_row + int(sizes.sum()))
    layout = ByMember.of(sizes)
    wide, dots[rows] = _read(source, rows, layout, device)
    alive = dots[rows] > 0
    if not alive.all():
        del wide  # two copies of a tile would be one too many
        owner = np.repeat(np.arange(len(sizes)), sizes)
        rows = rows[alive]
        layout = ByMember.of(np.bincount(owner[alive], minlength=len(sizes)))
        wide, _ = _read(source, rows, layout, device)
    rows = rows[layout.rows]
    scale = (1.0 / np.sqrt(dots[rows])).astype(np.float32)
    wide.mul_(_sent(scale, device)[:, None])
    return UnitRows(
        unit=wide,
        rows=_sent(rows, device),
        images=_sent(layout.owner + first, device),
        groups=_sent(layout.groups + first, device),
        sizes=_sent(np.bincount(layout.owner, minlength=len(sizes))[layout.groups], device).float(),
        slices=layout.slices(),
        span=span,
    )


def pair_dots(left: Rows, left_rows: Int64, right: Rows, right_rows: Int64, device: Device) -> Float64:
    """Exact x.y of pairs of embedding rows; [n]. Fastest where equal `left_rows` are neighbours."""
    dots = np.empty(len(left_rows))
    order = np.argsort(left_rows, kind="stable")
    owner, place = _runs(left_rows[order])
    partners = np.full((len(owner), _RUN), right_rows[0] if len(right_rows) else 0)
    partners.reshape(-1)[place] = right_rows[order]
    step = min(len(owner), device.rows(_RUN * left.shape[1]))
    to_x, to_y = _Widener(step, left.shape[1], device), _Widener(step * _RUN, left.shape[1], device)
    products = np.empty((len(owner), _RUN))
    for start in range(0, len(owner), max(1, step)):
        x = to_x.widened(left.take(owner[start : start + step]))
        y = to_y.widened(right.take(partners[start : start + step].ravel()))
        products[start : start + step] = torch.bmm(y.view(len(x), _RUN, -1), x[:, :, None])[:, :, 0].cpu().numpy()
    dots[order] = products.reshape(-1)[place]
    return dots


def _runs(owners: Int64) -> tuple[Int64, Int64]:
    """Sorted owners in runs of `_RUN` places: the owner of every run, and the place of every element among all runs."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(first, append=len(owners))
    runs = -(-counts // _RUN)
    start = _RUN * (np.cumsum(runs) - runs)
    return np.repeat(owners[first], runs), np.repeat(start - first, counts) + np.arange(len(owners))


def _read(source: Rows, rows: Int64, layout: ByMember, device: Device) -> tuple[Tensor, Float64]:
    """Rows in the order of the layout as float32, and their x.x in the order of `rows`."""
    taken = rows[layout.rows]
    wide = _sent(source.take(taken), device).float()
    laid_out = _sums_of_squares(wide, device)
    dots = np.empty(len(rows))
    dots[layout.rows] = laid_out
    exact.check_rows(dots, rows)
    return wide, dots


def _sums_of_squares(wide: Tensor, device: Device) -> Float64:
    """x.x, exact: the square of a float16 number is a float32 number."""
    dots = np.empty(len(wide))
    step = min(len(wide), device.rows(wide.shape[1]))
    squares, doubles = wide.new_empty((step, wide.shape[1])), _doubles(step, wide.shape[1], device)
    for start in range(0, len(wide), max(1, step)):
        part = wide[start : start + step]
        torch.mul(part, part, out=squares[: len(part)])
        dots[start : start + step] = doubles[: len(part)].copy_(squares[: len(part)]).sum(1).cpu().numpy()
    return dots


class _Widener:
    """Turns float16 rows into float64 ones in memory that is used again: fresh pages cost more than converting."""

    def __init__(self, rows: int, dim: int, device: Device) -> None:
        self._singles = torch.empty((rows, dim), device=device.torch)
        self._doubles = _doubles(rows, dim, device)

    def widened(self, rows: Float16) -> Tensor:
        """The rows in float64, valid until the next call. By way of float32, which is faster on a CPU."""
        singles = self._singles[: len(rows)].copy_(torch.from_numpy(rows))
        return self._doubles[: len(rows)].copy_(singles)


def _doubles(rows: int, dim: int, device: Device) -> Tensor:
    # A device without float64 leaves this part to the CPU.
    place = torch.device("cpu") if device.torch.type == "mps" else device.torch
    return torch.empty((rows, dim), dtype=torch.float64, device=place)


def multiplies_float32(device: torch.device) -> bool:
    """Whether products of float32 matrices keep all bits (no TF32, no bfloat16): measured, not looked up."""
    ones = torch.ones((256, 256), device=device)
    product = torch.mm(ones * (1 + 2.0**-12), ones, out=torch.empty_like(ones))
    return bool((product == 256 + 2.0**-4).all())


def require_float32(device: torch.device) -> None:
    """Refuse units that drop bits of float32 numbers.

    Raises:
        ConfigError: a product of exactly known value comes out rounded.
    """
    if not multiplies_float32(device):
        raise ConfigError(
            f"matrix products on device {str(device)!r} are not computed in float32",
            found="a product of exactly known value that came out rounded",
            expected="full float32 precision: the proof of a search rests on it",
            todo="call torch.set_float32_matmul_precision(\"highest\"), or search with the engine 'numpy'",
        )


def _sent(array: NDArray[Any], device: Device) -> Tensor:
    return torch.from_numpy(array).to(device.torch)
