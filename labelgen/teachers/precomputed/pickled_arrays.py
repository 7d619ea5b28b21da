"""Parts of a pickled dict of numpy arrays, as plain descriptions: nothing here calls what a file names."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import TeacherError, shown

#: Replacement for the call of each admitted name; numpy renamed `core` to `_core` in release 2.
_CALLS: Mapping[str, str] = MappingProxyType(
    {
        "numpy.core.multiarray._reconstruct": "array",
        "numpy._core.multiarray._reconstruct": "array",
        "numpy.core.numeric._frombuffer": "frombuffer",
        "numpy._core.numeric._frombuffer": "frombuffer",
        "numpy.core.multiarray.scalar": "scalar",
        "numpy._core.multiarray.scalar": "scalar",
        "numpy.dtype": "dtype",
        "collections.OrderedDict": "dict",
        "_codecs.encode": "bytes",
    }
)
#: The others are only ever arguments of these calls.
_NAMES = frozenset({*_CALLS, "numpy.ndarray"})


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the file that have not been read yet."""

    data: mmap.mmap
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Name:
    """The dotted name of something that a pickle wants to use."""

    text: str


@dataclass(slots=True)
class DType:
    """`numpy.dtype` as pickled: a code such as f4, completed by a byte order."""

    code: str
    order: str = "="

    def numpy(self, kinds: str) -> np.dtype[Any]:
        """The dtype, if it is one of the kinds (`f` float, `i` `u` integer, `b` boolean, `U` `S` text)."""
        if not re.fullmatch(rf"[{kinds}]\d{{1,6}}", self.code) or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of dtype {shown(self.code)}")
        return np.dtype(self.order.replace("|", "=") + self.code)


@dataclass(slots=True)
class StoredArray:
    """`numpy.ndarray` as pickled; `buffer` is a list of objects where the dtype is O."""

    shape: tuple[int, ...] = ()
    dtype: DType = field(default_factory=lambda: DType("f4"))
    fortran: bool = False
    buffer: Any = b""

    def fill(self, shape: Any, dtype: Any, buffer: Any, *, fortran: bool) -> StoredArray:
        self.shape = tuple(int(size) for size in expect(shape, tuple))
        self.dtype = expect(dtype, DType)
        self.buffer, self.fortran = buffer, fortran
        return self

    def numpy(self) -> NDArray[Any]:
        """The array, read-only, as a view of the mapped file where its bytes are there.

        Raises:
            ValueError: not numbers, or not as many bytes as the shape needs.
        """
        dtype, count = self.dtype.numpy("fiub"), math.prod(self.shape)
        source, offset, held = self.buffer, 0, len(self.buffer) if isinstance(self.buffer, bytes) else -1
        if isinstance(self.buffer, Span):
            source, offset, held = self.buffer.data, self.buffer.start, self.buffer.stop - self.buffer.start
        if held != count * dtype.itemsize or count == 0:
            raise ValueError(f"an array of shape {list(self.shape)} and dtype {dtype} that is empty or damaged")
        flat: NDArray[Any] = np.frombuffer(source, dtype, count, offset)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def named(module: Any, attribute: Any) -> Name:
    """A name in the file: only the admitted ones may appear, whatever is done with them.

    Raises:
        TeacherError: any other name.
    """
    name = f"{text(module)}.{text(attribute)}"
    if name not in _NAMES:
        raise TeacherError(
            f"the pickle uses {shown(name)}, which is refused",
            found="more than a dict of numpy arrays (nothing of it was executed)",
            expected="numpy arrays and plain containers",
            todo="save the features as numpy arrays: numpy.savez(path, **{id: array})",
        )
    return Name(name)


def call(function: Name, arguments: tuple[Any, ...]) -> Any:
    """Description that replaces the call of an admitted name."""
    action = _CALLS.get(function.text)
    if action == "array":
        return StoredArray()
    if action == "frombuffer":
        buffer, dtype, shape, order = arguments
        return StoredArray().fill(shape, dtype, buffer, fortran=order == "F")
    if action == "dtype":
        return DType(text(arguments[0]))
    if action == "dict" and not arguments:
        return {}
    if action == "bytes":
        return expect(arguments[0], str).encode("latin-1")
    if action == "scalar":
        dtype = expect(arguments[0], DType).numpy("iuUS")
        return np.frombuffer(raw(arguments[1]), dtype, 1)[0].item()
    raise ValueError(f"a call of {function.text}")


def build(target: Any, state: tuple[Any, ...]) -> None:
    """The state of an array (version, shape, dtype, order, bytes) or of a dtype (version, byte order, ...)."""
    if isinstance(target, StoredArray):
        _, shape, dtype, fortran, buffer = state
        target.fill(shape, dtype, buffer, fortran=bool(fortran))
    elif isinstance(target, DType):
        target.order = text(state[1])
    else:
        raise TypeError(f"a state for a {type(target).__name__}")


def expect(value: Any, kind: type) -> Any:
    """`value`, if it is of this kind."""
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def text(value: Any) -> str:
    """Text that Python 3 wrote as such and Python 2 as bytes."""
    decoded: str = expect(value, str) if isinstance(value, str) else raw(value).decode("utf-8")
    return decoded


def raw(value: Any) -> bytes:
    """Bytes in memory."""
    return value.data[value.start : value.stop] if isinstance(value, Span) else bytes(expect(value, bytes))


def key(value: Any) -> str:
    """An id: text or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value)
