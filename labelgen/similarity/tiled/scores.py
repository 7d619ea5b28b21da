"""From unsorted lists to partial lists: exact scores, the proof, and lists that follow from those of captions.

Let s(c, m) be the similarity of two captions, and let an image v have the captions m. Keys are those of `sort_keys`:
smaller is better, ties go by row.

*t2i from t2t.* s(c, v) is the maximum of s(c, m) over the captions m of v. In the sorted list of c, the first caption
of each image is that maximum, and images appear in the order of these captions. Captions are numbered in the order of
their images, so ties are broken the same way. A list that reaches down to the k-th best image is enough.

*i2t from t2t.* s(v, c) is the maximum of s(m, c) over m. If c is among the k best of v through caption m, it is among
the k best of m: k better captions of m would be at least as good for v. So the k best of v are among the k best of its
captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from labelgen.similarity.base import ListRequest, Partial, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.fallback import Spread, search_again
from labelgen.similarity.rescoring import Rescorer, SearchFacts
from labelgen.similarity.sort_keys import PAD_KEY, ROW_MASK
from labelgen.similarity.tiled.bits import compiled, pair_dots
from labelgen.similarity.tiled.equal_rows import listed
from labelgen.similarity.tiled.lists import Lists
from labelgen.similarity.tiled.matrix import Part, SearchMatrix
from labelgen.types import Bool, Float64, Int64, UInt64

#: Lists scored at once; pairs of rows scored at once, and where their candidates are read for it.
_SCORED, _PAIRS, _STREAMED_PAIRS = 1024, 1 << 17, 1 << 14


class Scoring:
    """Exact scoring of the lists of one part against the candidates of another (or the same) part."""

    def __init__(self, plan: SearchPlan, matrix: SearchMatrix, queries: Part, candidates: Part, errors: Errors) -> None:
        self._matrix, self._errors = matrix, errors
        self._plan = plan
        self._queries, self._candidates = queries, candidates
        self._strip = Strip(queries.first, queries.last, ((candidates.first, candidates.last),))
        self._row_request, self._image_request = matrix.row_request(queries.side), matrix.image_request(queries.side)

    def partials(self, lists: Lists, spread: Spread, scratch: Callable[[], UInt64]) -> Iterator[Partial]:
        """Yield a partial list for each request; a pair that serves several is counted in the first."""
        ranks = lists.ranks
        start, count = self._queries.start, self._queries.stop - self._queries.start
        by_row, by_image = (np.full((count, rank), PAD_KEY) for rank in (ranks.rows, ranks.images))
        again = np.zeros((2, count), bool)

        def score(low: int) -> tuple[SearchFacts, SearchFacts]:
            return self._scored(lists, low, by_row, by_image, again, scratch())

        facts, image_facts = SearchFacts(bound=self._errors.largest), SearchFacts(bound=self._errors.largest)
        for known, of_images in spread(score, range(0, len(lists), _SCORED)):
            facts.add(known)
            image_facts.add(of_images)
        if ranks.rows:
            facts.fell_back = self._search_again(self._row_request, again[0], by_row, spread)
        if ranks.images:
            image_facts.fell_back = self._search_again(self._image_request, again[1], by_image, spread)
        for request in self._matrix.requests_of(self._queries.side):
            if self._matrix.follows_by_image(request):
                yield Partial(request, start, by_image[:, : request.k + 1], image_facts.to_json())
            elif self._matrix.follows_by_caption(request):
                yield Partial(request, self._queries.first, self._of_images(by_row, request.k + 1), facts.to_json())
            else:
                yield Partial(request, start, by_row[:, : request.k + 1], facts.to_json())
            facts, image_facts = replace(facts, rescored=0), replace(image_facts, rescored=0)

    def _scored(
        self, lists: Lists, low: int, by_row: UInt64, by_image: UInt64, again: Bool, scratch: UInt64
    ) -> tuple[SearchFacts, SearchFacts]:
        """Score some lists and write those of their rows; `again`: those not proven, by row and by image."""
        high = min(low + _SCORED, len(lists))
        queries, candidates = self._queries, self._candidates
        dots = queries.dots, candidates.dots
        pairs = _STREAMED_PAIRS if candidates.streamed else _PAIRS
        rescorer = Rescorer(self._plan, self._row_request, *dots, self._errors, pairs, self._pair_dots, SearchFacts())
        rows = queries.units[low:high], candidates.units
        found = lists.candidates(low, high, self._errors, scratch, *rows)
        self._list(rescorer.scored(found), low, high, by_row, by_image)
        equal = queries.equal
        copies = equal.copies[equal.bounds[low] : equal.bounds[high]]
        unit = equal.unit[copies] - low
        failed = lists.failed(low, high)[unit]
        image_facts = replace(rescorer.facts, rescored=0 if lists.ranks.rows else rescorer.facts.rescored)
        if lists.ranks.rows:
            dropped = lists.dropped(low, high, rows=True)[unit]
            again[0, copies] = failed | ~rescorer.proven(by_row[copies], dropped)
        if lists.ranks.images:
            dropped = lists.dropped(low, high, rows=False)[unit]
            again[1, copies] = failed | ~replace(rescorer, facts=image_facts).proven(by_image[copies], dropped)
        return rescorer.facts, image_facts

    def _list(self, table: UInt64, low: int, high: int, by_row: UInt64, by_image: UInt64) -> None:
        """Write the lists of the rows of the units [low, high) from the sorted keys of units."""
        queries, candidates = self._queries, self._candidates
        alive = low + np.flatnonzero(queries.image[low:high] >= 0)
        seen = np.full(candidates.last - candidates.first if by_image.shape[1] else 0, -1, np.int32)
        ours = queries.equal.arrays, queries.row_image
        theirs = candidates.equal.arrays, candidates.row_image, candidates.start
        itself = queries is candidates
        listed(table[alive - low], alive, *ours, *theirs, itself, candidates.first, seen, by_row, by_image)

    def _search_again(self, request: ListRequest, again: Bool, keys: UInt64, spread: Spread) -> int:
        """Search the lists that are not proven in float64; return their number."""
        places, start, equal = np.flatnonzero(again), self._queries.start, self._queries.equal
        rows = places + start, equal.firsts[equal.unit[places]] + start
        keys[places] = search_again(self._plan, self._strip, request, *rows, spread)
        return len(places)

    def _of_images(self, by_row: UInt64, rank: int) -> UInt64:
        """Merge the lists of captions into lists of their images."""
        bounds = self._plan.offsets[self._queries.first : self._queries.last + 1] - self._queries.start
        candidates = self._candidates
        return best_of_captions(by_row, rank, bounds, candidates.start, candidates.stop - candidates.start)

    def _pair_dots(self, left: Int64, right: Int64) -> Float64:
        """x.y of pairs of rows; see `rescoring.PairDots`."""
        dots = np.empty(len(left))
        pair_dots(*self._queries.bits(left), *self._candidates.bits(right), dots)
        return dots


def best_of_captions(keys: UInt64, rank: int, bounds: Int64, start: int, count: int) -> UInt64:
    """Return the best `rank` captions of images, from the sorted lists of the images' captions; [images, rank].

    Args:
        keys: [captions, c], c >= rank; rows bounds[v]:bounds[v + 1] belong to image v.
        start, count: first candidate, and the number of candidates.
    """
    found = np.full((len(bounds) - 1, rank), PAD_KEY)
    _best_of_captions(np.ascontiguousarray(keys[:, :rank]), bounds, start, np.full(count, -1, np.int64), found)
    return found


@compiled
def _best_of_captions(keys: Any, bounds: Any, start: Any, seen: Any, found: Any) -> None:
    """Merge the lists of an image one by one, which is linear in its captions."""
    rank, merge = found.shape[1], 0
    held = np.empty(rank, np.uint64)
    for image in range(len(bounds) - 1):
        best = found[image]
        for row in range(bounds[image], bounds[image + 1]):
            held[:] = best
            merge += 1
            mine, theirs, place = 0, 0, 0
            while place < rank:
                # A list has no duplicates and what is consumed is in `best`: mine, theirs <= place < rank.
                if held[mine] <= keys[row, theirs]:
                    key = held[mine]
                    mine += 1
                else:
                    key = keys[row, theirs]
                    theirs += 1
                if key == PAD_KEY:
                    break
                candidate = np.int64(key & ROW_MASK) - start
                if seen[candidate] != merge:
                    seen[candidate] = merge
                    best[place] = key
                    place += 1
