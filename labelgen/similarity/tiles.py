"""Schedules: division of a product into strips, blocks and tiles. Pure arithmetic.

A *strip* is the work of one search call: query images against candidate images. In it, a *block* of query rows is
compared with a *tile* of candidate rows, as one matrix in memory. All three are cut between images and never mix
splits. The captions of an image are never separated, so the image with the most captions determines the smallest sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelgen.errors import BudgetError
from labelgen.similarity.base import SearchPlan, Strip
from labelgen.similarity.groups import cut
from labelgen.types import Float64, Int64, Scope

#: Floating-point operations of one strip: 10 s at a slow machine's 30 GFLOP/s.
STRIP_WORK = 3e11
#: Query rows of a strip, where the work allows. Every strip reads all its candidates, so few rows waste bandwidth.
_STRIP_ROWS = (512, 4096)


@dataclass(frozen=True)
class Sizes:
    """Most rows of a strip (queries), of a block of it (queries at once) and of a tile (candidates at once).

    The rows of an image that alone exceeds a size are taken whole.
    """

    strip: int
    block: int
    tile: int


def row_weights(plan: SearchPlan) -> Int64:
    """Rows that every image stands for in this product, at least one: empty images too have lists; [n_images]."""
    if plan.product == "image":
        return np.ones(len(plan.offsets) - 1, np.int64)
    return np.maximum(np.diff(plan.offsets), 1)


def preferred(plan: SearchPlan, block: int, tile: int) -> Sizes:
    """Sizes for speed alone: strips as high as their work allows, nothing larger than the data."""
    weights = row_weights(plan)
    rows = max(1, int(weights.sum()))
    few, many = _STRIP_ROWS
    high = int(np.clip(STRIP_WORK / (2 * plan.dim * rows), few, many))
    return Sizes(min(high, rows), min(block, high, rows), min(tile, rows))


def least(plan: SearchPlan) -> Sizes:
    """The smallest sizes: one image, the one with the most rows."""
    largest = int(row_weights(plan).max(initial=1))
    return Sizes(largest, largest, largest)


def fit(plan: SearchPlan, wanted: Sizes, cost: Callable[[Sizes], int]) -> Sizes:
    """The largest sizes, halved from `wanted`, whose `cost` in bytes is at most `plan.memory`.

    Raises:
        BudgetError: not even the smallest sizes fit.
    """
    lowest = least(plan)
    sizes = _at_least(wanted, lowest)
    while cost(sizes) > plan.memory:
        smaller = [_at_least(replace(sizes, **{name: size // 2}), lowest) for name, size in vars(sizes).items()]
        best = min(smaller, key=cost)
        if cost(best) >= cost(sizes):
            raise _too_small(plan, cost(sizes), lowest.tile)
        sizes = best
    return sizes


def strips(plan: SearchPlan, sizes: Sizes) -> list[Strip]:
    """Strips that cover the plan: every query image meets every candidate image that some request asks for, once."""
    weights = row_weights(plan)
    found = []
    for start, stop in plan.splits:
        for first, last in cut(weights, start, stop, sizes.strip):
            rows = int(weights[first:last].sum())
            limit = max(sizes.tile, int(STRIP_WORK / (2 * plan.dim * rows)))
            ranges = _requested_ranges(plan, (start, stop))
            found += [Strip(first, last, part) for part in _parted(weights, ranges, limit)]
    return found


def candidate_tiles(plan: SearchPlan, strip: Strip, tile: int) -> Iterator[tuple[Scope, int, int]]:
    """(scope, first image, last image) of every tile of a strip, in order, for the requested scopes."""
    weights = row_weights(plan)
    scopes = {request.scope for request in plan.requests}
    for low, high in strip.candidates:
        for start, stop in plan.splits:
            scope: Scope = "split" if start <= strip.first < stop else "cross"
            if scope in scopes:
                for first, last in cut(weights, max(low, start), min(high, stop), tile):
                    yield scope, first, last


def work_of(plan: SearchPlan, strips: Sequence[Strip], *, mutual: bool = False) -> tuple[Float64, Float64]:
    """Pairs that every strip compares, counted in both directions, and rows whose lists it makes.

    `mutual`: a pair is one of mutual strips, which compute it once for both directions; in others it counts twice.
    """
    ends = np.concatenate([[0], np.cumsum(row_weights(plan))])

    def weight(span: tuple[int, int]) -> float:
        return float(ends[span[1]] - ends[span[0]])

    pairs, rows = np.zeros(len(strips)), np.zeros(len(strips))
    for number, strip in enumerate(strips):
        strip_span = strip.first, strip.last
        others = sum(weight(span) for span in strip.candidates)
        single = strip.candidates == (strip_span,)
        twice = not single if strip.mutual else mutual
        pairs[number] = weight(strip_span) * others * (2 if twice else 1)
        rows[number] = weight(strip_span) + (others if strip.mutual and not single else 0)
    return pairs, rows


def _requested_ranges(plan: SearchPlan, own: tuple[int, int]) -> list[tuple[int, int]]:
    scopes = {request.scope for request in plan.requests}
    return [split for split in plan.splits if ("split" if split == own else "cross") in scopes and split[0] < split[1]]


def _parted(weights: Int64, ranges: list[tuple[int, int]], limit: int) -> list[tuple[tuple[int, int], ...]]:
    """Ranges in parts of at most `limit` rows each, in order; one empty part where there are no candidates."""
    parts: list[list[tuple[int, int]]] = [[]]
    held = 0
    for start, stop in ranges:
        for piece in cut(weights, start, stop, limit):
            rows = int(weights[piece[0] : piece[1]].sum())
            if parts[-1] and held + rows > limit:
                parts.append([])
                held = 0
            parts[-1].append(piece)
            held += rows
    return [tuple(part) for part in parts]


def _at_least(sizes: Sizes, lowest: Sizes) -> Sizes:
    block = max(sizes.block, lowest.block)
    return Sizes(max(sizes.strip, block), block, max(sizes.tile, lowest.tile))


def _too_small(plan: SearchPlan, needed: int, largest: int) -> BudgetError:
    return BudgetError(
        "the memory budget is too small for the search",
        found=f"a budget of {plan.memory:,} bytes",
        expected=f"at least {needed:,} bytes for rows of {plan.dim} numbers, images of up to {largest} rows "
        f"and k = {max((request.k for request in plan.requests), default=0)}",
        todo=f"raise --memory to {needed:,} or more, or lower --k",
    )
