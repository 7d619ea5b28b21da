"""The array library of the scores: everything in this package is written against the array API standard.

Scores may be numpy, torch or JAX arrays. Relevance and masks may be of the same library, or numpy, and are then
moved to the device of the scores. They are constants without gradient.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from labelgen.errors import ArrayError
from labelgen.losses._types import Array, Namespace

#: Numbers of one temporary of pairs that is worked on at once: stays near a CPU's caches, fills an accelerator.
PAIRS_ON_CPU = 1 << 18
PAIRS_ON_ACCELERATOR = 1 << 25


def namespace_of(name: str, array: Array) -> Namespace:
    """The array library of `array`.

    Raises:
        ArrayError: it is not an array.
    """
    try:
        return array_api_compat.array_namespace(array)
    except TypeError as error:
        raise ArrayError(
            f"{name} is not an array", found=type(array).__name__, expected="a numpy, torch or JAX array"
        ) from error


def wide(xp: Namespace, scores: Array) -> Array:
    """Scores in float32 at least: float16 and bfloat16 have too few digits for sums and logarithms."""
    return xp.astype(scores, xp.float32) if scores.dtype.itemsize == 2 else scores


def beside(name: str, scores: Array, other: Array, dtype: Any = None) -> Array:
    """`other` as a constant in the library and on the device of the scores, of the given dtype or its own.

    Raises:
        ArrayError: it is of another library that is not numpy.
    """
    xp = array_api_compat.array_namespace(scores)
    if array_api_compat.is_numpy_array(other) and not array_api_compat.is_numpy_array(scores):
        place = {"device": scores.device} if array_api_compat.is_torch_array(scores) else {}
        other = xp.asarray(other, **place)
    elif namespace_of(name, other) is not xp:
        raise ArrayError(
            f"{name} and scores are of two array libraries",
            found=f"{type(other).__module__} and {type(scores).__module__}",
            expected="the library of the scores, or numpy",
        )
    return constant(other if dtype is None or other.dtype == dtype else xp.astype(other, dtype))


def constant(array: Array) -> Array:
    """The array without its gradient."""
    if array_api_compat.is_torch_array(array):
        return array.detach()
    if array_api_compat.is_jax_array(array):
        from labelgen.losses._jax import stop_gradient

        return stop_gradient(array)
    return array


def identity(xp: Namespace, scores: Array) -> Array:
    """The diagonal of a matrix, bool [B, B]."""
    place = {"device": scores.device} if array_api_compat.is_torch_array(scores) else {}
    rows = xp.arange(scores.shape[0], **place)
    return rows[:, None] == rows[None, :]


def pairs_at_once(scores: Array) -> int:
    """Number of pairs of candidates that a block of queries may have, over all its queries."""
    if array_api_compat.is_torch_array(scores):
        return PAIRS_ON_CPU if scores.device.type == "cpu" else PAIRS_ON_ACCELERATOR
    if array_api_compat.is_jax_array(scores):
        from labelgen.losses._jax import on_cpu

        return PAIRS_ON_CPU if on_cpu() else PAIRS_ON_ACCELERATOR
    return PAIRS_ON_CPU


def positive(xp: Namespace, values: Array) -> Array:
    """max(values, 0), with gradient 0 at 0 in every library; NaN stays NaN."""
    return xp.where(values <= 0, xp.zeros_like(values), values)


def mean_where(xp: Namespace, values: Array, counted: Array) -> Array:
    """Mean of the counted values, 0 (with zero gradient) where none is counted. `values` are finite where counted."""
    total = xp.sum(xp.where(counted, values, xp.zeros_like(values)))
    return total / at_least_one(xp, counted, values.dtype)


def at_least_one(xp: Namespace, counted: Array, dtype: Any) -> Array:
    """Number of counted entries, 1 where there is none: the divisor of sums."""
    number = xp.sum(xp.astype(counted, dtype))
    return xp.where(number == 0, xp.ones_like(number), number)


def max_where(xp: Namespace, values: Array, counted: Array) -> Array:
    """Largest counted value of every row, [n]; 0 in rows where none is counted."""
    lowest = xp.full_like(values, -xp.inf)
    largest = xp.max(xp.where(counted, values, lowest), axis=1)
    return xp.where(xp.any(counted, axis=1), largest, xp.zeros_like(largest))


def log_sum_exp(xp: Namespace, values: Array, counted: Array, floor: bool = False) -> tuple[Array, Array]:
    """log sum exp over the counted entries of every row, [n], and whether the sum has a term, [n].

    Stable for any finite values: the largest one is taken out first. With `floor`, a term exp(0) is always there.
    Rows without a term give 0.
    """
    top = constant(max_where(xp, values, counted))
    top = positive(xp, top) if floor else top
    safe = xp.where(counted, values, top[:, None])
    total = xp.sum(xp.where(counted, xp.exp(safe - top[:, None]), xp.zeros_like(values)), axis=1)
    total = total + xp.exp(-top) if floor else total
    there = total > 0 if floor else xp.any(counted, axis=1)
    return top + xp.log(xp.where(there, total, xp.ones_like(total))), there


def log_softmax(xp: Namespace, values: Array, counted: Array) -> Array:
    """log softmax over the counted entries of every row, [n, m]; finite, and without meaning, where not counted."""
    total, _ = log_sum_exp(xp, values, counted)
    return values - total[:, None]
