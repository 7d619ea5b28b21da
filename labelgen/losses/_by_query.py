"""Losses over all pairs of candidates of every query, without keeping them: value and gradient, a block of queries at a
time.

Such a loss has B^3 terms. Nothing of that size is kept: a kernel gets some queries, makes the pairs of their
candidates, and gives value and gradient of each query; then the pairs are forgotten. What lives is O(B^2), forward and
backward.
"""

from __future__ import annotations

import array_api_compat

from labelgen.losses._namespace import namespace_of, pairs_at_once
from labelgen.losses._types import Array, Kernel, ValueAndGradient


def by_query(kernel: Kernel, *arrays: Array) -> tuple[Array, ...]:
    """What the kernel gives for all queries, block by block; the arrays have the queries in front."""
    queries, candidates = arrays[0].shape[:2]
    size = max(1, pairs_at_once(arrays[0]) // (candidates * candidates))
    if array_api_compat.is_jax_array(arrays[0]):
        from labelgen.losses._jax import map_queries

        return map_queries(kernel, arrays, min(size, queries))
    xp = namespace_of("scores", arrays[0])
    blocks = [kernel(*(array[start : start + size] for array in arrays)) for start in range(0, queries, size)]
    return tuple(xp.concat(parts) if len(parts) > 1 else parts[0] for parts in zip(*blocks, strict=True))


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
