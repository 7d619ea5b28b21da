"""One pass of the tiled engine: all tiles between two ranges of images, then exact scores.

A mutual strip has lists of both ranges in memory. Where the budget is small that means many strips, and every row gets
lists in each of them, which costs more than the product. A one-sided strip has lists of its queries alone: twice the
product, and every row has lists once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from labelgen.similarity.base import Partial, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.tiled.bits import NOTHING
from labelgen.similarity.tiled.lists import Block, Lists
from labelgen.similarity.tiled.matrix import Part, SearchMatrix
from labelgen.similarity.tiled.product import Multiplier
from labelgen.similarity.tiled.scores import Scoring
from labelgen.types import UInt64

#: Fraction of lists that may fail before the pass is repeated in the next precision, which takes about four times as
#: long. A failed list is searched against all rows in float64, which costs more from here on (equal queries share one).
_FAILED = 0.05
#: Blocks of candidates that a one-sided pass holds at once.
STREAMED_BLOCKS = 4


class Pass:
    """All tiles of a matrix for the ranges of a strip; each is computed once and serves both sides."""

    def __init__(self, plan: SearchPlan, strip: Strip, matrix: SearchMatrix, product: Multiplier, threads: int) -> None:
        self._plan, self._matrix, self._product, self._threads = plan, matrix, product, threads
        self._parts, self._meetings = self._of(strip)
        self._errors = Errors(0.0)
        self._local = threading.local()
        self._scratch = threading.local()
        self._stopped = False

    def _of(self, strip: Strip) -> tuple[list[Part], list[tuple[Part, Part]]]:
        """The parts that are held in memory, and the pairs of parts whose tiles are computed."""
        matrix = self._matrix
        left_dots = np.zeros(matrix.left.rows.shape[0])  # zeroed memory is mapped lazily: rows not loaded use none
        same = matrix.left.rows is matrix.right.rows
        right_dots = left_dots if same else np.zeros(matrix.right.rows.shape[0])
        ranges = list(dict.fromkeys([(strip.first, strip.last), *strip.candidates]))
        left = [Part(matrix.left, *span, left_dots) for span in ranges]
        right = left if matrix.symmetric else [Part(matrix.right, *span, right_dots) for span in ranges]
        meetings = [(left[0], right[-1])]
        if len(ranges) > 1 and not matrix.symmetric:
            meetings.append((left[-1], right[0]))
        return left if matrix.symmetric else left + right, meetings

    def run(self) -> Iterator[Partial]:
        """Yield the partial lists of all rows of the ranges.

        Raises:
            LabelgenError: a computed similarity is further from the exact one than the bound.
            StoreError: rows that are not finite or far from unit length.
        """
        with ThreadPoolExecutor(self._threads) as pool:

            def spread(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
                return self._spread(pool, work, items)

            self._meet_all(spread)
            finer = self._product.finer()
            if finer is not None and self._failed() > _FAILED:
                self._product = finer
                self._meet_all(spread)
            for part in self._parts:
                part.blocks.clear()  # rows in low precision are no longer needed
                part.load_bits()
            self._local = threading.local()
            for queries, candidates in self._directed():
                if queries.lists is not None:
                    scoring = Scoring(self._plan, self._matrix, queries, candidates, self._errors)
                    yield from scoring.partials(queries.lists, spread, self._own_scratch)
                    queries.lists = None

    def _spread(self, pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Run `work` on every item with all threads; after the first error or an interrupt, skip what has not begun."""
        try:
            return list(pool.map(lambda item: None if self._stopped else work(item), items))
        except BaseException:
            self._stopped = True
            raise

    # ------------------------------------------------------------------------------------------------------- tiles

    def _directed(self) -> list[tuple[Part, Part]]:
        """Pairs (queries, candidates) of all lists."""
        both = [pair for left, right in self._meetings for pair in ((left, right), (right, left))]
        return list(dict.fromkeys(both))

    def _meet_all(self, spread: Any) -> None:
        for queries, candidates in self._directed():
            queries.lists = self._empty_lists(queries, candidates)
        loss = 0.0
        for part in self._parts:
            part.blocks.clear()  # made in the previous precision
        self._local = threading.local()
        for part in self._parts:
            found = spread(lambda span, part=part: part.block(*span, self._product), part.spans(self._product.block))
            part.blocks = [block for block, _ in found]
            loss = max([loss, *(lost for _, lost in found)])
        members = int(np.diff(self._plan.offsets).max(initial=0)) if self._matrix.means else 0
        self._errors = self._product.errors(self._plan.dim, loss, members)
        for left, right in self._meetings:
            spread(self._meet, _pairs(left, right))

    def _empty_lists(self, queries: Part, candidates: Part) -> Lists | None:
        if not self._matrix.requests_of(queries.side):
            return None
        ranks = self._matrix.ranks(queries.side)
        return Lists(ranks, queries.spare(candidates), len(queries), candidates.group)

    def _lists(self) -> list[Lists]:
        return [part.lists for part in self._parts if part.lists is not None]

    def _failed(self) -> float:
        """Fraction of the lists that failed."""
        lists = self._lists()
        return sum(int((held.counts < 0).sum()) for held in lists) / max(1, sum(len(held) for held in lists))

    def _meet(self, pair: tuple[Block, Block]) -> None:
        """Compute one tile and offer it to the lists of both blocks."""
        left, right = pair
        if not hasattr(self._local, "buffers"):
            self._local.buffers = self._product.buffers()
        tile, scratch = self._product.tile(left.unit, right.unit, self._local.buffers), self._own_scratch()
        if not (left.seeded and right.seeded):
            left.seed(*tile.sample(0, left.image, right.image, right.group), self._errors)
            right.seed(*tile.sample(1, right.image, left.image, left.group), self._errors)
        row = 0
        while row < len(left.image):
            theirs = np.full(len(right.image), NOTHING) if left is right else right.floors()
            hits, row = tile.scan(row, left.floors(), theirs, left.image, right.image)
            left.offer(right, 0, hits, self._errors, scratch)
            if left is not right:
                right.offer(left, 1, hits, self._errors, scratch)

    def _own_scratch(self) -> UInt64:
        """Scratch of this thread, as long as the longest list."""
        if not hasattr(self._scratch, "held"):
            self._scratch.held = np.empty(max(held.ranks.places for held in self._lists()), np.uint64)
        held: UInt64 = self._scratch.held
        return held


