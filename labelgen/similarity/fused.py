"""The default engine: tiles in low precision, each computed once for both sides and all relations, and a proof.

`t2t` and `i2i` are symmetric, and `i2t` and `t2i` of caption sets are maxima over parts of the same matrix, so one pass
over the pairs of blocks I <= J serves every list. A tile is multiplied in the fastest precision of the machine
(`fused_product`), and while it is in the cache a compiled loop (`fused_kernels`) compares it with the floors of its
rows and of its columns; little exceeds them once they are tight, and only that is looked at again. At the end what the
lists hold is scored exactly and the proof of `certificate.py` is checked; a list whose proof fails, which takes more
near ties than it has places, is searched again in float64.

Threads share the tiles, not the work on one: nobody waits, and lists are guarded by the lock of their block.

Not done here, but by `torch.py` with float32 products: other devices than a CPU, products of images and captions, means
over captions, lists of other splits, very long rows, and budgets too small for a few thousand rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from labelgen.similarity import exact, tiles
from labelgen.similarity import fused_kernels as kernels
from labelgen.similarity.base import Partial, SearchPlan, Strip, Want
from labelgen.similarity.certificate import Errors
from labelgen.similarity.fused_lists import Block, Lists, list_bytes, nothing_met, offer, seed
from labelgen.similarity.fused_pairs import pair_dots, self_dots
from labelgen.similarity.fused_product import TileProduct, fastest
from labelgen.similarity.groups import cut, sides
from labelgen.similarity.keys import PAD_KEY
from labelgen.similarity.numpy import exact_lists
from labelgen.similarity.rescoring import Rescorer, SearchFacts
from labelgen.similarity.torch import TorchEngine
from labelgen.types import Float64, Int32, Int64

#: Rows of a block: a tile of shorts (8 MB) passes through the second-level cache while it is compared.
_BLOCK = 2048
#: Floating-point operations of one strip: 10 s at 1 TFLOP/s, 30 s where there is a third of that.
_WORK = 1e13
#: Rows below which the other engine is as quick.
_LEAST_ROWS = 4096
#: Longer rows are left to an engine that sums them in panels.
_MAX_DIM = 8192
#: Hits listed before they are taken into lists; lists scored at once; pairs of rows scored at once.
_HITS, _SCORED, _PAIRS = 1 << 14, 1024, 1 << 17
#: Anonymous bytes of one thread, beside its tile.
_THREAD_BYTES = 64 * 10**6
_CONVERTED = 8192


class FusedEngine:
    """Certified exact search: symmetric tiles in low precision, selection in the cache, exact scores for survivors."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._other = TorchEngine(device)

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """See `Engine`; mutual strips for the lists of this engine, then those of the other one."""
        ours, rest = self._shared(plan)
        strips: list[Strip] = list(_mutual_strips(plan, ours)) if ours else []
        return strips + (list(self._other.schedule(replace(plan, wants=rest))) if rest or not ours else [])

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """See `Engine`; `SearchFacts` come with the first range of every list.

        Raises:
            LabelgenError: a computed similarity is further from the exact one than the bound.
        """
        ours, rest = self._shared(plan)
        if strip.mutual:
            with _one_thread_each() as threads:
                yield from _Pass(plan, strip, ours, threads).run()
        else:
            yield from self._other.search(replace(plan, wants=rest or plan.wants), strip)

    def _shared(self, plan: SearchPlan) -> tuple[tuple[Want, ...], tuple[Want, ...]]:
        """The wants of this engine, and those of the other one."""
        fits = self._device == "cpu" and plan.product != "cross" and plan.dim <= _MAX_DIM
        weights = tiles.row_weights(plan)
        fits = fits and int(weights.max(initial=1)) <= _BLOCK
        ours = tuple(want for want in plan.wants if fits and _is_ours(plan, want))
        if ours and _rows_that_fit(plan, ours) < min(_LEAST_ROWS, int(weights.sum())):
            ours = ()
        return ours, tuple(want for want in plan.wants if want not in ours)


