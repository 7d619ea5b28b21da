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

from labelgen.similarity.base import ListRequest, Partial, Rows, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.fallback import Spread, search_again
from labelgen.similarity.rescoring import Rescorer, SearchFacts, first_keys
from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.similarity.tiled.bits import compiled, pair_dots
from labelgen.similarity.tiled.lists import Lists
from labelgen.similarity.tiled.matrix import Part, SearchMatrix
from labelgen.types import Bool, Float64, Int32, Int64, UInt64

_SCORE, _UNIT = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)
_PAD = PAD_KEY

#: Lists scored at once; pairs of rows scored at once.
_SCORED, _PAIRS = 1024, 1 << 17


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
        by_row, by_image = (np.full((len(lists), rank), PAD_KEY) for rank in (ranks.rows, ranks.images))

        def score(low: int) -> tuple[Bool, Bool, SearchFacts, SearchFacts]:
            return self._scored(lists, low, by_row, by_image, scratch())

        found = spread(score, range(0, len(lists), _SCORED))
        facts, image_facts = SearchFacts(bound=self._errors.largest), SearchFacts(bound=self._errors.largest)
        for _, _, known, of_images in found:
            facts.add(known)
            image_facts.add(of_images)
        again = np.concatenate([part[0] for part in found]) if found else np.empty(0, bool)
        by_image_again = np.concatenate([part[1] for part in found]) if found else np.empty(0, bool)
        if ranks.rows:
            facts.fell_back = self._search_again(self._row_request, lists, again, by_row, spread)
        if ranks.images:
            image_facts.fell_back = self._search_again(self._image_request, lists, by_image_again, by_image, spread)
        for request in self._matrix.requests_of(self._queries.side):
            if self._matrix.follows_by_image(request):
                yield Partial(request, lists.first, by_image[:, : request.k + 1], image_facts.to_json())
            elif self._matrix.follows_by_caption(request):
                yield Partial(request, self._queries.first, self._of_images(by_row, request.k + 1), facts.to_json())
            else:
                yield Partial(request, lists.first, by_row[:, : request.k + 1], facts.to_json())
            facts, image_facts = replace(facts, rescored=0), replace(image_facts, rescored=0)

    def _scored(
        self, lists: Lists, low: int, by_row: UInt64, by_image: UInt64, scratch: UInt64
    ) -> tuple[Bool, Bool, SearchFacts, SearchFacts]:
        """Score some lists; return masks of those not proven by row and by image, and the facts of both."""
        high = min(low + _SCORED, len(lists))
        dots = self._queries.dots, self._candidates.dots
        rescorer = Rescorer(self._plan, self._row_request, *dots, self._errors, _PAIRS, self._pair_dots, SearchFacts())
        found = lists.candidates(low, high, self._errors, scratch, means=self._matrix.means)
        table = rescorer.scored(found)
        failed = lists.failed(low, high)
        again, by_image_again = failed, failed
        image_facts = replace(rescorer.facts, rescored=0 if lists.ranks.rows else rescorer.facts.rescored)
        if lists.ranks.rows:
            by_row[low:high] = first_keys(table, lists.ranks.rows)
            again = failed | ~rescorer.proven(by_row[low:high], lists.dropped(low, high, rows=True))
        if lists.ranks.images:
            group, first = self._candidates.group, self._candidates.first
            by_image[low:high] = best_images(table, lists.ranks.images, self._candidates.start, group, first)
            checker = replace(rescorer, facts=image_facts)
            by_image_again = failed | ~checker.proven(by_image[low:high], lists.dropped(low, high, rows=False))
        return again, by_image_again, rescorer.facts, image_facts

    def _search_again(self, request: ListRequest, lists: Lists, again: Bool, keys: UInt64, spread: Spread) -> int:
        """Search the lists that are not proven in float64; return their number."""
        places = np.flatnonzero(again)
        keys[places] = search_again(self._plan, self._strip, request, places + lists.first, spread)
        return len(places)

    def _of_images(self, by_row: UInt64, rank: int) -> UInt64:
        """Merge the lists of captions into lists of their images."""
        bounds = self._plan.offsets[self._queries.first : self._queries.last + 1] - self._queries.start
        return best_of_captions(by_row, rank, bounds, self._candidates.start, len(self._candidates))

    def _pair_dots(self, _left: Rows, left_rows: Int64, _right: Rows, right_rows: Int64) -> Float64:
        """x.y of pairs of rows; see `rescoring.PairDots`."""
        dots = np.empty(len(left_rows))
        pair_dots(*self._queries.bits(left_rows), *self._candidates.bits(right_rows), dots)
        return dots


def best_images(keys: UInt64, rank: int, start: int, group: Int32, first: int) -> UInt64:
    """Return the best `rank` images of sorted lists of captions [n, c], scored by their best caption; [n, rank].

    Args:
        start, group: first candidate, and the image of each candidate, counted from the image `first`.
    """
    found = np.full((len(keys), rank), PAD_KEY)
    seen = np.full(int(group[-1]) + 1 if len(group) else 0, -1, np.int32)
    _best_images(keys, start, group, first, seen, found)
    return found


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
def _best_images(keys: Any, start: Any, group: Any, first: Any, seen: Any, found: Any) -> None:
    for row in range(len(keys)):
        place = 0
        for key in keys[row]:
            if place == found.shape[1] or key == _PAD:
                break
            own = group[np.int64(key & _UNIT) - start]
            if seen[own] != row:
                seen[own] = row
                found[row, place] = (key & _SCORE) | np.uint64(first + own)
                place += 1


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
                if key == _PAD:
                    break
                candidate = np.int64(key & _UNIT) - start
                if seen[candidate] != merge:
                    seen[candidate] = merge
                    best[place] = key
                    place += 1
