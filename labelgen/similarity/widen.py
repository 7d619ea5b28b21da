"""float16 rows to float64, exactly. numpy converts number by number: a fifth of the time of a small block."""

from __future__ import annotations

import sys

import numpy as np

from labelgen.types import Float16, Float64


def widen(rows: Float16, out: Float64) -> None:
    """Write the numbers of rows [n, d] to `out` [n, d]; compiled in processes that have loaded torch anyway."""
    if "torch" in sys.modules and rows.ndim == 2:
        try:
            from labelgen.similarity.fused_pairs import widened
        except ImportError:  # no numba
            pass
        else:
            widened(rows.view(np.uint16), out)
            return
    np.copyto(out, rows)
