"""`OnDevice`: blocks of training batches from embeddings that stay on a torch device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from labelgen.errors import ConfigError, requires
from labelgen.loader.blocks import DEFAULT_SCHEME, Batch, Missing, PatchLike, Repeats, SameGroup, SoftLabeler
from labelgen.relevance.base import BlockRequest, Scheme, SoftLabels
from labelgen.specs import Spec
from labelgen.store.blocks import BlockReader, ReadRows
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, Float32, Int64

if TYPE_CHECKING:
    import torch

#: Bytes that are copied to the device at once.
_PIECE = 64 << 20
_MISSING = float(PAD_SCORE)


class OnDevice(SoftLabeler):
    """Soft labels as of `SoftLabeler`, with similarities computed on a torch device.

    Embeddings of the teachers that the scheme requests are copied to the device once, as they are stored (float16);
    a batch sends row numbers only. The scheme itself and a patch work on the block on the host, and labels come back as
    tensors on the device. Blocks by `max_other`, `top2` and `first` are corrected, and those by `sets` made, on the
    host from the mapped rows.

    Args:
        device: `cuda`, `cuda:1`, `cpu` ...
        dtype: of the products. `float32`: similarities within 1e-6 of `Store.block`, TF32 and autocast off; `float16`:
            within 1e-3.
        store, scheme_, missing, repeats, patch, kinds, same_group: as in `labelgen.soft_labels`.

    Raises:
        ConfigError: torch cannot use the device.
        MissingExtraError: torch is not installed.
    """

    def __init__(
        self,
        store: Store,
        scheme_: str | Spec | Scheme = DEFAULT_SCHEME,
        device: str | torch.device = "cuda",
        *,
        dtype: Literal["float32", "float16"] = "float32",
        missing: Missing = "raise",
        repeats: Repeats = "raise",
        patch: PatchLike | None = None,
        kinds: Iterable[str] | str | None = None,
        same_group: SameGroup = "keep",
    ) -> None:
        how: Any = {"missing": missing, "repeats": repeats, "patch": patch, "kinds": kinds, "same_group": same_group}
        super().__init__(store, scheme_, **how)
        with requires("torch", "build", "OnDevice"):
            import torch
        if dtype not in ("float32", "float16"):
            raise ConfigError(f"dtype={dtype!r} is unknown", expected="float32 or float16")
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # torch raises either, by kind of device
            raise ConfigError(
                f"torch cannot use the device {str(device)!r}",
                found=str(error).partition("\n")[0],
                expected="a device of this machine, for example cpu, cuda or cuda:1",
            ) from error
        self.dtype = dtype

    @cached_property
    def readers(self) -> Mapping[BlockRequest, _DeviceReader]:
        """As of `SoftLabeler`; made, and the rows copied, when the first batch comes."""
        import torch

        found = {request: self._reader(request) for request in self._rows_needed}
        arrays = {array.spec.path: array for reader in found.values() for array in (reader.images, reader.captions)}
        rows = {path: _copied(array, self.device) for path, array in arrays.items()}
        return {
            request: _DeviceReader(
                reader, rows[reader.images.spec.path], rows[reader.captions.spec.path], getattr(torch, self.dtype)
            )
            for request, reader in found.items()
        }

    def labels(self, batch: Batch) -> SoftLabels:
        """Soft labels of a batch, as tensors on the device."""
        import torch

        return super().labels(batch).map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device))


@dataclass(frozen=True)
class _DeviceReader:
    """A `BlockReader` whose rows are on a device."""

    reader: BlockReader
    images: torch.Tensor
    captions: torch.Tensor
    dtype: torch.dtype

    def similarities(self, images: Int64 | None, captions: Int64 | None, *, exact: bool) -> Float32:
        """As `BlockReader.similarities`, within the precision of `dtype`; `exact` has no effect."""
        import torch

        sizes = None
        y: Any = None if captions is None else self._take(self.captions, captions)
        x: Any = y
        if images is not None:
            rows, sizes = self.reader.members(images)
            x = self._take(self.images, rows)
        block = _products(x, x if images is None or y is None else y)
        if sizes is not None:
            owners = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(block.device)
            block = _aggregated(block, owners, len(sizes), self.reader.aggregation)
        found: Float32 = block.cpu().numpy()
        return found

    def _take(self, held: torch.Tensor, rows: Int64) -> torch.Tensor:
        import torch

        return held[torch.from_numpy(rows).to(held.device)].to(self.dtype)


def _products(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Similarities of rows x with rows y, float32 [m, n]; -inf where either is zero."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(x.device.type, enabled=False):
            products = (x @ y.T).float()
    finally:
        torch.set_float32_matmul_precision(precision)
    left, right = (rows.float().square().sum(1).sqrt() for rows in (x, y))
    block = (products / left[:, None] / right).clamp(-1, 1)
    missing = (left == 0)[:, None] | (right == 0)
    return block.masked_fill(missing, _MISSING)


def _aggregated(block: torch.Tensor, owners: torch.Tensor, count: int, how: str) -> torch.Tensor:
    """Max, mean or mean of the two largest of the living rows of every set, [count, n]."""
    if how == "top2":
        return _two_largest(block, owners, count)
    if how == "max":
        best = block.new_full((count, block.shape[1]), _MISSING)
        return best.scatter_reduce_(0, owners[:, None].expand_as(block), block, "amax")
    living = block > _MISSING
    total = block.new_zeros(count, block.shape[1]).index_add_(0, owners, block.masked_fill(~living, 0))
    members = block.new_zeros(count, block.shape[1]).index_add_(0, owners, living.float())
    return (total / members).masked_fill(members == 0, _MISSING)


def _two_largest(block: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    import torch

    sizes = torch.bincount(owners, minlength=count)
    width = max(2, int(sizes.max()) if len(sizes) else 2)
    place = torch.arange(len(owners), device=block.device) - (sizes.cumsum(0) - sizes)[owners]
    padded = block.new_full((count, width, block.shape[1]), _MISSING)
    padded[owners, place] = block
    first, second = padded.topk(2, dim=1).values.unbind(1)
    return torch.where(second > _MISSING, (first + second) / 2, first)


def _copied(array: ReadRows, device: Any) -> torch.Tensor:
    """All rows of an array on a device, copied piece by piece."""
    import torch

    rows: torch.Tensor = torch.empty(array.shape, dtype=torch.float16, device=device)
    step = max(1, _PIECE // array.spec.row_bytes)
    for start in range(0, len(array), step):
        stop = min(start + step, len(array))
        rows[start:stop] = torch.from_numpy(array.slice(start, stop).copy())
    return rows
