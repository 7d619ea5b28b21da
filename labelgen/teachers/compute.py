"""Execution of a network: device, precision, batch and block, validated here for every adapter of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from labelgen.errors import TeacherError
from labelgen.fingerprint import TRANSIENT
from labelgen.registry import unknown
from labelgen.teachers.base import Precision
from labelgen.teachers.failures import first_line, foreign, require_least

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class Compute:
    """Execution of one teacher.

    Attributes:
        precision: dtype of weights and activations; rows are float32 whatever it is.
        batch: items in one forward pass.
        block: items in one call (for texts) or task (for images). Batch and block decide which items share a forward
            pass, and with that the last bits of a row: they belong to the teacher's identity.
        device: any device string that torch knows; not part of the identity.
    """

    precision: Precision
    batch: int
    block: int
    device: str = field(default="cpu", metadata=TRANSIENT)

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise unknown("precision", str(self.precision), get_args(Precision))
        require_least("batch", self.batch)
        require_least("block", self.block)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def place(self, network: Network) -> Network:
        """The frozen network on its device, in its precision.

        Raises:
            TeacherError: torch cannot use the device.
        """
        network.eval().requires_grad_(requires_grad=False)
        try:
            return network.to(device=self.device, dtype=self.dtype)
        except (RuntimeError, AssertionError) as error:  # torch raises either, by kind of device
            raise TeacherError(
                f"torch cannot use the device {self.device!r}",
                found=first_line(error),
                expected="a device of this machine, for example cpu, cuda or cuda:1",
                todo="run with --device cpu",
            ) from error

    @contextmanager
    def running(self, todo: str = "") -> Iterator[None]:
        """Forward passes: no gradients, and nothing below the precision; `todo` is advice for when one fails.

        Convolutions on CUDA drop 13 of a float32's 23 bits by default (TF32), and matrix products where the caller
        allows it: cosines of the same photograph differed by 4e-6 on an H100.

        Raises:
            TeacherError: the network raised anything.
        """
        import torch

        places: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
        before = [place.allow_tf32 for place in places]
        try:
            for place in places:
                place.allow_tf32 = False
            with foreign("the network of a teacher fails on its input", todo=todo), torch.inference_mode():
                yield
        finally:
            for place, allowed in zip(places, before, strict=True):
                place.allow_tf32 = allowed


def unit(features: torch.Tensor) -> NDArray[Any]:
    """Features [n, dim] of any dtype and device -> rows of length 1, float32, in memory. Zero rows stay zero."""
    import torch

    rows: NDArray[Any] = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return rows
