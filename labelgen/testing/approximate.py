"""Conformance suite of approximate engines, for pytest: subclass it, name the subclass `Test...`, say how one is made.

What is listed must be right: scored exactly, in canonical order, of other images, in scope, nobody dead. What is
missing must be as little as was asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from labelgen.errors import BudgetError
from labelgen.similarity.base import ApproximateEngine, ListRequest, SearchPlan
from labelgen.similarity.sort_keys import TopK
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, search_all, wants_of
from labelgen.testing.oracles import brute_force
from labelgen.types import PAD_ROW, Float64, Relation


def assert_entries_are_right(found: TopK, whole: TopK, want: ListRequest) -> None:
    """Every entry of approximate lists is a candidate of its query with its exact score, once, in canonical order.

    Args:
        whole: brute-force lists that are long enough for all candidates.
    """
    if not (found.scores[:, 1:] <= found.scores[:, :-1]).all():
        raise AssertionError(f"{want}: scores do not descend")
    for row, (ids, scores) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True)):
        exact = dict(zip(whole.ids[row].tolist(), whole.scores[row].tolist(), strict=True))
        listed = [(score, candidate) for candidate, score in zip(ids, scores, strict=True) if candidate != PAD_ROW]
        if any(exact.get(candidate) != score for score, candidate in listed):
            raise AssertionError(f"{want}: row {row} lists what is no candidate, or with another score")
        if listed != sorted(set(listed), key=lambda pair: (-pair[0], pair[1])):
            raise AssertionError(f"{want}: row {row} is not in canonical order, or lists something twice")


def recall_of(found: TopK, whole: TopK, k: int) -> Float64:
    """Recall@k by its definition, query by query; NaN where there is nothing to find."""
    values = []
    for listed, exact in zip(found.scores[:, :k].tolist(), whole.scores[:, :k].tolist(), strict=True):
        there = [score for score in exact if score > -np.inf]
        hits = sum(score >= there[-1] for score in listed) if there else 0
        values.append(min(hits, len(there)) / len(there) if there else np.nan)
    return np.array(values)


class ApproximateEngineSuite:
    """What every approximate engine promises."""

    def make(self, **arguments: Any) -> ApproximateEngine:
        """The engine under test; `recall=` must be an argument of its spec."""
        raise NotImplementedError

    def check(self, plan: SearchPlan, *, least: float = 0.9, **arguments: Any) -> None:
        """Lists of a plan: every entry right, and recall in every list not far below what was asked for."""
        found = search_all(self.make(recall=least, **arguments), plan)
        for want in plan.wants:
            whole = brute_force(plan, replace(want, k=4 * len(plan.offsets) + int(plan.offsets[-1])))
            assert_entries_are_right(found[want], whole, want)
            values = recall_of(found[want], whole, want.k)
            values = values[~np.isnan(values)]
            if len(values) and values.mean() < least - 0.05:
                raise AssertionError(f"{want}: recall {values.mean():.3f}, {least} was asked for")

    def test_four_relations(self) -> None:
        sizes = np.random.default_rng(1).integers(0, 6, 300)
        text, image = clustered_rows(int(sizes.sum()), 64, seed=1), clustered_rows(300, 48, seed=2)
        self.check(plan_of("text", sizes, wants_of(TEXT_RELATIONS), text=text))
        self.check(plan_of("image", sizes, wants_of([Relation.I2I]), image=image))

    def test_cross_modal_relations(self) -> None:
        sizes = np.random.default_rng(3).integers(0, 4, 150)
        both = clustered_rows(150 + int(sizes.sum()), 64, seed=3)
        wants = wants_of([Relation.I2T, Relation.T2I]) + wants_of([Relation.T2I], (3,), scope="cross")
        self.check(plan_of("cross", sizes, wants, image=both[:150], text=both[150:], splits=[(0, 100), (100, 150)]))

    def test_scopes_and_an_empty_split(self) -> None:
        sizes = np.random.default_rng(6).integers(1, 4, 160)
        text = clustered_rows(int(sizes.sum()), 32, seed=6)
        wants = wants_of(TEXT_RELATIONS, (8,)) + wants_of(TEXT_RELATIONS, (3,), scope="cross")
        self.check(plan_of("text", sizes, wants, text=text, splits=[(0, 90), (90, 90), (90, 160)]))
        self.check(plan_of("text", sizes, wants_of(TEXT_RELATIONS, (3,), scope="cross"), text=text))

    def test_mean_over_captions(self) -> None:
        sizes = np.random.default_rng(4).integers(0, 5, 120)
        text = clustered_rows(int(sizes.sum()), 32, seed=4)
        self.check(plan_of("text", sizes, wants_of(TEXT_RELATIONS, (5,), "mean"), text=text), least=0.5)

    def test_duplicates_and_dead_rows(self) -> None:
        draw = np.random.default_rng(7)
        text = clustered_rows(600, 64, seed=7)
        text[draw.permutation(600)[:200]] = text[0]
        text[draw.permutation(600)[:60]] = 0
        self.check(plan_of("text", [3] * 200, wants_of(TEXT_RELATIONS), text=text))
        self.check(plan_of("image", [0] * 20, wants_of([Relation.I2I], (2,)), image=np.zeros((20, 8), np.float16)))

    def test_few_rows_and_short_ones(self) -> None:
        for count, dim in ((0, 16), (1, 3), (2, 16), (3, 5), (40, 10)):
            text = clustered_rows(2 * count, dim, seed=count)
            self.check(plan_of("text", [2] * count, wants_of(TEXT_RELATIONS, (1, 64)), text=text))

    def test_long_rows(self) -> None:
        image = clustered_rows(300, 1500, seed=13)
        self.check(plan_of("image", [0] * 300, wants_of([Relation.I2I], (5,)), image=image))

    def test_a_budget_that_is_too_small_is_refused(self) -> None:
        text = clustered_rows(200, 64, seed=18)
        try:
            self.make().schedule(plan_of("text", [5] * 40, wants_of([Relation.T2T]), text=text, memory=1000))
        except BudgetError as error:
            if not (error.found and error.expected and error.todo):
                raise AssertionError("the error must say what was found, what is needed and what to do") from error
        else:
            raise AssertionError("a budget of 1,000 bytes was accepted")
