"""JAX: soft labels as jax arrays, and as a pytree that goes through `jit`, `grad` and `device_put`."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from labelgen.errors import requires
from labelgen.relevance.base import SoftLabels


def to_jax(labels: SoftLabels, device: Any = None) -> SoftLabels:
    """The same labels with jax arrays, on a device or with a sharding; JAX knows them as a pytree from then on.

    `threshold` is not an array but part of the tree's structure: a jitted function is compiled again when it changes.
    """
    jax = _jax()
    return labels.map(lambda array: jax.device_put(array, device) if device is not None else jax.numpy.asarray(array))


@cache
def _jax() -> Any:
    """The library, once it knows `SoftLabels`."""
    with requires("jax", "dev", "to_jax"):
        import jax
    jax.tree_util.register_pytree_node(SoftLabels, _flatten, _unflatten)
    return jax


_ARRAYS = tuple(item.name for item in fields(SoftLabels) if item.name != "threshold")


def _flatten(labels: SoftLabels) -> tuple[tuple[Any, ...], float | None]:
    return tuple(getattr(labels, name) for name in _ARRAYS), labels.threshold


def _unflatten(threshold: float | None, values: tuple[Any, ...]) -> SoftLabels:
    """Without the checks of a constructor: JAX puts tracers and placeholders there."""
    labels = object.__new__(SoftLabels)
    for name, value in (*zip(_ARRAYS, values, strict=True), ("threshold", threshold)):
        object.__setattr__(labels, name, value)
    return labels