def _is_ours(plan: SearchPlan, want: Want) -> bool:
    grouped = any(side.grouped for side in sides(plan, want.relation))
    return want.scope == "split" and (want.aggregation == "max" or not grouped)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Libraries work with the calling thread alone; gives the number of threads they had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that begin after this take it over
    try:
        with threadpool_limits(1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- the schedule


def _mutual_strips(plan: SearchPlan, wants: Sequence[Want]) -> Iterator[Strip]:
    """Pairs I <= J of ranges of every split, as large as memory and the length of a task allow."""
    weights = tiles.row_weights(plan)
    most = _rows_that_fit(plan, wants)
    for start, stop in plan.splits:
        rows = int(weights[start:stop].sum())
        if rows <= most and rows**2 * plan.dim <= _WORK:
            ranges = [(start, stop)] if start < stop else []
        else:
            ranges = cut(weights, start, stop, max(1, min(most // 2, int((_WORK / (2 * plan.dim)) ** 0.5))))
        for number, own in enumerate(ranges):
            for other in ranges[number:]:
                yield Strip(*own, (other,), mutual=True)


def _rows_that_fit(plan: SearchPlan, wants: Sequence[Want]) -> int:
    """Rows whose low-precision copies and lists fit into the budget beside one thread's tile."""
    images = max(1, len(plan.offsets) - 1)
    total = int(tiles.row_weights(plan).sum())
    lists = 0.0
    for want in wants:
        query, candidate = sides(plan, want.relation)
        share = images / total if query.grouped else 1.0
        lists += share * list_bytes(want, query.grouped or candidate.grouped)
    per_row = 1.1 * (4 * plan.dim + lists + 28)  # allocators keep some of what is given back
    return int(max(0, plan.memory - _thread_bytes()) / per_row)


def _thread_bytes() -> int:
    return 4 * _BLOCK**2 + _THREAD_BYTES


# ----------------------------------------------------------------------------------------------------------- the pass


class _Range:
    """Images [first, last) of a strip with their rows."""

    def __init__(self, plan: SearchPlan, first: int, last: int) -> None:
        self.first, self.last = first, last
        captions = plan.product == "text"
        self.start, self.stop = (int(plan.offsets[at]) if captions else at for at in (first, last))
        sizes = np.diff(plan.offsets[first : last + 1]) if captions else np.ones(last - first, np.int64)
        self.image = np.repeat(np.arange(first, last, dtype=np.int32), sizes)
        self.blocks: list[Block] = []


class _Pass:
    """One mutual strip: all tiles of a pair of ranges, then exact scores of what the lists hold."""

    def __init__(self, plan: SearchPlan, strip: Strip, wants: Sequence[Want], threads: int) -> None:
        (other,) = strip.candidates
        own = strip.first, strip.last
        self._plan, self._wants = plan, wants
        self._rows = sides(plan, wants[0].relation)[0].rows
        self._product: TileProduct = fastest()
        self._ranges = [_Range(plan, *span) for span in dict.fromkeys((own, other))]
        self._dots = np.zeros(self._rows.shape[0])  # pages of rows that are never loaded stay untouched
        used = _rows_that_fit(plan, wants)
        loaded = sum(held.stop - held.start for held in self._ranges)
        spare = int((used - loaded) / max(1, used) * plan.memory)
        self._threads = max(1, min(threads, 1 + spare // _thread_bytes()))
        self._errors = Errors(0.0)
        self._local = threading.local()
        self._stopped = False

    def run(self) -> Iterator[Partial]:
        with ThreadPoolExecutor(self._threads) as pool:
            largest_loss = max(self._load(pool, held) for held in self._ranges)
            self._errors = self._product.errors(self._plan.dim, largest_loss)
            self._spread(pool, self._meet, self._pairs())
            lists = [(held, found) for held in self._ranges for found in (held.blocks[0].lists if held.blocks else [])]
            for held in self._ranges:
                held.blocks.clear()  # their rows are not needed any more
            self._local = threading.local()
            bits = _Bits(self._plan, self._rows, self._ranges)
            for held, found in lists:
                yield self._finished(pool, held, found, bits)

    def _spread(self, pool: ThreadPoolExecutor, work: Any, items: Iterable[Any]) -> list[Any]:
        """Run `work` on every item with all threads; the first error, or an interrupt, ends it soon."""
        try:
            return list(pool.map(lambda item: None if self._stopped else work(item), items))
        except BaseException:
            self._stopped = True
            raise

    # ------------------------------------------------------------------------------------------------------- tiles

    def _load(self, pool: ThreadPoolExecutor, held: _Range) -> float:
        """Blocks of low-precision unit rows, with empty lists; gives the largest loss of a row."""
        lists = [self._empty_lists(want, held) for want in self._wants]

        def load(span: tuple[int, int]) -> tuple[Block, float]:
            low, high = self._plan.offsets[list(span)].tolist() if self._plan.product == "text" else span
            image = held.image[low - held.start : high - held.start]
            rows = np.ascontiguousarray(self._rows.slice(low, high))
            dots = self._dots[low:high]
            self_dots(rows.view(np.uint16), dots)
            exact.check_rows(dots, np.arange(low, high))
            image[dots == 0] = -1
            scale = np.divide(1.0, np.sqrt(dots), out=np.zeros(len(dots)), where=dots > 0).astype(np.float32)
            unit, loss = self._product.lowered(rows, scale)
            return Block(*span, low, unit, image, lists), loss

        spans = cut(tiles.row_weights(self._plan), held.first, held.last, _BLOCK)
        found = self._spread(pool, load, spans)
        held.blocks += [block for block, _ in found]
        return max((loss for _, loss in found), default=0.0)

    def _empty_lists(self, want: Want, held: _Range) -> Lists:
        query, candidate = sides(self._plan, want.relation)
        first, last = (held.first, held.last) if query.grouped else (held.start, held.stop)
        return Lists(want, first, last - first, query.grouped, candidate.grouped)

    def _pairs(self) -> Iterator[tuple[Block, Block]]:
        """Every tile once, those that give first floors to the most lists first, and neighbours far apart in time."""
        own, other = self._ranges[0].blocks, self._ranges[-1].blocks
        if len(self._ranges) == 1:
            return ((own[i], own[i + apart]) for apart in range(len(own)) for i in range(len(own) - apart))
        return ((own[i], other[(i + apart) % len(other)]) for apart in range(len(other)) for i in range(len(own)))

    def _meet(self, pair: tuple[Block, Block]) -> None:
        """One tile: its product, and what of it the lists of both blocks take."""
        left, right = pair
        if not len(left.image) or not len(right.image):
            return
        bits = self._product.tile(left.unit, right.unit, self._buffers().tile)
        offsets, mutual = self._plan.offsets, left is not right
        views = [(left, bits, right, 0), (right, bits.T, left, 1)][: 1 + mutual]
        for block, seen, other, _ in views:
            with block.lock:
                if not block.seeded:  # once: a second time would bring lists back that have failed
                    seed(block, seen, other, offsets, self._errors)
        met = [nothing_met(block, other) for block, _, other, _ in views]
        hits, keys = self._buffers().hits, self._buffers().keys
        row = 0
        while row < len(bits):
            floors = _narrowed(left.floors(), bits), _narrowed(right.floors(), bits)
            if not mutual:
                floors[1][:] = np.iinfo(bits.dtype).max
            count, row = kernels.scan(bits, row, *floors, left.image, right.image, hits, keys)
            for (block, seen, other, side), known in zip(views, met, strict=True):
                with block.lock:
                    offer(block, seen, other, side, (hits, keys, count), known, offsets, self._errors)

    def _buffers(self) -> Any:
        """This thread's tile and hits."""
        if not hasattr(self._local, "tile"):
            self._local.tile = self._product.buffer(_BLOCK)
            self._local.hits = np.empty((_HITS, 2), np.int32)
            self._local.keys = np.empty(_HITS, np.int32)
        return self._local

    # ------------------------------------------------------------------------------------------------ exact scores

    def _finished(self, pool: ThreadPoolExecutor, held: _Range, lists: Lists, bits: _Bits) -> Partial:
        keys = np.full((len(lists), lists.want.k + 1), PAD_KEY)
        facts = SearchFacts(bound=self._errors.largest)
        spans = [(low, min(low + _SCORED, len(lists))) for low in range(0, len(lists), _SCORED)]

        def score(span: tuple[int, int]) -> tuple[Int64, SearchFacts]:
            rescorer = Rescorer(
                self._plan, lists.want, self._dots, self._dots, self._errors, _PAIRS, bits.pair_dots, SearchFacts()
            )
            found = lists.candidates(*span, self._errors)
            keys[slice(*span)], proven = rescorer.certified(found)
            return found.queries[~proven | lists.failed(*span)], rescorer.facts

        again = []
        for unproven, known in self._spread(pool, score, spans):
            again.append(unproven)
            facts.add(known)
        queries = np.sort(np.concatenate(again)) if again else np.empty(0, np.int64)
        facts.fell_back = len(queries)
        other = self._ranges[-1] if held is self._ranges[0] else self._ranges[0]
        strip = Strip(held.first, held.last, ((other.first, other.last),))
        keys[queries - lists.first] = exact_lists(self._plan, strip, lists.want, queries)
        return Partial(lists.want, lists.first, keys, facts.to_json())


class _Bits:
    """The float16 rows of the ranges, in memory once."""

    def __init__(self, plan: SearchPlan, rows: Any, ranges: Sequence[_Range]) -> None:
        self._starts = [held.start for held in ranges]
        self._base = np.cumsum([0, *(held.stop - held.start for held in ranges)])
        self._bits = np.empty((int(self._base[-1]), plan.dim), np.uint16)
        for held, base in zip(ranges, self._base, strict=False):
            for low in range(held.start, held.stop, _CONVERTED):
                high = min(low + _CONVERTED, held.stop)
                self._bits[base + low - held.start : base + high - held.start] = rows.slice(low, high).view(np.uint16)
        self._second = self._starts[-1] if len(ranges) > 1 else None

    def _places(self, rows: Int64) -> Int64:
        if self._second is None:
            return rows - self._starts[0]
        low, high = (0, 1) if self._starts[0] < self._starts[1] else (1, 0)
        later = rows >= self._starts[high]
        base = np.where(later, self._base[high] - self._starts[high], self._base[low] - self._starts[low])
        places: Int64 = rows + base
        return places

    def pair_dots(self, _left: Any, left_rows: Int64, _right: Any, right_rows: Int64) -> Float64:
        """x.y of pairs of rows; see `rescoring.PairDots`."""
        dots = np.empty(len(left_rows))
        pair_dots(self._bits, self._places(left_rows), self._bits, self._places(right_rows), dots)
        return dots


def _narrowed(floors: Int32, bits: NDArray[Any]) -> NDArray[Any]:
    """Floors in the type of a tile: above them is what is above the floors as a key (`fused_kernels._key`)."""
    if bits.dtype == np.int32:
        return floors.copy()
    lowest = np.where(floors < 0, floors.astype(np.int64) - 0xFFFF, floors) >> 16
    narrow: NDArray[Any] = np.maximum(lowest, np.iinfo(np.int16).min).astype(np.int16)
    return narrow
