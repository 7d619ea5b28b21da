"""Types of arrays, and of the two kinds of function that array libraries call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

#: An array of any library that array-api-compat knows, and that library's functions.
Array: TypeAlias = Any
Namespace: TypeAlias = Any

#: Blocks of arrays [q, ...] of q queries -> arrays [q, ...].
Kernel: TypeAlias = Callable[..., tuple[Array, ...]]


class ValueAndGradient(Protocol):
    """A scalar and its derivative by the scores; the latter may be left out (None) unless it is requested."""

    def __call__(self, scores: Array, *constants: Array, gradient: bool) -> tuple[Array, Array | None]: ...
