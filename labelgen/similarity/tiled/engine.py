"""The default engine: tiles in low precision, each computed once for both sides and all relations, and a proof.

`t2t` and `i2i` are symmetric, so one pass over the pairs of blocks I <= J serves the rows and the columns of a tile.
`i2t` and `t2i` of caption sets follow from lists of captions (`scores`), and with means or a cross-modal teacher
one pass over images x captions serves both (`matrix`). A tile is multiplied in the fastest precision of the
machine (`product`), and while it is in the cache a compiled loop (`kernels`) compares it with the floors of
its rows and columns. Once floors are tight, few similarities exceed them, and only those are processed further. At the
end the entries of the lists are scored exactly and the proof of `error_bounds.py` is checked (`scores`). If it fails,
because there are more near ties than places in a list, the list is searched again in float64. If many lists fail, the
whole pass is repeated in float32.

Each thread works on separate tiles, and the lists of a block are guarded by its lock.

On another device, products and comparisons run there and the rest on the CPU (`device`). The reference engine, which
gives the same bits, searches corpora below a few thousand rows and budgets for less than a few hundred; nothing of
torch or of compiled loops is imported then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from labelgen.errors import LabelgenError, requires
from labelgen.similarity.base import Partial, SearchPlan, Strip
from labelgen.similarity.groups import cut
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.tiles import work_of
from labelgen.torch_threads import limiting
from labelgen.types import Int64, Scope

#: Floating-point operations of one strip: 10 s at 1 TFLOP/s, 30 s where there is a third of that.
_WORK = 1e13
#: The same where a device multiplies: some seconds there, and as much again for the lists and their exact scores.
_DEVICE_WORK = 3e14
#: Floating-point operations that take as long as a place of a list, for each of a row's numbers, and as loading a row.
_LISTED, _LOADED = 250, 5e6
#: Rows below which the reference engine is quick enough, and nothing has to be compiled.
_LEAST_ROWS = 4096
#: Rows that must fit into the budget: with fewer, most of the time would go into the borders of strips.
_LEAST_FITTING = 256
#: Anonymous bytes of a candidate of a one-sided strip: its unit, image, group and x.x, and what finds equal rows.
_CANDIDATE_BYTES = 80
#: Anonymous bytes of one thread, beside its tile.
_THREAD_BYTES = 64 * 10**6


class TiledEngine:
    """Certified exact search: tiles in low precision, selection beside the product, exact scores for survivors.

    Args:
        least_rows: corpora of fewer rows are searched by the reference engine, which compiles nothing.
    """

    def __init__(self, device: str = "cpu", least_rows: int | None = None) -> None:
        self._device = device
        self._least_rows = _LEAST_ROWS if least_rows is None else least_rows
        self._reference = ReferenceEngine()

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """See `Engine`; strips of ranges within one split each, all mutual or all one-sided, whichever costs less."""
        if not self._is_ours(plan):
            return self._reference.schedule(plan)
        mutual = list(_mutual_strips(plan, _WORK if self._device == "cpu" else _DEVICE_WORK))
        single = list(_one_sided_strips(plan)) if self._device == "cpu" else []
        return single if single and _cost(plan, single) < _cost(plan, mutual) else mutual

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """See `Engine`; `SearchFacts` come with every list. A strip serves the requests of the scope of its ranges.

        Raises:
            LabelgenError: a computed similarity is further from the exact one than the bound.
        """
        if not strip.mutual and not self._is_one_sided(plan, strip):
            yield from self._reference.search(plan, strip)
            return
        with _one_thread_each() as given:
            from labelgen.similarity.tiled.device import product_on, whole_sums
            from labelgen.similarity.tiled.matrix import matrices
            from labelgen.similarity.tiled.product import fastest
            from labelgen.similarity.tiled.sweep import OneSidedPass, Pass

            threads = min(given, _threads_that_fit(plan, strip))
            run = Pass if strip.mutual else OneSidedPass
            with whole_sums():
                product = fastest() if self._device == "cpu" else product_on(self._device)
                for span in strip.candidates:
                    part = replace(strip, candidates=(span,))
                    for matrix in matrices(plan, _scope(plan, part)):
                        yield from run(plan, part, matrix, product, threads).run()

    def _is_one_sided(self, plan: SearchPlan, strip: Strip) -> bool:
        """Whether a strip that is not mutual is one of `_one_sided_strips`, or the part of one that an append needs."""
        apart = all(last <= strip.first or strip.last <= first for first, last in strip.candidates)
        inside = all(first <= strip.first and strip.last <= last for first, last in strip.candidates)
        return bool(strip.candidates) and (apart or inside) and self._is_ours(plan) and _is_symmetric(plan)

    def _is_ours(self, plan: SearchPlan) -> bool:
        images = len(plan.offsets) - 1
        if images + int(plan.offsets[-1] - plan.offsets[0]) < self._least_rows:
            return False  # whatever the matrices are: nothing is imported for them
        _torch()
        fitting = _rows_that_fit(plan) >= min(self._least_rows, _LEAST_FITTING)
        return fitting and int(_weights(plan).sum()) >= self._least_rows


def _torch() -> Any:
    """The library; MissingExtraError where it is not installed."""
    with limiting(), requires("torch", "build", "the engine 'tiled'"):
        import torch
    return torch


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Libraries work with the calling thread alone; gives the number of threads they had."""
    torch = _torch()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that begin after this take it over
    try:
        with threadpool_limits(1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- the schedule


def _mutual_strips(plan: SearchPlan, work: float) -> Iterator[Strip]:
    """Pairs I <= J of ranges of the splits, as large as memory and the length of a task, `work`, allow."""
    weights = _weights(plan)
    most = _rows_that_fit(plan)
    half = max(1, min(most // 2, int((work / (2 * plan.dim)) ** 0.5)))
    halves = [cut(weights, start, stop, half) for start, stop in plan.splits]
    scopes = {request.scope for request in plan.requests}
    for number, (start, stop) in enumerate(plan.splits):
        ranges = halves[number]
        rows = int(weights[start:stop].sum())
        if start < stop and rows <= most and rows**2 * plan.dim <= work:
            ranges = [(start, stop)]
        for place, own in enumerate(ranges if "split" in scopes else ()):
            yield from (Strip(*own, (other,), mutual=True) for other in ranges[place:])
        for others in halves[number + 1 :] if "cross" in scopes else ():
            yield from (Strip(*own, (other,), mutual=True) for own in halves[number] for other in others)
        if "cross" in scopes and sum(a < b for a, b in plan.splits) < 2:
            yield from (Strip(*own, ()) for own in halves[number])  # lists without candidates


def _one_sided_strips(plan: SearchPlan) -> Iterator[Strip]:
    """Ranges of queries against whole splits, as long as memory and the length of a task allow.

    None where a matrix has two sides, or where not even the candidates fit.
    """
    most = _queries_that_fit(plan)
    if most < 1 or not _is_symmetric(plan):
        return
    weights = _weights(plan)
    scopes = {request.scope for request in plan.requests}
    for own in plan.splits:
        others = [split for split in plan.splits if split != own and split[0] < split[1]]
        for split in [*([own] if "split" in scopes else ()), *(others if "cross" in scopes else ())]:
            rows = max(1, int(weights[slice(*split)].sum()))
            for queries in cut(weights, *own, max(1, min(most, int(_WORK / (2 * plan.dim * rows))))):
                yield Strip(*queries, (split,))
        if "cross" in scopes and not others:
            yield from (Strip(*queries, ()) for queries in cut(weights, *own, most))  # lists without candidates


def _cost(plan: SearchPlan, strips: Sequence[Strip]) -> float:
    """Floating-point operations of strips, of lists and loaded rows as many as take the same time."""
    from labelgen.similarity.tiled.matrix import all_matrices

    places = max(matrix.ranks(side).places for matrix in all_matrices(plan) for side in (matrix.left, matrix.right))
    pairs, listed = (float(part.sum()) for part in work_of(plan, strips, mutual=True))
    loaded, weights = listed, _weights(plan)
    for strip in strips:
        if not strip.mutual:  # the candidates: for their largest loss, and again for the product
            loaded += 2 * sum(float(weights[first:last].sum()) for first, last in strip.candidates)
    return plan.dim * (pairs + listed * places * _LISTED) + loaded * _LOADED


def _is_symmetric(plan: SearchPlan) -> bool:
    from labelgen.similarity.tiled.matrix import all_matrices

    return all(matrix.symmetric for matrix in all_matrices(plan))


def _scope(plan: SearchPlan, strip: Strip) -> Scope:
    """Relation of the two ranges of a strip.

    Raises:
        LabelgenError: a range that does not lie in one split.
    """
    (other,) = strip.candidates
    own, theirs = (
        [split for split in plan.splits if split[0] <= start and stop <= split[1] and split[0] < split[1]]
        for start, stop in ((strip.first, strip.last), other)
    )
    if not own or not theirs:
        raise LabelgenError(
            "each range of a strip must be within one split",
            found=f"images {strip.first}-{strip.last} and {other[0]}-{other[1]}",
            expected=f"ranges within the splits {list(plan.splits)}",
        )
    return "split" if own == theirs else "cross"


def _weights(plan: SearchPlan) -> Int64:
    """Rows that every image stands for, on both sides of a matrix together; [n_images]."""
    if plan.product == "image":
        return np.ones(len(plan.offsets) - 1, np.int64)
    captions = np.diff(plan.offsets)
    return np.maximum(captions, 1) if _is_symmetric(plan) else captions + 1


def _rows_that_fit(plan: SearchPlan) -> int:
    """Rows whose low-precision copies and lists fit into the budget beside tiles."""
    return int(max(0, _beside_tiles(plan.memory)) / _row_bytes(plan))


def _queries_that_fit(plan: SearchPlan) -> int:
    """Queries of a one-sided strip, beside tiles and what candidates take."""
    return int(_beside_tiles(plan.memory - _candidate_bytes(plan)) / _row_bytes(plan))


def _beside_tiles(free: int) -> int:
    """Bytes for rows: tiles of threads take an eighth of the rest, those of two threads where that leaves anything."""
    tile = _thread_bytes()
    return free - tile * (max(2, free // (8 * tile)) if free >= 2.5 * tile else 1)


def _row_bytes(plan: SearchPlan) -> float:
    """Bytes of a row in low precision and of its lists; allocators keep some of what is given back."""
    from labelgen.similarity.tiled.matrix import all_matrices

    lists = [matrix.ranks(side).list_bytes for matrix in all_matrices(plan) for side in (matrix.left, matrix.right)]
    return 1.1 * (4 * plan.dim + max(lists, default=0) + 64)


def _candidate_bytes(plan: SearchPlan) -> int:
    """Bytes of what a one-sided strip knows of its candidates, and of the blocks that it holds."""
    from labelgen.similarity.tiled.product import BLOCK
    from labelgen.similarity.tiled.sweep import STREAMED_BLOCKS

    weights = _weights(plan)
    longest = max((int(weights[slice(*split)].sum()) for split in plan.splits), default=0)
    return _CANDIDATE_BYTES * longest + 4 * STREAMED_BLOCKS * BLOCK * plan.dim


def _threads_that_fit(plan: SearchPlan, strip: Strip) -> int:
    """Threads whose tiles fit into the budget beside the rows of a strip, at least one."""
    spans = dict.fromkeys([(strip.first, strip.last), *(strip.candidates if strip.mutual else ())])
    loaded = _row_bytes(plan) * sum(int(_weights(plan)[start:stop].sum()) for start, stop in spans)
    loaded += 0 if strip.mutual else _candidate_bytes(plan)
    return max(1, int(plan.memory - loaded) // _thread_bytes())


def _thread_bytes() -> int:
    from labelgen.similarity.tiled.product import BLOCK

    return 4 * BLOCK**2 + _THREAD_BYTES