class OneSidedPass(Pass):
    """All tiles between queries and one range of candidates, which are read a few blocks at a time and not kept.

    The matrix is symmetric. The queries are among the candidates, or none of them is.
    """

    def _of(self, strip: Strip) -> tuple[list[Part], list[tuple[Part, Part]]]:
        side = self._matrix.left
        dots = np.zeros(side.rows.shape[0])
        (span,) = strip.candidates
        queries = Part(side, strip.first, strip.last, dots)
        return [queries], [(queries, Part(side, *span, dots, streamed=True))]

    def _directed(self) -> list[tuple[Part, Part]]:
        return self._meetings

    def _meet_all(self, spread: Any) -> None:
        ((queries, candidates),) = self._meetings
        queries.lists = self._empty_lists(queries, candidates)
        self._local = threading.local()
        product: Any = self._product
        spans = candidates.spans(product.block)

        def load(part: Part, span: tuple[int, int]) -> tuple[Block, float]:
            return part.block(span[0], span[1], product)

        # The largest loss of all rows must be known before the first comparison.
        losses = spread(lambda span: load(candidates, span)[1], spans)
        found = spread(lambda span: load(queries, span), queries.spans(product.block))
        queries.blocks = [block for block, _ in found]
        self._errors = product.errors(self._plan.dim, max([0.0, *losses, *(loss for _, loss in found)]), 0)
        for at in range(0, len(spans), STREAMED_BLOCKS):
            here = spread(lambda span: load(candidates, span)[0], spans[at : at + STREAMED_BLOCKS])
            spread(self._meet, [(own, other) for other in here for own in queries.blocks])


def _pairs(left: Part, right: Part) -> Iterator[tuple[Block, Block]]:
    """Yield each tile once: first those that seed most lists; tiles that share a block are far apart in time."""
    own, other = left.blocks, right.blocks
    if left is right:
        yield from ((own[i], own[i + apart]) for apart in range(len(own)) for i in range(len(own) - apart))
    else:
        yield from ((own[i], other[(i + apart) % len(other)]) for apart in range(len(other)) for i in range(len(own)))
