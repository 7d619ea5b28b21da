from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.errors import BudgetError
from labelgen.similarity import tiles
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.groups import cut, rows_of
from labelgen.similarity.tiles import Sizes
from labelgen.testing.engines import plan_of
from labelgen.types import Relation

T2T, CROSS = ListRequest(Relation.T2T, 4), ListRequest(Relation.T2T, 2, scope="cross")


def test_rows_of_ranges() -> None:
    assert rows_of(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist() == [7, 8, 3, 4, 5]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 20), st.data())
def test_cuts_cover_and_keep_the_limit(weights: list[int], limit: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(weights)))
    ranges = cut(np.array(weights), first, len(weights), limit)
    assert [image for low, high in ranges for image in range(low, high)] == list(range(first, len(weights)))
    for low, high in ranges:
        assert sum(weights[low:high]) <= limit or high == low + 1
        assert high == len(weights) or sum(weights[low : high + 1]) > limit  # no range could have been longer


def make_plan(sizes: list[int], splits: list[tuple[int, int]], requests: list[ListRequest]) -> SearchPlan:
    return plan_of("text", sizes, requests, text=np.zeros((sum(sizes), 4), np.float16), splits=splits)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=25),
    st.data(),
    st.sampled_from([[T2T], [CROSS], [T2T, CROSS]]),
    st.floats(20, 4000),
)
def test_every_pair_in_scope_meets_once(
    sizes: list[int], data: st.DataObject, requests: list[ListRequest], work: float
) -> None:
    borders = sorted({0, len(sizes), *data.draw(st.lists(st.integers(0, len(sizes)), max_size=3))})
    splits = list(pairwise(borders))
    plan = make_plan(sizes, splits, requests)
    met = {scope: np.zeros((len(sizes), len(sizes)), int) for scope in ("split", "cross")}
    searched = np.zeros(len(sizes), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "STRIP_WORK", work)
        strips = tiles.strips(plan, Sizes(strip=7, block=5, tile=6))
    for strip in strips:
        searched[strip.first : strip.last] = 1
        for scope, first, last in tiles.candidate_tiles(plan, strip, 6):
            met[scope][strip.first : strip.last, first:last] += 1
            assert sum(max(size, 1) for size in sizes[first:last]) <= 6
    same = np.zeros((len(sizes), len(sizes)), int)
    for low, high in splits:
        same[low:high, low:high] = 1
    scopes = {request.scope for request in requests}
    np.testing.assert_array_equal(met["split"], same if "split" in scopes else 0 * same)
    np.testing.assert_array_equal(met["cross"], 1 - same if "cross" in scopes else 0 * same)
    assert searched.all()


def test_strips_are_of_bounded_work() -> None:
    plan = plan_of("image", [0] * 120_000, [ListRequest(Relation.I2I, 64)], image=np.zeros((120_000, 1), np.float16))
    wide = replace(plan, image=WideRows())
    strips = tiles.strips(wide, tiles.preferred(wide, 512, 2048))
    for strip in strips:
        candidates = sum(high - low for low, high in strip.candidates)
        assert 2 * 37_632 * (strip.last - strip.first) * candidates <= 1.01 * tiles.STRIP_WORK
    assert sum((s.last - s.first) * (high - low) for s in strips for low, high in s.candidates) == 120_000**2


class WideRows:
    shape = (120_000, 37_632)


def test_sizes_shrink_until_they_fit() -> None:
    plan = replace(make_plan([5] * 100, [(0, 100)], [T2T]), memory=1000)
    fitted = tiles.fit(plan, Sizes(400, 100, 200), lambda sizes: sizes.strip + sizes.block * sizes.tile)
    assert fitted.strip + fitted.block * fitted.tile <= 1000
    assert fitted == tiles.fit(replace(plan, memory=10**9), fitted, lambda sizes: 1)


def test_one_image_is_the_smallest_unit() -> None:
    plan = replace(make_plan([5, 40, 5], [(0, 3)], [T2T]), memory=1599)
    with pytest.raises(BudgetError) as refused:
        tiles.fit(plan, Sizes(50, 50, 50), lambda sizes: sizes.block * sizes.tile)
    assert "1,599" in refused.value.found
    assert "1,600" in refused.value.expected
    assert "40 rows" in refused.value.expected
    assert "--memory" in refused.value.todo
    assert tiles.fit(replace(plan, memory=1600), Sizes(50, 50, 50), lambda s: s.block * s.tile) == Sizes(50, 40, 40)
