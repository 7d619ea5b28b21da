"""The engine of the smallest budgets: float32 products find candidates, float64 scores them, a certificate proves it.

One product of a block of queries with a tile of candidates serves every list that is asked for: `t2t` reads the matrix,
`i2t` its maxima (or means) over the rows of an image, `t2i` those over its columns. Rows lie member by member
(`groups.ByMember`), so both are whole slices; dead rows are left out when rows are loaded.

Selection. A running list holds more than k + 1 candidates of every query. Of a tile, only what exceeds the running
(k+1)-th value less twice the bound of `error_bounds.py` can still matter; maxima over a few columns decide where to
look. At the end the candidates within that distance of the (k+1)-th are scored exactly. Rows whose certificate fails,
which takes more near ties than a list can hold, are searched again in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from labelgen.similarity import error_bounds, tiles
from labelgen.similarity.base import ListRequest, Partial, SearchPlan, Strip, query_rows
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.groups import Side, cut, sides
from labelgen.similarity.reference import exact_lists, least_bytes
from labelgen.similarity.rescoring import Candidates, Rescorer, SearchFacts
from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.similarity.tiled.torch_rows import Device, UnitRows, load, pair_dots, require_float32
from labelgen.similarity.tiles import Sizes
from labelgen.similarity.torch_lists import SLACK, RunningLists, padded
from labelgen.types import Aggregation, Float64, Int64

_BLOCK, _TILE = 512, 16384
#: Pairs scored at once.
_PAIRS = 1 << 18
#: Numbers converted at once: what a core's cache holds, or more where threads (or a device) share the work, since
#: threads that meet too often wait for one another.
_NUMBERS_ALONE, _NUMBERS_SHARED = 1 << 18, 1 << 21


class TorchEngine:
    """Certified exact search with float32 products on any torch device."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """See `Engine`."""
        return tiles.strips(plan, _sizes(plan))

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """See `Engine`; one partial list a want, with `SearchFacts` as its facts.

        Raises:
            ConfigError: products on this device are not computed in float32.
            LabelgenError: a computed similarity is further from the exact one than the bound.
        """
        require_float32(self._device)
        for wants in _passes(plan):
            long = [want for want in wants if _asks_for_nearly_all(plan, strip, want)]
            few = [want for want in wants if want not in long]
            if few:
                yield from _Pass(plan, strip, few, self._device).run()
            for want in long:
                first_row, last_row = query_rows(plan, want, strip.first, strip.last)
                keys = exact_lists(plan, strip, want, np.arange(first_row, last_row))
                yield Partial(want, first_row, keys, SearchFacts(fell_back=len(keys)).to_json())


def _passes(plan: SearchPlan) -> list[list[ListRequest]]:
    """Wants that share one matrix: all, except that the two directions of a cross product are different matrices."""
    if plan.product != "cross":
        return [list(plan.wants)]
    relations = dict.fromkeys(want.relation for want in plan.wants)
    return [[want for want in plan.wants if want.relation is relation] for relation in relations]


def _asks_for_nearly_all(plan: SearchPlan, strip: Strip, want: ListRequest) -> bool:
    """So large a part of the candidates is wanted that scoring all pairs in float64 is the cheapest search."""
    _, candidate = sides(plan, want.relation)
    whole = tiles.candidate_tiles(plan, strip, 1 << 62)
    count = sum(len(candidate.units(first, last)) for scope, first, last in whole if scope == want.scope)
    return 8 * (want.k + 1) >= count


class _Pass:
    """One strip of one matrix: products and running lists, then exact scores."""

    def __init__(self, plan: SearchPlan, strip: Strip, wants: Sequence[ListRequest], device: torch.device) -> None:
        self._plan, self._strip, self._wants = plan, strip, wants
        self._sizes = _sizes(plan)
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._device = Device(device, min(_numbers(plan), _NUMBERS_ALONE if alone else _NUMBERS_SHARED))
        self._query, self._candidate = sides(plan, wants[0].relation)
        dots = np.zeros(self._query.rows.shape[0])  # pages of rows that are never loaded stay untouched
        same = self._query.rows is self._candidate.rows
        self._query_dots, self._candidate_dots = dots, dots if same else np.zeros(self._candidate.rows.shape[0])
        self._buffers: dict[str, Tensor] = {}

    def run(self) -> Iterator[Partial]:
        spans = cut(tiles.row_weights(self._plan), self._strip.first, self._strip.last, self._sizes.block)
        blocks = [self._load(self._query, self._query_dots, *span) for span in spans]
        queries = [{want: self._queries(want, block) for want in self._wants} for block in blocks]
        lists = [{want: self._empty_lists(want, len(units[want])) for want in self._wants} for units in queries]
        self._meet_all(blocks, lists)
        del blocks
        self._buffers.clear()
        for want in self._wants:
            yield self._finished(want, [(units[want], held[want]) for units, held in zip(queries, lists, strict=True)])

    def _meet_all(self, blocks: Sequence[UnitRows], lists: Sequence[Mapping[ListRequest, RunningLists]]) -> None:
        for scope, first, last in tiles.candidate_tiles(self._plan, self._strip, self._sizes.tile):
            tile = self._load(self._candidate, self._candidate_dots, first, last)
            for block, held in zip(blocks, lists, strict=True):
                if len(block.rows) and len(tile.rows):
                    matrix = self._products(block, tile)
                    for want, running in held.items():
                        if want.scope == scope:
                            self._offer(running, want, block, tile, matrix)
            del tile  # before the next one is loaded

    def _load(self, side: Side, dots: Float64, first: int, last: int) -> UnitRows:
        """The rows of a range of images, in groups by image whatever the relation: one layout serves them all."""
        if side.rows is self._plan.text:
            offsets = self._plan.offsets[first : last + 1]
            return load(side.rows, int(offsets[0]), np.diff(offsets), first, dots, self._device)
        return load(side.rows, first, np.ones(last - first, np.int64), first, dots, self._device)

    def _queries(self, want: ListRequest, block: UnitRows) -> Int64:
        grouped = sides(self._plan, want.relation)[0].grouped
        units: Int64 = (block.groups if grouped else block.rows).cpu().numpy()
        return units

    def _empty_lists(self, want: ListRequest, queries: int) -> RunningLists:
        # The window holds an error on either side, and the rounding of the value it is taken from.
        return RunningLists(queries, want.k, 2 * self._bound(want) + 2.0**-22, self._device.torch)

    def _bound(self, want: ListRequest) -> float:
        if want.aggregation == "mean" and any(side.grouped for side in sides(self._plan, want.relation)):
            return error_bounds.mean_bound(self._plan.dim, int(np.diff(self._plan.offsets).max()))
        return error_bounds.product_bound(self._plan.dim)

    def _products(self, block: UnitRows, tile: UnitRows) -> Tensor:
        """Computed similarities [block rows, padded(tile rows)]; -inf for own pairs and padding."""
        columns = len(tile.rows)
        matrix = self._buffer("matrix", len(block.rows), padded(columns))
        inner = matrix[:, :columns]
        matrix[:, columns:] = -torch.inf
        for start in range(0, self._plan.dim, error_bounds.PANEL):
            panel = slice(start, start + error_bounds.PANEL)
            if start == 0:
                torch.mm(block.unit[:, panel], tile.unit[:, panel].t(), out=inner)
            else:
                more = self._buffer("panel", len(block.rows), columns)
                inner += torch.mm(block.unit[:, panel], tile.unit[:, panel].t(), out=more)
        if block.span[0] < tile.span[1] and tile.span[0] < block.span[1]:
            inner.masked_fill_(block.images[:, None] == tile.images, -torch.inf)
        return matrix

    def _offer(self, running: RunningLists, want: ListRequest, block: UnitRows, tile: UnitRows, matrix: Tensor) -> None:
        query, candidate = sides(self._plan, want.relation)

        def member(matrix: Tensor, side: UnitRows, group: Tensor, column: Tensor) -> Tensor:
            if want.aggregation == "mean":
                return torch.full_like(group, -1)
            return _best_member(matrix, side, group, column, running.window)

        if query.grouped:
            reduced = self._buffer("rows", len(block.groups), matrix.shape[1])
            _aggregate(matrix, block, want.aggregation, out=reduced)
            running.offer(reduced, lambda row, column: (tile.rows[column], member(matrix, block, row, column)))
        elif candidate.grouped:
            count = len(tile.groups)
            reduced = self._buffer("columns", len(block.rows), padded(count))
            reduced[:, count:] = -torch.inf
            _aggregate(matrix.t(), tile, want.aggregation, out=reduced[:, :count].t())
            running.offer(reduced, lambda row, column: (tile.groups[column], member(matrix.t(), tile, column, row)))
        else:
            running.offer(matrix, lambda _, column: (tile.rows[column], tile.rows[column]))

    def _finished(self, want: ListRequest, found: Sequence[tuple[Int64, RunningLists]]) -> Partial:
        """Exact lists of all query rows of the strip; rows without a living member stay padded."""
        dots = partial(pair_dots, device=self._device)
        given = self._query_dots, self._candidate_dots, Errors(self._bound(want))
        rescorer = Rescorer(self._plan, want, *given, _pairs(self._plan), dots)
        first_row, last_row = query_rows(self._plan, want, self._strip.first, self._strip.last)
        keys = np.full((last_row - first_row, want.k + 1), PAD_KEY)
        unproven = []
        for queries, running in found:
            keys[queries - first_row], proven = rescorer.certified(_candidates(queries, running))
            unproven.append(queries[~proven])
        again = np.sort(np.concatenate(unproven))
        rescorer.facts.fell_back = len(again)
        left = replace(self._plan, memory=self._plan.memory - _list_bytes(self._plan, self._sizes))
        keys[again - first_row] = exact_lists(left, self._strip, want, again)
        return Partial(want, first_row, keys, rescorer.facts.to_json())

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Memory that is used again by the next matrix of this name."""
        held = self._buffers.get(name)
        if held is None or held.numel() < rows * columns:
            held = self._buffers[name] = torch.empty(rows * columns, device=self._device.torch)
        return held[: rows * columns].view(rows, columns)


