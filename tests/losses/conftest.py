"""JAX computes in float64 here where it is asked to, as numpy and torch do."""

from __future__ import annotations

import jax

jax.config.update("jax_enable_x64", True)
