"""Estimated seconds of a search: the engine is timed on random rows for a few seconds, the rest is arithmetic.

An exact search costs `pair * pairs + row * rows`: every pair of rows is compared once, and every strip loads and scores
its rows. The two rates come from searches of two sizes; pairs and rows of the build's search come from the schedule of
the engine, which depends on the memory and the number of workers.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from labelgen.similarity.base import ArrayRows, Engine, ListRequest, Product, SearchPlan
from labelgen.similarity.tiles import work_of
from labelgen.stages.running import worker
from labelgen.stages.running.memory import PeakMeter
from labelgen.types import Float16, Int64

Made = TypeVar("Made")

#: Rows of the small search; and seconds of the large one, if all of its work grew with the square of the rows.
_SMALL, _SECONDS = 8000, 6.0
_LARGEST = 80_000
#: Captions an image of a random plan.
_CAPTIONS = 5
_MADE_AT_ONCE = 8192


@dataclass(frozen=True)
class ShapeOnly:
    """`Rows` with a shape and no numbers: enough for a schedule."""

    shape: tuple[int, ...]

    def slice(self, start: int, stop: int) -> Float16:
        raise NotImplementedError(f"rows {start}:{stop} have no numbers")

    def take(self, rows: Int64) -> Float16:
        raise NotImplementedError(f"{len(rows)} rows have no numbers")


@dataclass(frozen=True)
class Rates:
    """Seconds a pair of rows and a row; `peak_bytes` of the calibration; whether its strips were mutual."""

    pair: float
    row: float
    peak_bytes: int
    mutual: bool = False

    def seconds(self, plan: SearchPlan, engine: Engine, workers: int = 1, distinct: float = 1.0) -> float:
        """Seconds of a whole search whose strips workers share in the order of the schedule.

        Args:
            distinct: fraction of the rows that differ; equal ones are searched as one.
        """
        pairs, rows = work_of(plan, engine.schedule(plan), mutual=self.mutual)
        return makespan((self.pair * pairs * distinct**2 + self.row * rows * distinct).tolist(), workers)

    def simple(self, rows: float) -> float:
        """Seconds of a search of so many rows in one strip."""
        return self.pair * rows**2 + self.row * rows


def exact_rates(dim: int, requests: Sequence[ListRequest], product: Product) -> Rates:
    """The rates of this worker's exact engine for rows of `dim` numbers."""
    engine = worker.engine()
    with PeakMeter() as meter:
        small = made_plan(_SMALL, dim, requests, product)
        first = timed(lambda: search_all(engine, small))
        growth = (_SECONDS / max(first, 1e-3)) ** 0.5
        large = made_plan(int(np.clip(_SMALL * growth, 2 * _SMALL, _LARGEST)), dim, requests, product)
        second = timed(lambda: search_all(engine, large), warm=False)
    (pairs, rows), (more_pairs, more_rows) = (
        [float(part.sum()) for part in work_of(plan, engine.schedule(plan))] for plan in (small, large)
    )
    pair = max(0.0, (second / more_rows - first / rows) / (more_pairs / more_rows - pairs / rows))
    mutual = any(strip.mutual for strip in engine.schedule(large))
    return Rates(pair, max(0.0, (first - pair * pairs) / rows), meter.peak_bytes, mutual)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until the last worker is done, if each takes the next task when it is free."""
    free = [0.0] * workers
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def made_plan(size: int, dim: int, requests: Sequence[ListRequest], product: Product) -> SearchPlan:
    """A plan over random rows, `size` of them on its larger side; in two splits for lists over other splits."""
    images = size if product == "image" else size // _CAPTIONS
    offsets = np.arange(images + 1, dtype=np.int64) * (0 if product == "image" else _CAPTIONS)
    both = any(request.scope == "cross" for request in requests)
    return SearchPlan(
        product=product,
        text=None if product == "image" else ArrayRows(made_rows(images * _CAPTIONS, dim)),
        image=None if product == "text" else ArrayRows(made_rows(images, dim)),
        offsets=offsets,
        splits=((0, images // 2), (images // 2, images)) if both else ((0, images),),
        requests=tuple(requests),
        memory=worker.search_memory(worker.settings().memory),
    )


def made_rows(size: int, dim: int) -> Float16:
    """Random unit rows around a common direction, like those of teachers."""
    draw = np.random.default_rng(0)
    rows = np.empty((size, dim), np.float16)
    for start in range(0, size, _MADE_AT_ONCE):
        wide = draw.standard_normal((min(_MADE_AT_ONCE, size - start), dim), dtype=np.float32) + np.float32(0.3)
        rows[start : start + _MADE_AT_ONCE] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return rows


def search_all(engine: Any, plan: SearchPlan) -> None:
    """Search a plan and discard the lists."""
    for strip in engine.schedule(plan):
        for _ in engine.search(plan, strip):
            pass


def timed(work: Callable[[], object], *, warm: bool = True) -> float:
    """Seconds of the second of two calls (the first one warms up), or of the only one."""
    if warm:
        work()
    return clocked(work)[0]


def clocked(work: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds of one call, and its result."""
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made