def _aggregate(matrix: Tensor, side: UnitRows, aggregation: Aggregation, *, out: Tensor) -> None:
    """Maxima or means over the rows of every group of `side`: matrix [n, c] -> out [g, c]."""
    groups = len(side.groups)
    out.copy_(matrix[:groups])
    for start, count in side.slices[1:]:
        combine = torch.maximum if aggregation == "max" else torch.add
        combine(out[:count], matrix[start : start + count], out=out[:count])
    if aggregation == "mean":
        out /= side.sizes[:, None]


def _best_member(matrix: Tensor, side: UnitRows, group: Tensor, column: Tensor, window: float) -> Tensor:
    """The row that makes the maximum of a group in a column, -1 where another is within the window of it."""
    best, second = matrix[group, column], torch.full(group.shape, -torch.inf, device=matrix.device)
    where = group.clone()
    for start, count in side.slices[1:]:
        some = (group < count).nonzero()[:, 0]  # groups are ordered by size, so fewer and fewer remain
        if not len(some):
            break
        place = start + group[some]
        value, so_far = matrix[place, column[some]], best[some]
        second[some] = torch.maximum(second[some], torch.minimum(value, so_far))
        best[some] = torch.maximum(value, so_far)
        where[some] = torch.where(value > so_far, place, where[some])
    rows = side.rows[where]
    return torch.where(second >= best - window, -1, rows)


