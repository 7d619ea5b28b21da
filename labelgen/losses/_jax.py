"""JAX: blocks of queries in one compiled loop, functions that compute their gradient, constants."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from labelgen.losses._types import Kernel, ValueAndGradient


def stop_gradient(array: jax.Array) -> jax.Array:
    """The array as a constant."""
    return jax.lax.stop_gradient(array)


def on_cpu() -> bool:
    """Whether computations run on the CPU by default."""
    return jax.default_backend() == "cpu"


def widest() -> Any:
    """The widest float: float32 unless JAX has float64 enabled."""
    return jnp.zeros(0, float).dtype


def map_queries(kernel: Kernel, arrays: tuple[jax.Array, ...], size: int) -> tuple[jax.Array, ...]:
    """The kernel over blocks of `size` queries, one after the other: the loop is compiled once, not unrolled."""
    queries = arrays[0].shape[0]
    blocks = -(-queries // size)

    def cut(array: jax.Array) -> jax.Array:
        filled = jnp.pad(array, [(0, blocks * size - queries), *[(0, 0)] * (array.ndim - 1)])
        return filled.reshape(blocks, size, *array.shape[1:])

    found = jax.lax.map(lambda parts: kernel(*parts), tuple(cut(array) for array in arrays))
    return tuple(array.reshape(blocks * size, *array.shape[2:])[:queries] for array in found)


def attach(function: ValueAndGradient, scores: jax.Array, constants: tuple[jax.Array, ...]) -> jax.Array:
    """The value of `function(scores, *constants)`, whose derivative by the scores is the one that it gives."""

    @jax.custom_vjp
    def loss(scores: jax.Array, constants: tuple[jax.Array, ...]) -> jax.Array:
        value: jax.Array = function(scores, *constants, gradient=False)[0]
        return value

    def forward(scores: jax.Array, constants: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
        return function(scores, *constants, gradient=True)

    def backward(gradient: jax.Array, above: jax.Array) -> tuple[jax.Array, None]:
        return above * gradient, None

    loss.defvjp(forward, backward)
    return loss(scores, constants)
