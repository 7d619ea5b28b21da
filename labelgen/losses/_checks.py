"""Checks of losses: shapes and types always, values only inside `check_values()`.

Reading values synchronises with the accelerator, so it is off by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from labelgen.errors import ArrayError, ConfigError
from labelgen.losses._namespace import namespace_of
from labelgen.losses._types import Array

_CHECKING: ContextVar[bool] = ContextVar("labelgen_losses_check_values", default=False)


@contextmanager
def check_values(enabled: bool = True) -> Iterator[None]:
    """Debug mode: inside, losses also look at values (NaN, infinity, ranges) and raise `ArrayError`.

    Not inside code that JAX traces (`jit`, `grad`), where values do not exist yet; torch is slower, because the device
    must finish first.
    """
    token = _CHECKING.set(enabled)
    try:
        yield
    finally:
        _CHECKING.reset(token)


def floating(name: str, array: Array) -> None:
    """Refuse what is not an array of real floating-point numbers."""
    xp = namespace_of(name, array)
    if not xp.isdtype(array.dtype, "real floating") and "float16" not in str(array.dtype):
        raise ArrayError(f"{name} are not real numbers", found=str(array.dtype), expected="float16 to float64")


def matrix(name: str, array: Array, *, square: bool) -> None:
    """Refuse scores that are not a (square) matrix of real numbers."""
    floating(name, array)
    shape = tuple(array.shape)
    if len(shape) != 2 or 0 in shape or (square and shape[0] != shape[1]):
        raise ArrayError(
            f"{name} have the wrong shape",
            found=str(shape),
            expected="[B, B], image b and caption b are a pair" if square else "[images, captions]",
        )


def shaped(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape: nothing is broadcast."""
    if tuple(array.shape) != tuple(shape):
        raise ArrayError(f"{name} has the wrong shape", found=str(tuple(array.shape)), expected=str(tuple(shape)))


def mask(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse a mask that is not bool of the given shape."""
    shaped(name, array, shape)
    if "bool" not in str(array.dtype):
        raise ArrayError(f"{name} is not a mask", found=str(array.dtype), expected="bool, True where an entry counts")


def temperature(name: str, value: float | Array) -> None:
    """Refuse a temperature that is not a positive number, or not a scalar array."""
    if isinstance(value, (int, float)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} is {value}", expected="a positive number")
        return
    shaped(name, value, ())
    if _CHECKING.get() and not bool(value > 0):
        raise ArrayError(f"{name} is {float(value)}", expected="a positive number")


def chosen(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option that does not exist."""
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is unknown", expected=" or ".join(map(repr, allowed)))


def finite(name: str, array: Array, where: Array | None = None) -> None:
    """In debug mode, refuse NaN and infinity among the entries that count."""
    if not _CHECKING.get():
        return
    xp = namespace_of(name, array)
    good = xp.isfinite(array) if where is None else xp.isfinite(array) | ~where
    _refuse(name, good, "finite numbers")


def within(name: str, array: Array, low: float, high: float, where: Array | None = None) -> None:
    """In debug mode, refuse entries that count and are outside of [low, high]; with room for rounding."""
    if not _CHECKING.get():
        return
    good = (array >= low - 1e-3) & (array <= high + 1e-3)
    _refuse(name, good if where is None else good | ~where, f"numbers from {low:g} to {high:g}")


def _refuse(name: str, good: Array, expected: str) -> None:
    xp = namespace_of(name, good)
    wrong = int(xp.sum(xp.astype(~good, xp.int32)))
    if wrong:
        raise ArrayError(f"{name}: {wrong} entries are wrong", expected=expected)
