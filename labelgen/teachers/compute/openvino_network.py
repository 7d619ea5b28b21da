"""A torch network as a compiled OpenVINO model: converted in memory, dynamic shapes, one inference thread a request.

Everything that could change a bit is stated: precision, accuracy before speed, one thread for each request. The number
of streams says only how many requests run at once.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from labelgen.errors import MissingExtraError, TeacherError, requires
from labelgen.teachers.base import Precision
from labelgen.teachers.compute import model_cache
from labelgen.teachers.failures import reason_of
from labelgen.types import Float32

if TYPE_CHECKING:
    import torch

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class RuntimeRefusedError(TeacherError):
    """OpenVINO cannot run a network, or not with the rows of torch."""

    def __init__(self, found: str, expected: str = "") -> None:
        super().__init__(
            "OpenVINO cannot run this teacher",
            found=found,
            expected=expected,
            todo="use torch: runtime='torch', or runtime='auto', which falls back to it",
        )


class OpenVinoNetwork:
    """A converted network; called by several threads at once.

    Attributes:
        key: of the converted network in the user's cache; empty where it is not kept.
    """

    def __init__(self, model: Any, key: str, *, precision: Precision, streams: int) -> None:
        """`precision` is that of the arithmetic; `streams` requests run at once, each in one thread."""
        self.key = key
        self._compiled = _core().compile_model(model, "CPU", _properties(precision, streams))
        self._idle = SimpleQueue[Any]()

    @classmethod
    def of(
        cls,
        call: Callable[..., torch.Tensor],
        example: Sequence[torch.Tensor],
        *,
        dynamic: Sequence[int],
        precision: Precision,
        streams: int,
    ) -> Self:
        """A network of torch on the CPU, in float32.

        Args:
            call: tensors -> one tensor of features.
            example: tensors that `call` takes.
            dynamic: axes of the inputs whose length varies; the others keep the length of the example.

        Raises:
            RuntimeRefusedError: the network does not convert or compile.
            MissingExtraError: OpenVINO is not installed.
        """
        openvino = imported()
        key = model_cache.key_of(call, example, dynamic, str(openvino.__version__))
        try:
            model = model_cache.read_or_convert(_core(), key, lambda: _converted(openvino, call, example, dynamic))
            network = cls(model, key, precision=precision, streams=streams)
        except (MemoryError, TeacherError):
            raise
        except Exception as error:  # tracing runs code of models, and converters raise a dozen kinds of exceptions
            raise RuntimeRefusedError(f"the network does not convert: {reason_of(error)}") from error
        compiled = network._compiled
        if len(compiled.inputs) != len(example) or len(compiled.outputs) != 1:
            found = f"{len(compiled.inputs)} inputs and {len(compiled.outputs)} outputs"
            raise RuntimeRefusedError(f"the converted network has {found}", f"{len(example)} inputs and 1 output")
        return network

    @classmethod
    def kept(cls, key: str, *, precision: Precision, streams: int) -> Self | None:
        """The converted network of a key from the user's cache, None where it is not there.

        Raises:
            RuntimeRefusedError: OpenVINO cannot be imported or compile it.
            MissingExtraError: OpenVINO is not installed.
        """
        try:
            model = model_cache.read(_core(), key)
            return None if model is None else cls(model, key, precision=precision, streams=streams)
        except RuntimeError as error:
            raise RuntimeRefusedError(f"the network does not compile: {reason_of(error)}") from error

    def __call__(self, *inputs: Any) -> Float32:
        """Features [b, ...] of arrays, or of tensors in memory."""
        request = self._request()
        try:
            arrays = [np.ascontiguousarray(item) for item in inputs]
            features: Float32 = request.infer(dict(enumerate(arrays)), share_inputs=True)[0]
            return features.copy()
        finally:
            self._idle.put(request)

    def _request(self) -> Any:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._compiled.create_infer_request()


def imported() -> Any:
    """The module `openvino`, without its telemetry: an import alone would send an event.

    Raises:
        MissingExtraError: it is not installed.
        RuntimeRefusedError: it is, and cannot be imported.
    """
    absent = object()
    found = sys.modules.get("openvino_telemetry", absent)
    if found is absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it fails, which is expected
    try:
        with requires("openvino", "build", "the runtime openvino"):
            import openvino
        return openvino
    except MissingExtraError:
        raise
    except Exception as error:  # a library of another system, or a damaged one
        raise RuntimeRefusedError(f"OpenVINO cannot be imported: {reason_of(error)}") from error
    finally:
        if found is absent:
            del sys.modules["openvino_telemetry"]


@cache
def _core() -> Any:
    """The one core of this process, never released.

    On machines with AMX a core replaces the stack on which the main thread takes signals, and puts the one before back
    when it goes. Of two cores the second would put back that of the first, which is gone by then: the next signal that
    Python handles, that of a finished child for example, ends the process.
    """
    return imported().Core()


def _properties(precision: Precision, streams: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Pinned threads of several worker processes would share the first cores.
        "ENABLE_CPU_PINNING": False,
    }


def _converted(
    openvino: Any, call: Callable[..., torch.Tensor], example: Sequence[torch.Tensor], dynamic: Sequence[int]
) -> Any:
    """An `openvino.Model` of the traced network."""
    import torch

    shapes = [
        openvino.PartialShape([-1 if axis in dynamic else length for axis, length in enumerate(tensor.shape)])
        for tensor in example
    ]
    with _silent(), torch.no_grad():
        trace: Any = torch.jit.trace
        traced = trace(_module(call), tuple(example), check_trace=False, strict=False)
        return openvino.convert_model(traced, example_input=tuple(example), input=shapes)


def _module(call: Callable[..., torch.Tensor]) -> torch.nn.Module:
    """A module around `call` that holds the network behind it: its weights would be copied as constants otherwise."""
    import torch

    class Traced(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return call(*inputs)

    made = Traced()
    behind = [call, getattr(call, "__self__", None), *vars(call).values()] if hasattr(call, "__dict__") else [call]
    for number, item in enumerate(behind):
        if isinstance(item, torch.nn.Module):
            made.add_module(f"network{number}", item)
            break
    return made.eval()


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings of a tracing: what they are about is tested on rows, see `labelgen.teachers.compute.choice`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
