"""Float32 blocks of training batches: within 1e-6 of the definition, exactly 1 for equal rows, dead rows left out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelgen.similarity.exact import block_group_similarity, block_similarity
from labelgen.similarity.single_precision import block_group_similarity32, block_similarity32

Rows = NDArray[np.float16]


def _rows(draw: np.random.Generator, n: int, dim: int, kind: str) -> Rows:
    """Unit rows: of random signs, all positive (rounding adds up), or with one number each."""
    if kind == "single":
        return np.eye(dim, dtype=np.float16)[draw.integers(0, dim, n)]
    wide = draw.standard_normal((n, dim))
    wide = np.abs(wide) if kind == "positive" else wide
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float16)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 7, 64, 384]),
    st.sampled_from(["any", "positive", "single"]),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_close_to_the_definition_and_one_for_equal_rows(seed: int, dim: int, kind: str, m: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = _rows(draw, m, dim, kind), _rows(draw, n, dim, kind)
    y[draw.integers(0, n)] = x[draw.integers(0, m)]
    x[draw.integers(0, m)] = 0
    found, expected = block_similarity32(x, y), block_similarity(x, y)
    living = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(found), living)
    assert np.abs(found[living] - expected[living]).max(initial=0) <= 1e-6
    assert np.abs(found[living]).max(initial=0) <= 1
    equal = (x[:, None] == y[None]).all(axis=2) & living
    assert (found[equal] == 1).all()
    assert found.dtype == np.float32


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 4), min_size=1, max_size=8), st.sampled_from(["max", "mean"]))
def test_sets_follow_the_definition(seed: int, sizes: list[int], aggregation: Any) -> None:
    draw = np.random.default_rng(seed)
    members = _rows(draw, sum(sizes), 48, "any")
    y = np.concatenate([_rows(draw, 3, 48, "any"), members[:2], np.zeros((1, 48), np.float16)])
    members[draw.random(len(members)) < 0.2] = 0
    counted = np.array(sizes)
    found = block_group_similarity32(members, counted, y, aggregation)
    expected = block_group_similarity(members, counted, y, aggregation)
    living = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(found), living)
    assert np.abs(found[living] - expected[living]).max(initial=0) <= 1e-6
    if aggregation == "max":
        np.testing.assert_array_equal((found == 1) & (expected == 1), expected == 1)


def test_an_independent_sum_of_one_pair() -> None:
    """By hand in fractions: 3/5 . 4/5 + 4/5 . 3/5 of float16 rows, divided by their lengths."""
    x, y = np.array([[0.6, 0.8]], np.float16), np.array([[0.8, 0.6]], np.float16)
    a, b = (Fraction(float(value)) for value in x[0])
    expected = float((2 * a * b) / (a * a + b * b))
    assert block_similarity32(x, y)[0, 0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("dim", [4_096, 4_097, 37_632])
def test_very_long_rows(dim: int) -> None:
    draw = np.random.default_rng(dim)
    x = _rows(draw, 6, dim, "positive")
    y = np.concatenate([x[2:4], _rows(draw, 3, dim, "positive")])
    np.testing.assert_allclose(block_similarity32(x, y), block_similarity(x, y), atol=1e-6, rtol=0)
    assert block_similarity32(x, y)[2, 0] == block_similarity32(x, y)[3, 1] == 1


def test_many_equal_rows_are_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from labelgen.similarity import single_precision

    monkeypatch.setattr(single_precision, "_COMPARED", 1_000)
    rows = np.repeat(_rows(np.random.default_rng(0), 2, 16, "any"), 40, axis=0)
    found = block_similarity32(rows, rows)
    assert (found[:40, :40] == 1).all()
    assert (found[:40, 40:] < 1).all()
