from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.errors import StoreError
from labelgen.similarity import exact
from labelgen.similarity.exact import (
    aggregate,
    aggregate_groups,
    block_group_similarity,
    block_similarity,
    pair_similarities,
    self_dots,
)
from labelgen.testing.engines import clustered_rows, unit_rows

INF = np.float32(np.inf)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float16)


def test_similarity_is_the_cosine() -> None:
    x = rows([0.6, 0.8], [1, 0])
    y = rows([1, 0], [0, 1], [-1, 0])
    expected = np.array([[0.6, 0.8, -0.6], [1, 0, -1]], np.float32)
    np.testing.assert_allclose(block_similarity(x, y), expected, atol=3e-4)  # 0.6 is not a float16 number
    np.testing.assert_array_equal(block_similarity(x[1:], y), expected[1:])
    np.testing.assert_array_equal(pair_similarities(x[[1, 1]], y[:2]), [1, 0])


def exact_dot(x: np.ndarray, y: np.ndarray) -> Fraction:
    return sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)), Fraction(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 64]), st.sampled_from([1.0, 1e-3, 2.0**-20]))
def test_the_three_sums_are_exact(seed: int, dim: int, small: float) -> None:
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((2, dim)) * np.where(draw.random((2, dim)) < 0.5, small, 1.0)
    x, y = unit_rows(values + 1e-9)
    xx, yy, xy = exact_dot(x, x), exact_dot(y, y), exact_dot(x, y)
    assert self_dots(x[None])[0] == xx
    assert float(xy) == xy  # every one of them is a float64 number
    expected = np.float32(float(xy) / np.sqrt(float(xx) * float(yy)))
    assert pair_similarities(x[None], y[None])[0] == expected
    assert block_similarity(x[None], y[None])[0, 0] == expected


@pytest.mark.parametrize("dim", [3, 384, 2500, 9000])
def test_any_tiling_gives_the_same_bits(dim: int) -> None:
    x, y = clustered_rows(70, dim, seed=1), clustered_rows(50, dim, seed=2)
    whole = block_similarity(x, y)
    np.testing.assert_array_equal(block_similarity(y, x), whole.T)
    np.testing.assert_array_equal(np.vstack([block_similarity(x[i : i + 1], y) for i in range(70)]), whole)
    np.testing.assert_array_equal(block_similarity(x, x), block_similarity(x, x.copy()))
    left, right = np.repeat(np.arange(70), 50), np.tile(np.arange(50), 70)
    np.testing.assert_array_equal(pair_similarities(x[left], y[right]).reshape(70, 50), whole)


def test_slabs_of_many_rows_give_the_same_bits() -> None:
    x, y = clustered_rows(1500, 256, seed=3), clustered_rows(90, 256, seed=4)
    np.testing.assert_array_equal(block_similarity(x, y), np.vstack([block_similarity(part, y) for part in x[:, None]]))


def test_equal_rows_are_exactly_one_and_nothing_exceeds_it() -> None:
    x = clustered_rows(400, 48, seed=5, spread=0.01)
    block = block_similarity(x, x.copy())
    assert (block.diagonal() == 1).all()
    assert block.max() == 1
    np.testing.assert_array_equal(pair_similarities(x, x), np.ones(400, np.float32))


def test_a_dead_row_has_no_similarity() -> None:
    x = rows([1, 0], [0, 0])
    np.testing.assert_array_equal(block_similarity(x, x), [[1, -INF], [-INF, -INF]])
    np.testing.assert_array_equal(block_similarity(x, x.copy()), [[1, -INF], [-INF, -INF]])
    np.testing.assert_array_equal(pair_similarities(x, x), [1, -INF])
    wide = np.zeros((2, 5000), np.float16)
    wide[0, 4999] = 1
    np.testing.assert_array_equal(block_similarity(wide, wide), [[1, -INF], [-INF, -INF]])


def test_groups_by_hand() -> None:
    similarities = np.array([[0.5, -0.5], [0.25, 0.75], [-1, 1], [0, 0], [0.5, 0.25], [0.25, 0.5]], np.float32)
    sizes = np.array([2, 1, 0, 3])
    best = [[0.5, 0.75], [-1, 1], [-INF, -INF], [0.5, 0.5]]
    np.testing.assert_array_equal(aggregate_groups(similarities, sizes, "max"), np.array(best, np.float32))
    mean = [[0.375, 0.125], [-1, 1], [-INF, -INF], [0.25, 0.25]]
    np.testing.assert_array_equal(aggregate_groups(similarities, sizes, "mean"), np.array(mean, np.float32))


def test_mean_is_summed_in_the_order_of_the_captions() -> None:
    tiny = np.float32(2.0**-30)
    sizes = np.array([4])
    # 1 + 2^-30 - 1 is exact in float64; the last number is lost beside 1 but not beside 2^-30.
    column = np.array([[1], [tiny], [-1], [2.0**-60]], np.float32)
    assert aggregate_groups(column, sizes, "mean")[0, 0] == np.float32((2.0**-30 + 2.0**-60) / 4)
    assert aggregate_groups(column[[0, 3, 2, 1]], sizes, "mean")[0, 0] == np.float32(2.0**-30 / 4)


def test_members_that_are_not_there_are_left_out() -> None:
    members = [np.array([0.5, -INF, 1], np.float32), np.array([0.25, -INF, -INF], np.float32)]
    np.testing.assert_array_equal(aggregate(members, "max"), np.array([0.5, -INF, 1], np.float32))
    np.testing.assert_array_equal(aggregate(members, "mean"), np.array([0.375, -INF, 1], np.float32))
    assert aggregate(members, "max") is not members[0]


@pytest.mark.parametrize("aggregation", ["max", "mean"])
@pytest.mark.parametrize("sizes", [[5] * 90, [3, 0, 7, 1, 1, 0, 400, 2]])
def test_group_blocks_equal_their_members(aggregation: str, sizes: list[int]) -> None:
    counts = np.array(sizes)
    members, y = clustered_rows(int(counts.sum()), 300, seed=6), clustered_rows(40, 300, seed=7)
    members[[3, 8]] = 0
    members[-2:] = 0
    y[5] = 0
    found = block_group_similarity(members, counts, y, aggregation)
    expected = []
    for start, size in zip(np.cumsum(counts) - counts, counts, strict=True):
        alive = [row for row in block_similarity(members[start : start + size], y) if np.isfinite(row).any()]
        if not alive:
            expected.append(np.full(40, -INF))
        elif aggregation == "max":
            expected.append(np.max(alive, axis=0))
        else:
            with np.errstate(invalid="ignore"):
                expected.append((sum(row.astype(np.float64) for row in alive) / len(alive)).astype(np.float32))
    np.testing.assert_array_equal(found, np.array(expected))


def test_results_are_not_overwritten_by_the_next_call() -> None:
    x, y = clustered_rows(30, 16, seed=8), clustered_rows(30, 16, seed=9)
    first = block_similarity(x, y)
    kept = first.copy()
    grouped = block_group_similarity(x, np.array([1] * 30), y, "max")
    kept_grouped = grouped.copy()
    block_similarity(y, y)
    block_group_similarity(y, np.array([1] * 30), x, "max")
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(grouped, kept_grouped)


def test_rows_that_are_not_unit_are_refused() -> None:
    values = rows([1, 0], [200, 0], [np.nan, 0])
    with pytest.raises(StoreError, match="rows 8, 9"):
        exact.check_rows(self_dots(values), np.array([7, 8, 9]))
    exact.check_rows(self_dots(values[:1]), np.array([7]))
