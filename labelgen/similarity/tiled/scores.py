"""From the growing lists of the fused engine to partial lists: exact scores, the proof, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from labelgen.similarity.base import ListRequest, Partial, Rows, SearchPlan, Strip
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.fallback import Spread, search_again
from labelgen.similarity.rescoring import Rescorer, SearchFacts, first_keys
from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.similarity.tiled.derived import best_images, best_of_captions
from labelgen.similarity.tiled.lists import Lists
from labelgen.similarity.tiled.matrix import Matrix
from labelgen.similarity.tiled.pairs import pair_dots
from labelgen.similarity.tiled.rows import Part
from labelgen.types import Bool, Float64, Int64, UInt64

#: Lists scored at once; pairs of rows scored at once.
_SCORED, _PAIRS = 1024, 1 << 17


class Scoring:
    """Scores the lists of one part, whose candidates are another part (or the same)."""

    def __init__(self, plan: SearchPlan, matrix: Matrix, queries: Part, candidates: Part, errors: Errors) -> None:
        self._matrix, self._errors = matrix, errors
        self._plan = plan
        self._queries, self._candidates = queries, candidates
        self._strip = Strip(queries.first, queries.last, ((candidates.first, candidates.last),))
        self._row_want, self._image_want = matrix.row_want(queries.side), matrix.image_want(queries.side)

    def partials(self, lists: Lists, spread: Spread, scratch: Callable[[], UInt64]) -> Iterator[Partial]:
        """A partial list for every want; pairs that serve several are counted with the first."""
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
            facts.fell_back = self._search_again(self._row_want, lists, again, by_row, spread)
        if ranks.images:
            image_facts.fell_back = self._search_again(self._image_want, lists, by_image_again, by_image, spread)
        for want in self._matrix.wants_of(self._queries.side):
            if self._matrix.follows_by_image(want):
                yield Partial(want, lists.first, by_image[:, : want.k + 1], image_facts.to_json())
            elif self._matrix.follows_by_caption(want):
                yield Partial(want, self._queries.first, self._of_images(by_row, want.k + 1), facts.to_json())
            else:
                yield Partial(want, lists.first, by_row[:, : want.k + 1], facts.to_json())
            facts, image_facts = replace(facts, rescored=0), replace(image_facts, rescored=0)

    def _scored(
        self, lists: Lists, low: int, by_row: UInt64, by_image: UInt64, scratch: UInt64
    ) -> tuple[Bool, Bool, SearchFacts, SearchFacts]:
        """Fill in the keys of some lists; which are not proven by row and by image, and the facts of both."""
        high = min(low + _SCORED, len(lists))
        dots = self._queries.dots, self._candidates.dots
        rescorer = Rescorer(self._plan, self._row_want, *dots, self._errors, _PAIRS, self._pair_dots, SearchFacts())
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

    def _search_again(self, want: ListRequest, lists: Lists, again: Bool, keys: UInt64, spread: Spread) -> int:
        """Lists that are not proven, in float64; how many they are."""
        places = np.flatnonzero(again)
        keys[places] = search_again(self._plan, self._strip, want, places + lists.first, spread)
        return len(places)

    def _of_images(self, by_row: UInt64, rank: int) -> UInt64:
        """Lists of images from those of their captions."""
        bounds = self._plan.offsets[self._queries.first : self._queries.last + 1] - self._queries.start
        return best_of_captions(by_row, rank, bounds, self._candidates.start, len(self._candidates))

    def _pair_dots(self, _left: Rows, left_rows: Int64, _right: Rows, right_rows: Int64) -> Float64:
        """x.y of pairs of rows; see `rescoring.PairDots`."""
        dots = np.empty(len(left_rows))
        pair_dots(*self._queries.bits(left_rows), *self._candidates.bits(right_rows), dots)
        return dots
