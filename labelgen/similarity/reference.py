"""The oracle engine: every pair in float64, nothing left out, nothing approximate. Slow and obviously right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from labelgen.errors import UnknownNameError
from labelgen.similarity import exact, tiles
from labelgen.similarity.base import ListRequest, Partial, SearchPlan, Strip, query_rows
from labelgen.similarity.groups import Side, cut, sides
from labelgen.similarity.sort_keys import PAD_KEY, merge_tile
from labelgen.similarity.tiles import Sizes
from labelgen.types import PAD_SCORE, Aggregation, Float16, Float32, Int64, UInt64

_BLOCK, _TILE = 256, 4096


class ReferenceEngine:
    """Scores every pair of a strip exactly, tile by tile, and keeps the best."""

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise UnknownNameError(
                "the numpy engine runs on the CPU", found=f"device {device!r}", todo="use the engine 'tiled'"
            )

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """See `Engine`."""
        return tiles.strips(plan, _sizes(plan))

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """See `Engine`; one partial list a request."""
        for request in plan.requests:
            first_row, last_row = query_rows(plan, request, strip.first, strip.last)
            yield Partial(request, first_row, exact_lists(plan, strip, request, np.arange(first_row, last_row)))


def exact_lists(plan: SearchPlan, strip: Strip, request: ListRequest, queries: Int64, *, own: bool = False) -> UInt64:
    """Lists of some query rows of a strip, from all pairs with the candidates of the strip.

    Args:
        queries: ascending query rows of the relation: images or captions.
        own: candidates of a query's own image count too.

    Returns:
        Sorted keys [len(queries), k + 1].
    """
    query, candidate = sides(plan, request.relation)
    sizes = _sizes(plan)
    found = np.full((len(queries), request.k + 1), PAD_KEY)
    for start, stop in cut(query.sizes(queries), 0, len(queries), sizes.block):
        here = queries[start:stop]
        block = query.rows.take(query.members(here))
        for scope, first, last in tiles.candidate_tiles(plan, strip, sizes.tile):
            if scope == request.scope:
                units = candidate.units(first, last)
                scores = tile_scores(block, query.sizes(here), candidate, units, request.aggregation)
                if not own:
                    scores[query.images(here)[:, None] == candidate.images(units)] = PAD_SCORE
                found[start:stop] = merge_tile(found[start:stop], scores, units)
    return found


def tile_scores(block: Float16, sizes: Int64, candidate: Side, units: Int64, aggregation: Aggregation) -> Float32:
    """Similarities of a block of queries, `sizes` rows each, with candidates; sets aggregated."""
    rows = candidate.members(units)
    tile = candidate.rows.take(rows)
    exact.check_rows(exact.self_dots(tile), rows)
    by_query = exact.aggregate_groups(exact.block_similarity(block, tile), sizes, aggregation)
    return exact.aggregate_groups(by_query.T, candidate.sizes(units), aggregation).T


def _sizes(plan: SearchPlan) -> Sizes:
    return tiles.fit(plan, tiles.preferred(plan, _BLOCK, _TILE), lambda sizes: _bytes(plan, sizes))


def least_bytes(plan: SearchPlan) -> int:
    """The smallest budget that `exact_lists` works with."""
    return _bytes(plan, tiles.least(plan))


def _bytes(plan: SearchPlan, sizes: Sizes) -> int:
    """Anonymous memory of one search call.

    A row of a block or tile: itself (2 bytes a number) and one float64 panel with a temporary of the same size (16).
    A pair: product and scale (16), score and its aggregate with a copy of members (12), the key with its parts (24),
    the partition and its result (12). A query of the strip: two lists.
    """
    panel = min(plan.dim, exact.PANEL)
    rows = (sizes.block + sizes.tile) * (2 * plan.dim + 16 * panel)
    lists = sum(16 * sizes.strip * (request.k + 1) for request in plan.requests)
    return rows + 64 * sizes.block * sizes.tile + lists
