"""Certified lists from approximate candidates: exact scores, canonical order, and the proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from labelgen.errors import LabelgenError
from labelgen.similarity import exact
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.error_bounds import Errors
from labelgen.similarity.groups import cut, rows_of, sides
from labelgen.similarity.sort_keys import by_query, decode, encode, smallest
from labelgen.types import PAD_SCORE, Bool, Float32, Float64, Int64, UInt64

#: (rows of queries, rows of candidates) -> exact x.y of each pair.
PairDots: TypeAlias = Callable[[Int64, Int64], Float64]


@dataclass(frozen=True)
class Candidates:
    """Candidates of an approximate search for some queries.

    Attributes:
        queries: query rows (images or captions), [n].
        owner: position in `queries` of each candidate, ascending, [c].
        ids: candidate rows, [c].
        values: computed similarities, [c].
    """

    queries: Int64
    owner: Int64
    ids: Int64
    values: Float32


@dataclass
class SearchFacts:
    """Evidence of one search, for receipts.

    Attributes:
        rescored: pairs of rows scored exactly.
        fell_back: query rows searched in float64.
        bound: largest possible error of a computed similarity.
        largest_error: largest error seen.
        margin: smallest margin of a proof, None if no candidate was left out.
    """

    rescored: int = 0
    fell_back: int = 0
    bound: float = 0.0
    largest_error: float = 0.0
    margin: float | None = None

    def add(self, other: SearchFacts) -> None:
        """Add the facts of another part of the same search."""
        self.rescored += other.rescored
        self.fell_back += other.fell_back
        self.bound = max(self.bound, other.bound)
        self.largest_error = max(self.largest_error, other.largest_error)
        margins = [margin for margin in (self.margin, other.margin) if margin is not None]
        self.margin = min(margins, default=None)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Rescorer:
    """Exact scoring of the candidates of one request.

    Attributes:
        query_dots, candidate_dots: x.x by embedding row, 0 for dead rows.
        errors: bounds of computed similarities, of `error_bounds.py`, for this request.
        pairs: pairs of rows scored at once, about 100 bytes each.
    """

    plan: SearchPlan
    request: ListRequest
    query_dots: Float64
    candidate_dots: Float64
    errors: Errors
    pairs: int
    pair_dots: PairDots
    facts: SearchFacts = field(default_factory=SearchFacts)

    def __post_init__(self) -> None:
        self.facts.bound = self.errors.largest
        self._query, self._candidate = sides(self.plan, self.request.relation)

    def scored(self, found: Candidates) -> UInt64:
        """Return the sorted keys of all candidates of each query; [n, most], padded.

        Raises:
            LabelgenError: a computed similarity is off by more than the bound, which the proof depends on.
        """
        scores = self._scores(found)
        self._check_errors(scores, found.values)
        return np.sort(_table(found, scores), axis=1)

    def proven(self, keys: UInt64, dropped: Float32) -> Bool:
        """Return the mask of lists (sorted keys [n, k + 1]) that no candidate below the bound `dropped` can change."""
        last = decode(keys[:, -1:])[0][:, 0].astype(np.float64)
        limit = dropped.astype(np.float64)  # a float32 sum could round the bound away
        with np.errstate(invalid="ignore"):  # -inf - -inf: an empty list without dropped candidates
            margin = last - (limit + self.errors.of(limit))
        nothing_dropped = dropped == PAD_SCORE
        proven: Bool = nothing_dropped | (margin > 0)
        held = margin[proven & ~nothing_dropped]
        if held.size:
            known = self.facts.margin
            self.facts.margin = float(held.min() if known is None else min(known, held.min()))
        return proven

    def listed(self, found: Candidates) -> UInt64:
        """Return sorted keys [n, k + 1] of all queries from their candidates, without a proof."""
        return smallest(_table(found, self._scores(found)), self.request.k + 1)

    def _scores(self, found: Candidates) -> Float32:
        """Exact similarity of each candidate."""
        queries = found.queries[found.owner]
        scores = np.empty(len(found.ids), np.float32)
        if not (self._query.grouped or self._candidate.grouped):
            for start in range(0, len(scores), self.pairs):
                here = slice(start, start + self.pairs)
                scores[here] = self._pair_scores(queries[here], found.ids[here])
            return scores
        units = queries if self._query.grouped else found.ids
        starts = self.plan.offsets[units]
        sizes = self.plan.offsets[units + 1] - starts
        for first, last in cut(sizes, 0, len(sizes), self.pairs):
            here = slice(first, last)
            members = rows_of(starts[here], sizes[here])
            others = np.repeat(found.ids[here] if self._query.grouped else queries[here], sizes[here])
            left, right = (members, others) if self._query.grouped else (others, members)
            pairs = self._pair_scores(left, right)
            scores[here] = exact.aggregate_groups(pairs[:, None], sizes[here], self.request.aggregation)[:, 0]
        return scores

    def _pair_scores(self, left: Int64, right: Int64) -> Float32:
        self.facts.rescored += len(left)
        return exact.similarity(self.pair_dots(left, right), self.query_dots[left], self.candidate_dots[right])

    def _check_errors(self, scores: Float32, values: Float32) -> None:
        errors = np.abs(scores.astype(np.float64) - values)
        error = float(errors.max(initial=0.0))
        self.facts.largest_error = max(self.facts.largest_error, error)
        if not (errors <= self.errors.of(values.astype(np.float64))).all():
            raise LabelgenError(
                "products on this device are less precise than float32",
                found=f"a similarity off by {error:.2e}",
                expected=f"at most {self.errors.largest:.2e}, which holds for any order of float32 sums",
                todo="search with the engine 'numpy', or switch reduced precision off",
            )


def _table(found: Candidates, scores: Float32) -> UInt64:
    return by_query(found.owner, encode(scores, found.ids), len(found.queries))
