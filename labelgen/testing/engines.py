"""Conformance suite of search engines, for pytest: subclass it, name the subclass `Test...`, and define `make`.

```python
class TestMine(EngineSuite):
    def make(self):
        return MyEngine(device="cpu")
```

Lists are compared bit for bit - ids, scores and next - with brute force in float64 (`labelgen.testing.oracles`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import BudgetError
from labelgen.similarity.base import ArrayRows, Engine, ListRequest, Partial, Product, SearchPlan, n_queries
from labelgen.similarity.sort_keys import TopK, assemble
from labelgen.testing.oracles import brute_force
from labelgen.types import Float16, Int64, Relation

#: Enough for everything here at once.
MEMORY = 1 << 30

TEXT_RELATIONS = (Relation.T2T, Relation.I2T, Relation.T2I)


def unit_rows(values: NDArray[Any]) -> Float16:
    """float16 rows of about unit length."""
    rows: Float16 = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    return rows


def clustered_rows(count: int, dim: int, seed: int, *, spread: float = 0.6, clusters: int = 12) -> Float16:
    """Rows like those of a teacher: in clusters around random centres, all similarities above those of chance."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((clusters, dim)) + 0.5
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return unit_rows(
        centres[draw.integers(0, clusters, count)] + spread * draw.standard_normal((count, dim)) / dim**0.5
    )


def requests_of(
    relations: Iterable[Relation], ks: Sequence[int] = (10,), aggregation: Any = "max", scope: Any = "split"
) -> tuple[ListRequest, ...]:
    """A request for every relation and k."""
    return tuple(ListRequest(relation, k, aggregation, scope) for relation in relations for k in ks)


wants_of = requests_of  # its first name


