"""Memory that a thread uses again: fresh pages cost more than the arithmetic of a small block."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Bytes of the largest array that is kept.
_KEPT = 1 << 22
#: Bytes of a cache line, where arrays begin.
_LINE = 64


class Scratch(threading.local):
    """Arrays of this thread by name."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """An array with undefined contents, valid until the same name is requested again."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > _KEPT:
            return np.empty(shape, dtype)
        held = self._held.get(name)
        if held is None or len(held) < size:
            whole = np.empty(size + _LINE, np.uint8)
            begin = -whole.ctypes.data % _LINE
            held = self._held[name] = whole[begin : begin + size]
        return held[:size].view(dtype).reshape(shape)


#: Of the thread that asks; names are shared by all who ask.
scratch = Scratch()
