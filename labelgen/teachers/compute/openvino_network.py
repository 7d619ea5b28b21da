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
from typing import TYPE_CHECKING, Any

from labelgen.errors import MissingExtraError, TeacherError, requires
from labelgen.teachers.base import Precision
from labelgen.teachers.compute import model_cache
from labelgen.teachers.failures import reason_of

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
    """A converted network; called with tensors, by several threads at once.

    Args:
        call: tensors -> one tensor of features, by a network on the CPU in float32.
        example: tensors that `call` takes.
        dynamic: axes of the inputs whose length varies; the others keep the length of the example.
        precision: of the arithmetic; weights given as float32 are rounded by OpenVINO.
        streams: number of requests that run at once, each in one thread.

    Raises:
        RuntimeRefusedError: the network does not convert or compile.
        MissingExtraError: OpenVINO is not installed.
    """

    def __init__(
        self,
        call: Callable[..., torch.Tensor],
        example: Sequence[torch.Tensor],
        *,
        dynamic: Sequence[int],
        precision: Precision,
        streams: int,
    ) -> None:
        openvino = imported()
        key = model_cache.key_of(call, example, dynamic, str(openvino.__version__))
        try:
            model = model_cache.read_or_convert(_core(), key, lambda: _converted(openvino, call, example, dynamic))
            self._compiled = _core().compile_model(model, "CPU", _properties(precision, streams))
        except (MemoryError, TeacherError):
            raise
        except Exception as error:  # tracing runs code of models, and converters raise a dozen kinds of exceptions
            raise RuntimeRefusedError(f"the network does not convert: {reason_of(error)}") from error
        if len(self._compiled.inputs) != len(example) or len(self._compiled.outputs) != 1:
            found = f"{len(self._compiled.inputs)} inputs and {len(self._compiled.outputs)} outputs"
            raise RuntimeRefusedError(f"the converted network has {found}", f"{len(example)} inputs and 1 output")
        self._idle = SimpleQueue[Any]()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Features [b, ...], float32."""
        import torch

        request = self._request()
        try:
            arrays = [tensor.contiguous().numpy() for tensor in inputs]
            made = request.infer(dict(enumerate(arrays)), share_inputs=True)[0]
            return torch.from_numpy(made.copy())
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
