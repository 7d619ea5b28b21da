"""Exact products of pairs of float16 rows, compiled: what scores the candidates that a search has kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.similarity.tiled.bits import half, prefetch, reordered

#: Pairs whose rows are asked for before they are needed.
_AHEAD = 8


@reordered
def self_dots(rows: Any, dots: Any) -> None:
    """x.x of float16 rows given as their bits, exact."""
    for row in range(len(rows)):
        total = 0.0
        for place in range(rows.shape[1]):
            number = half(rows[row, place])
            total += np.float64(number * number)
        dots[row] = total


@reordered
def pair_dots(left: Any, left_rows: Any, right: Any, right_rows: Any, dots: Any) -> None:
    """x.y of pairs of float16 rows given as their bits, exact. Fastest where equal `left_rows` are neighbours."""
    pairs, dim = len(dots), left.shape[1]
    x, held = np.empty(dim, np.float64), -1
    for pair in range(pairs):
        if pair + _AHEAD < pairs:  # rows lie anywhere in memory: the wait for them is most of the work
            for place in range(0, dim, 32):
                prefetch(right, right_rows[pair + _AHEAD], place)
        if left_rows[pair] != held:
            held = left_rows[pair]
            for place in range(dim):
                x[place] = half(left[held, place])
        y = right[right_rows[pair]]
        total = 0.0
        for place in range(dim):
            total += x[place] * np.float64(half(y[place]))
        dots[pair] = total
