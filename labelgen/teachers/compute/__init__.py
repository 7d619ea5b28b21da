"""Execution of a network: device, precision, batch, block and runtime, validated here for every adapter of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np

from labelgen.errors import TeacherError
from labelgen.fingerprint import ADDED, TRANSIENT
from labelgen.registry import unknown
from labelgen.teachers.base import Decode, Precision, Runtime
from labelgen.teachers.checks import unit_rows
from labelgen.teachers.failures import first_line, foreign, require_least
from labelgen.torch_threads import threads
from labelgen.types import Float32

if TYPE_CHECKING:
    import torch

    Network = TypeVar("Network", bound=torch.nn.Module)

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_RUNTIMES: tuple[Runtime, ...] = ("torch", "openvino")
#: Requests at once that a caller allows; 0 for one a thread.
_allowed: ContextVar[int] = ContextVar("labelgen_requests", default=0)


@dataclass(frozen=True)
class Compute:
    """Execution of one teacher.

    Attributes:
        precision: dtype of weights and activations; rows are float32 whatever it is.
        batch: items in one forward pass.
        block: items in one call (for texts) or task (for images). Batch and block decide which items share a forward
            pass, and with that the last bits of a row: they belong to the teacher's identity.
        device: any device string that torch knows; not part of the identity. OpenVINO always runs on the CPU.
        runtime: `torch` or `openvino`. It decides the last bits of a row, and belongs to the identity (identities
            without it are those of torch).
        decode: `full` or `reduced`: JPEG photographs with four times the network's pixels on their shorter side or more
            are decoded to a half, quarter or eighth of their sides, at least twice the network's. Several times as fast
            for photographs of cameras; rows move a little, so it belongs to the identity (those without it are full).
    """

    precision: Precision
    batch: int
    block: int
    device: str = field(default="cpu", metadata=TRANSIENT)
    runtime: Runtime = field(default="torch", metadata=ADDED)
    decode: Decode = field(default="full", metadata=ADDED)

    def __post_init__(self) -> None:
        if self.runtime not in _RUNTIMES:
            raise unknown("runtime of a network", str(self.runtime), _RUNTIMES)
        if self.runtime == "openvino":
            object.__setattr__(self, "device", "cpu")
        if self.precision not in get_args(Precision):
            raise unknown("precision", str(self.precision), get_args(Precision))
        if self.decode not in get_args(Decode):
            raise unknown("way to decode", str(self.decode), get_args(Decode))
        require_least("batch", self.batch)
        require_least("block", self.block)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and inputs in torch; OpenVINO rounds float32 ones itself."""
        import torch

        reduced = self.precision == "bfloat16" and self.runtime == "torch"
        return torch.bfloat16 if reduced else torch.float32

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

    def forward(
        self,
        call: Callable[..., torch.Tensor],
        example: Callable[[], Sequence[torch.Tensor]],
        dynamic: Sequence[int] = (0,),
    ) -> Callable[..., Any]:
        """A forward pass of a placed network: `call` itself with torch, else the compiled network of OpenVINO.

        Args:
            call: tensors -> features [b, dim].
            example: makes the tensors that `call` is traced with; not called with torch.
            dynamic: axes of the inputs whose length varies from call to call.

        Raises:
            RuntimeRefusedError, MissingExtraError: see `OpenVinoNetwork`.
        """
        if self.runtime == "torch":
            return call
        from labelgen.teachers.compute.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork.of(call, example(), dynamic=dynamic, precision=self.precision, streams=threads())

    def each(self, function: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
        """`function` of every item, in order; with OpenVINO several requests at once (see `requests_at_once`)."""
        at_once = 1 if self.runtime == "torch" else _allowed.get() or threads()
        if at_once == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(at_once, len(items)), thread_name_prefix="labelgen-request") as pool:
            return list(pool.map(function, items))

    @contextmanager
    def running(self, todo: str = "") -> Iterator[None]:
        """Forward passes: no gradients, and nothing below the precision; `todo` is advice for when one fails.

        Convolutions on CUDA drop 13 of a float32's 23 bits by default (TF32), and matrix products where the caller
        allows it: cosines of the same photograph differed by 4e-6 on an H100.

        Raises:
            TeacherError: the network raised anything.
        """
        if self.runtime != "torch":
            with foreign("the network of a teacher fails on its input", todo=todo):
                yield
            return
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


@contextmanager
def requests_at_once(count: int) -> Iterator[None]:
    """Let `Compute.each` run so many requests at once in the block; the rows do not depend on it."""
    token = _allowed.set(count)
    try:
        yield
    finally:
        _allowed.reset(token)


def unit(features: Any) -> Float32:
    """Features [n, dim], a tensor of any dtype and device or an array -> unit rows in memory. Zero rows stay zero."""
    if isinstance(features, np.ndarray):
        return unit_rows(features.astype(np.float32, copy=False))
    import torch

    rows: Float32 = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return rows
