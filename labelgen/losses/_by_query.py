"""Losses over all pairs of candidates of every query, without keeping them: value and gradient, a block of queries at a
time.

Such a loss has B^3 terms. A kernel computes value and gradient for a few queries from the pairs of their
candidates, which are then freed. Memory is O(B^2), forward and backward.
"""

from __future__ import annotations

from typing import Any

import array_api_compat

from labelgen.losses._namespace import namespace_of, pairs_at_once
from labelgen.losses._types import Array, Kernel, Namespace, ValueAndGradient


def by_query(kernel: Kernel, *arrays: Array) -> tuple[Array, ...]:
    """Results of the kernel for all queries, block by block; the arrays have the queries in front."""
    queries, candidates = arrays[0].shape[:2]
    size = max(1, pairs_at_once(arrays[0]) // (candidates * candidates))
    if array_api_compat.is_jax_array(arrays[0]):
        from labelgen.losses._jax import map_queries

        return map_queries(kernel, arrays, min(size, queries))
    starts = range(0, queries, size)
    found = kernel(*(array[:size] for array in arrays))
    if len(starts) == 1:
        return found
    # Written into place: small results between large temporaries would leave memory in pieces.
    xp = namespace_of("scores", arrays[0])
    whole = tuple(_empty(xp, part, queries) for part in found)
    for start in starts:
        parts = kernel(*(array[start : start + size] for array in arrays)) if start else found
        for target, part in zip(whole, parts, strict=True):
            target[start : start + size, ...] = part
    return whole


def differentiable(function: ValueAndGradient, scores: Array, *constants: Array) -> Array:
    """The value of `function`, whose gradient torch and JAX take from the function itself."""
    if array_api_compat.is_torch_array(scores):
        from labelgen.losses import _torch

        return _torch.attach(function, scores, constants)
    if array_api_compat.is_jax_array(scores):
        from labelgen.losses import _jax

        return _jax.attach(function, scores, constants)
    return function(scores, *constants, gradient=False)[0]


def differences(values: Array) -> Array:
    """[q, i, j] = values[q, j] - values[q, i]."""
    return values[:, None, :] - values[:, :, None]


def count(xp: Namespace, true: Array, axis: int | tuple[int, ...]) -> Array:
    """Number of true entries along an axis, int32."""
    if axis == 1:  # across rows, torch adds floats three times as fast as whole numbers, and exactly up to 2^24
        return xp.astype(xp.sum(true, axis=1, dtype=xp.float32), xp.int32)
    return xp.sum(true, axis=axis, dtype=xp.int32)


def widest(xp: Namespace, scores: Array) -> Any:
    """float64 where the library and the device have it, else the dtype of the scores."""
    if array_api_compat.is_torch_array(scores):
        return scores.dtype if scores.device.type == "mps" else xp.float64
    if array_api_compat.is_jax_array(scores):
        from labelgen.losses import _jax

        return _jax.widest()
    return xp.float64


def _empty(xp: Namespace, part: Array, queries: int) -> Array:
    place = {"device": part.device} if array_api_compat.is_torch_array(part) else {}
    return xp.empty((queries, *part.shape[1:]), dtype=part.dtype, **place)
