"""Tiles of the tiled engine on a torch device: products and comparisons there, lists on the CPU.

Few similarities exceed a floor, and only those are copied back; lists, exact scores and the proof are those of the CPU
(`lists`, `scores`). Matrix units for float16 are several times faster than float32, accumulate in float32, and lose an
eighth of what bfloat16 loses. It works on any torch device, including the CPU, on which it is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.errors import ConfigError
from labelgen.similarity.error_bounds import Errors, low_precision_errors, whole_product_errors
from labelgen.similarity.tiled import product
from labelgen.similarity.tiled.bits import EVERYTHING, NOTHING
from labelgen.similarity.tiled.lists import numbers
from labelgen.types import Float32, Int32, Int64

#: Similarities compared before the floors are read again. Reading them costs as much as comparing millions; with older
#: floors more similarities are copied back, 12 bytes each.
_SLAB = 1 << 24
#: Blocks on a device, as a multiple of those on the CPU: a product must be worth its launch. Positions fit into int16.
_BLOCKS = 4
#: Bits of minus infinity, and the bits that the compiled loops order below all numbers: no candidate.
_MINUS_INFINITY, _NONE = np.float32(-np.inf).view(np.int32), np.int32(-1)
#: Groups of candidates whose maxima give the first floors.
_GROUPS = 1024


@dataclass(frozen=True)
class DeviceTile:
    """Similarities of two blocks on a device, [m, n]."""

    similarities: Tensor

    def sample(
        self, side: int, image: Int32, other_image: Int32, other_group: Int32
    ) -> tuple[NDArray[Any], Int32, Int32]:
        """See `Tile`. Maxima over groups of whole images: all candidates count, and few numbers are copied back.

        The maximum of a group is at most the best of one of its images, so the floors are valid.
        """
        part = self.similarities if side == 0 else self.similarities.t()
        columns, there = _groups(np.where(other_image < 0, np.int32(-1), other_group))
        place = torch.from_numpy(columns).to(part.device)
        images = torch.from_numpy(np.where(there, other_image[columns], -1).astype(np.int32)).to(part.device)
        own = torch.from_numpy(image).to(part.device)
        step = max(1, _SLAB // max(1, columns.size))
        best = []
        for low in range(0, len(image), step):
            found = part[low : low + step, place]  # [rows, groups, candidates of a group]
            none = (images < 0) | (images == own[low : low + step, None, None])
            best.append(found.masked_fill_(none, -torch.inf).amax(2))
        bits: NDArray[Any] = torch.cat(best).float().cpu().numpy().view(np.int32)
        bits[bits == _MINUS_INFINITY] = _NONE
        others = np.iinfo(np.int32).max - np.arange(len(columns), dtype=np.int32)
        return bits, others, others

    def scan(self, row: int, floors: Int32, others: Int32, image: Int32, other_image: Int32) -> tuple[Any, int]:
        """See `Tile`."""
        high = min(len(floors), row + max(1, _SLAB // max(1, len(others))))
        part = self.similarities[row:high]
        own, theirs = (_floors(keys, part.device) for keys in (floors[row:high], others))
        found = ((part > own[:, None]) | (part > theirs)).nonzero()
        similarities = part[found[:, 0], found[:, 1]].cpu()
        places = found.to(torch.int16).cpu().numpy().astype(np.int32)
        places[:, 0] += row
        left, right = image[places[:, 0]], other_image[places[:, 1]]
        keep = (left >= 0) & (right >= 0) & (left != right)
        bits = similarities.float().numpy()[keep].view(np.int32)
        keys = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
        return (places[keep], keys, len(keys)), high


def _groups(image: Int32) -> tuple[Int64, NDArray[np.bool_]]:
    """Group candidates by whole images: positions [groups, candidates], long groups cut, and a mask of valid positions.

    Args:
        image: image of each candidate, -1 for dead ones.
    """
    living = np.flatnonzero(image >= 0)
    if not len(living):
        return np.zeros((0, 1), np.int64), np.zeros((0, 1), bool)
    begins = np.concatenate([[0], 1 + np.flatnonzero(np.diff(image[living]))])
    width = -(-len(living) // _GROUPS)
    first = begins[np.unique(begins // width, return_index=True)[1]]  # an image belongs to the group in which it begins
    places = first[:, None] + np.arange(2 * width)
    there = places < np.append(first[1:], len(living))[:, None]
    return living[np.where(there, places, 0)], there


def _floors(keys: Int32, device: torch.device) -> Tensor:
    """Float32 floors on a device: a similarity exceeds the number exactly if its key exceeds the key."""
    floors = numbers(keys)
    floors[keys == EVERYTHING] = -np.inf
    floors[keys == NOTHING] = np.inf
    return torch.from_numpy(floors).to(device)


@dataclass(frozen=True)
class DeviceProduct:
    """Multiplication of tiles on a device; see `product.Multiplier`."""

    device: torch.device
    dtype: torch.dtype

    @property
    def block(self) -> int:
        """Rows of a block."""
        return _BLOCKS * product.BLOCK

    def lower(self, rows: Float32, out: Tensor) -> float:
        """Write rows in this precision to `out`; return the largest Euclidean distance of a row from its copy."""
        single = torch.from_numpy(rows)
        out.copy_(single)
        if self.dtype == torch.float32 or not len(rows):
            return 0.0
        lost = single.sub(out.float())
        return float(lost.mul_(lost).sum(1).max().sqrt())

    def finer(self) -> DeviceProduct | None:
        """Product to try next if this one leaves too many near ties, None if there is no finer one."""
        return None if self.dtype == torch.float32 else DeviceProduct(self.device, torch.float32)

    def placed(self, unit: Tensor) -> Tensor:
        """Copy rows to the device."""
        return unit.to(self.device)

    def buffers(self) -> Tensor:
        """Memory for the tile of one thread."""
        return torch.empty(self.block**2, dtype=self.dtype, device=self.device)

    def tile(self, left: Tensor, right: Tensor, buffers: Tensor) -> DeviceTile:
        """Multiply two blocks into the buffers."""
        out = buffers[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left, right.t(), out=out)
        return DeviceTile(out)

    def errors(self, dim: int, largest_loss: float, members: int) -> Errors:
        """See `Multiplier`."""
        if self.dtype == torch.float32:
            return whole_product_errors(dim, members)
        relative = torch.finfo(self.dtype).eps / 2
        errors = low_precision_errors(dim, largest_loss, relative, members)
        return Errors(errors.flat + torch.finfo(self.dtype).tiny * relative * 2, relative)  # subnormal results


def product_on(device: str) -> DeviceProduct:
    """Return the product of a device: float16 on CUDA, where sums are in float32, else float32.

    Raises:
        ConfigError: products on this device are not computed in float32.
    """
    place = torch.device(device)
    if not product.multiplies_float32(place):
        raise ConfigError(
            f"matrix products on device {device!r} are not computed in float32",
            found="a product with a known exact value was rounded",
            expected="full float32 precision, which the proof of a search needs",
            todo="call torch.set_float32_matmul_precision(\"highest\"), or search with the engine 'numpy'",
        )
    return DeviceProduct(place, torch.float16 if place.type == "cuda" else torch.float32)


@contextmanager
def whole_sums() -> Iterator[None]:
    """Make CUDA sum float16 products in float32, as the error bound assumes; applies to all threads."""
    matmul = torch.backends.cuda.matmul
    names = "allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation"
    before = {name: getattr(matmul, name) for name in names}
    try:
        for name in names:
            setattr(matmul, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)