def _candidates(queries: Int64, running: RunningLists) -> Candidates:
    """What may be among the best of a running list; the rest of it is dropped."""
    keep = (running.values >= running.floor()[:, None]) & (running.values > -torch.inf)
    dropped = torch.maximum(running.dropped, running.values.masked_fill(keep, -torch.inf).amax(1))
    owner, place = keep.nonzero(as_tuple=True)
    ids, members, values = (part[owner, place].cpu().numpy() for part in (running.ids, running.members, running.values))
    return Candidates(queries, owner.cpu().numpy(), ids, members, values, dropped.cpu().numpy())


def _sizes(plan: SearchPlan) -> Sizes:
    return tiles.fit(plan, tiles.preferred(plan, _BLOCK, _TILE), lambda sizes: _bytes(plan, sizes))


def _bytes(plan: SearchPlan, sizes: Sizes) -> int:
    """Anonymous memory of one search call, beside its lists the larger of its two phases.

    Products: a query row of the strip in float32; a row of a tile, or of a block that is being loaded, in float16 and
    float32, with x.x of all rows; a pair of block and tile: its similarity, that of its panel, two aggregates, the
    comparison of images and what selection lists of it (34 bytes). Scores: a candidate of a block (100 bytes), a
    converted number (16), a pair (100). Falling back: the least that the numpy engine works with.
    """
    products = 4 * plan.dim * sizes.strip + 6 * plan.dim * (sizes.tile + sizes.block)
    products += 34 * sizes.block * sizes.tile + 8 * int(tiles.row_weights(plan).sum())
    scores = 100 * sizes.block * _places(plan) + 100 * _pairs(plan)
    working = max(products, scores) + 16 * _numbers(plan)
    return _list_bytes(plan, sizes) + max(working, least_bytes(plan))


def _list_bytes(plan: SearchPlan, sizes: Sizes) -> int:
    """Running lists (value, id, member) and final ones of a strip."""
    return sizes.strip * (20 * _places(plan) + sum(16 * (want.k + 1) for want in plan.wants))


def _places(plan: SearchPlan) -> int:
    return sum(want.k + 1 + SLACK for want in plan.wants)


def _numbers(plan: SearchPlan) -> int:
    return min(_NUMBERS_SHARED, plan.memory // 64)


def _pairs(plan: SearchPlan) -> int:
    return max(1, min(_PAIRS, plan.memory // 800))