def plan_of(
    product: Product,
    sizes: Sequence[int] | Int64,
    requests: Sequence[ListRequest],
    *,
    text: Float16 | None = None,
    image: Float16 | None = None,
    splits: Sequence[tuple[int, int]] = (),
    memory: int = MEMORY,
) -> SearchPlan:
    """A plan over rows in memory; `sizes` are the captions of every image, one split by default."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return SearchPlan(
        product=product,
        text=None if text is None else ArrayRows(text),
        image=None if image is None else ArrayRows(image),
        offsets=offsets,
        splits=tuple(splits) or ((0, len(sizes)),),
        requests=tuple(requests),
        memory=memory,
    )


def search_all(engine: Engine, plan: SearchPlan) -> dict[ListRequest, TopK]:
    """All strips of a plan, merged; strips in reverse order, since their order may not matter."""
    partials: dict[ListRequest, list[Partial]] = {request: [] for request in plan.requests}
    for strip in reversed(engine.schedule(plan)):
        found = list(engine.search(plan, strip))
        for request in plan.requests:
            lists = [partial for partial in found if partial.request == request]
            _check_lists(request, lists)
            partials[request] += lists
    return {request: assemble(partials[request], 0, n_queries(plan, request), request.k) for request in plan.requests}


def assert_equals_brute_force(engine: Engine, plan: SearchPlan) -> None:
    """All lists of a plan, bit for bit."""
    found = search_all(engine, plan)
    for request in plan.requests:
        expected = brute_force(plan, request)
        for name in ("ids", "scores", "next"):
            np.testing.assert_array_equal(
                getattr(found[request], name), getattr(expected, name), err_msg=f"{name} of {request}"
            )


def _check_lists(request: ListRequest, partials: Sequence[Partial]) -> None:
    for partial in partials:
        if partial.keys.dtype != np.uint64 or partial.keys.shape[1:] != (request.k + 1,):
            raise AssertionError(
                f"{request}: keys are {partial.keys.dtype} {partial.keys.shape}, not uint64 [m, k + 1]"
            )
        if not (partial.keys[:, 1:] >= partial.keys[:, :-1]).all():
            raise AssertionError(f"{request}: keys are not sorted")


class EngineSuite:
    """Lists that every engine must find."""

    def make(self) -> Engine:
        """The engine under test."""
        raise NotImplementedError

    def check(self, plan: SearchPlan) -> None:
        """Compare a plan with brute force."""
        assert_equals_brute_force(self.make(), plan)

    def smallest_budget(self, plan: SearchPlan) -> SearchPlan:
        """The plan with the least memory, to a factor of 1.1, that the engine accepts."""
        engine, memory = self.make(), 1 << 10
        while True:
            tight = replace(plan, memory=memory)
            try:
                engine.schedule(tight)
            except BudgetError:
                memory += memory // 10
            else:
                return tight

    def test_four_relations_with_five_captions(self) -> None:
        sizes = [5] * 120
        text, image = clustered_rows(600, 64, seed=1), clustered_rows(120, 48, seed=2)
        self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (1, 10)), text=text))
        self.check(plan_of("image", sizes, requests_of([Relation.I2I], (1, 10)), image=image))

    def test_cross_modal_relations(self) -> None:
        sizes = np.random.default_rng(3).integers(0, 5, 150)
        both = clustered_rows(150 + int(sizes.sum()), 64, seed=3)
        requests = requests_of([Relation.I2T, Relation.T2I], (1, 10)) + requests_of([Relation.T2I], (3,), scope="cross")
        self.check(plan_of("cross", sizes, requests, image=both[:150], text=both[150:], splits=[(0, 100), (100, 150)]))

    def test_mean_over_captions(self) -> None:
        sizes = np.random.default_rng(4).integers(0, 7, 140)
        text = clustered_rows(int(sizes.sum()), 64, seed=4)
        self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (1, 10), "mean"), text=text))

    def test_uneven_groups_images_without_captions_and_a_huge_group(self) -> None:
        sizes = np.random.default_rng(5).integers(0, 4, 200)
        sizes[[0, 120, 199]] = 0, 500, 0
        text = clustered_rows(int(sizes.sum()), 64, seed=5)
        for aggregation in ("max", "mean"):
            self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (10,), aggregation), text=text))

    def test_split_and_cross_scope_in_one_plan(self) -> None:
        sizes = np.random.default_rng(6).integers(1, 4, 300)
        text = clustered_rows(int(sizes.sum()), 64, seed=6)
        requests = requests_of(TEXT_RELATIONS, (8,)) + requests_of(TEXT_RELATIONS, (3,), scope="cross")
        splits = [(0, 180), (180, 180), (180, 240), (240, 300)]
        self.check(plan_of("text", sizes, requests, text=text, splits=splits))
        self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (3,), scope="cross"), text=text))

    def test_hundreds_of_exact_duplicates(self) -> None:
        draw = np.random.default_rng(7)
        text = clustered_rows(600, 64, seed=7)
        text[draw.permutation(600)[:300]] = text[0]
        text[draw.permutation(600)[:60]] = text[1]
        self.check(plan_of("text", [3] * 200, requests_of(TEXT_RELATIONS, (1, 10)), text=text))
        self.check(plan_of("image", [0] * 600, requests_of([Relation.I2I], (1, 10, 64)), image=text))
        self.check(plan_of("text", [3] * 200, requests_of(TEXT_RELATIONS, (10,), "mean"), text=text))

    def test_all_rows_equal(self) -> None:
        text = np.repeat(clustered_rows(1, 64, seed=8), 400, axis=0)
        self.check(plan_of("text", [2] * 200, requests_of(TEXT_RELATIONS, (10,)), text=text))

    def test_zero_rows_are_never_candidates_and_have_no_list(self) -> None:
        draw = np.random.default_rng(9)
        sizes = draw.integers(0, 5, 200)
        text, image = clustered_rows(int(sizes.sum()), 64, seed=9), clustered_rows(200, 32, seed=10)
        text[draw.permutation(len(text))[:60]] = 0
        first = int(sizes[:50].sum())
        text[first : first + int(sizes[50:60].sum())] = 0  # ten images without a living caption
        image[::7] = 0
        for aggregation in ("max", "mean"):
            self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (10,), aggregation), text=text))
        self.check(plan_of("image", sizes, requests_of([Relation.I2I], (10,)), image=image))
        self.check(plan_of("image", [0] * 20, requests_of([Relation.I2I], (2,)), image=np.zeros((20, 8), np.float16)))

    def test_negative_similarities(self) -> None:
        axis = clustered_rows(1, 64, seed=11).astype(np.float64)
        rows = unit_rows(axis + 0.4 * np.random.default_rng(11).standard_normal((300, 64)) / 8)
        rows[::2] *= -1
        self.check(plan_of("text", [1] * 300, requests_of(TEXT_RELATIONS, (10, 200)), text=rows))

    def test_more_neighbours_than_candidates(self) -> None:
        for count in (1, 2, 3, 40):
            text = clustered_rows(2 * count, 16, seed=count)
            requests = requests_of(TEXT_RELATIONS, (1, 10, 64)) + requests_of(TEXT_RELATIONS, (2,), scope="cross")
            self.check(plan_of("text", [2] * count, requests, text=text))
            self.check(plan_of("image", [0] * count, requests_of([Relation.I2I], (64,)), image=text[:count]))

    def test_no_captions_at_all(self) -> None:
        self.check(plan_of("text", [0, 0, 0], requests_of(TEXT_RELATIONS), text=np.empty((0, 16), np.float16)))

    def test_sixty_four_neighbours_among_many(self) -> None:
        sizes = np.random.default_rng(12).integers(1, 4, 560)
        text = clustered_rows(int(sizes.sum()), 96, seed=12)
        self.check(plan_of("text", sizes, requests_of(TEXT_RELATIONS, (64,)), text=text))

    def test_dimensions(self) -> None:
        for dim, count in ((3, 400), (384, 400), (2048, 300), (37_632, 60)):
            image = clustered_rows(count, dim, seed=dim)
            self.check(plan_of("image", [0] * count, requests_of([Relation.I2I], (1, 5)), image=image))

    def test_many_captions_of_long_rows(self) -> None:
        text = clustered_rows(300, 2500, seed=13)
        self.check(plan_of("text", [3] * 100, requests_of(TEXT_RELATIONS, (5,)), text=text))

    def test_subnormal_entries_and_rows_that_are_not_quite_unit(self) -> None:
        draw = np.random.default_rng(14)
        values = clustered_rows(400, 96, seed=14).astype(np.float64)
        values *= 1 + 1e-3 * draw.standard_normal((400, 1))
        small = draw.integers(-1023, 1024, values.shape) * 2.0**-24
        rows = np.where(draw.random(values.shape) < 0.5, small, values).astype(np.float16)
        rows[:5] = small[:5]  # nothing but subnormal numbers
        self.check(plan_of("text", [2] * 200, requests_of(TEXT_RELATIONS, (10,)), text=rows))

    def test_one_hot_rows_tie_in_the_hundreds(self) -> None:
        rows = np.eye(8, dtype=np.float16)[np.random.default_rng(15).integers(0, 8, 500)]
        rows[:50] *= -1
        self.check(plan_of("text", [2] * 250, requests_of(TEXT_RELATIONS, (10,)), text=rows))

    def test_the_smallest_budgets_give_the_same_lists(self) -> None:
        sizes = np.random.default_rng(16).integers(0, 6, 80)
        text = clustered_rows(int(sizes.sum()), 64, seed=16)
        requests = requests_of(TEXT_RELATIONS, (4,)) + requests_of(TEXT_RELATIONS, (1,), scope="cross")
        plan = plan_of("text", sizes, requests, text=text, splits=[(0, 55), (55, 80)])
        least = self.smallest_budget(plan)
        for factor in (1, 4, 16):
            self.check(replace(least, memory=factor * least.memory))

    def test_wide_rows_in_a_small_budget(self) -> None:
        image = clustered_rows(40, 37_632, seed=17)
        plan = self.smallest_budget(plan_of("image", [0] * 40, requests_of([Relation.I2I], (3,)), image=image))
        self.check(replace(plan, memory=4 * plan.memory))

    def test_a_budget_too_small_for_one_image_is_refused(self) -> None:
        plan = plan_of(
            "text", [5] * 40, requests_of([Relation.T2T]), text=clustered_rows(200, 64, seed=18), memory=1000
        )
        try:
            self.make().schedule(plan)
        except BudgetError as error:
            if not (error.found and error.expected and error.todo):
                raise AssertionError("the error must say what was found, what is needed and what to do") from error
        else:
            raise AssertionError("a budget of 1,000 bytes was accepted")
