"""Rows that cannot be embeddings, constant teachers, and what the store keeps of a row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelgen.errors import TeacherError
from labelgen.teachers.checks import check_not_constant, check_rows, normalise, unit_rows

IDS = ["a", "b", "c"]


def rows() -> np.ndarray:
    return np.array([[3, 4], [1, 0], [0, 2]], dtype=np.float32)


def test_good_rows_pass() -> None:
    check_rows(rows(), dim=2, ids=IDS, what="teacher")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite")],
)
def test_rows_that_are_not_finite_are_named(value: float, problem: str) -> None:
    bad = rows()
    bad[1, 1] = value
    with pytest.raises(TeacherError, match=rf"{problem}(.|\n)*1 of 3 rows: 'b'"):
        check_rows(bad, dim=2, ids=IDS, what="teacher")


def test_zero_rows_are_named() -> None:
    bad = rows()
    bad[[0, 2]] = 0
    with pytest.raises(TeacherError, match=r"zeros(.|\n)*2 of 3 rows: 'a', 'c'"):
        check_rows(bad, dim=2, ids=IDS, what="teacher")


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3,), (3, 2, 1)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(TeacherError, match=r"wrong shape(.|\n)*expected: \[3, 2\]"):
        check_rows(np.ones(shape, np.float32), dim=2, ids=IDS, what="teacher")


def test_wide_rows_are_checked_in_pieces() -> None:
    """8 MiB hold 27 rows of 37,632 numbers: a bad row in the second piece is found."""
    wide = np.ones((40, 37_632), np.float32)
    wide[30] = 0
    with pytest.raises(TeacherError, match="row30"):
        check_rows(wide, dim=37_632, ids=[f"row{n}" for n in range(40)], what="teacher")


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_constant_teachers_are_refused(noise: float) -> None:
    """Noise of 1e-4 on 64 equal numbers: cosines of 1 - 1e-8."""
    sample = 1 + noise * np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    with pytest.raises(TeacherError, match="the same row for everything"):
        check_not_constant(sample, "teacher")


def test_one_odd_row_does_not_hide_a_constant_teacher() -> None:
    sample = np.ones((200, 16), np.float32)
    sample[100, 0] = -5
    with pytest.raises(TeacherError, match="the same row for everything"):
        check_not_constant(sample, "teacher")


def test_anisotropic_teachers_pass() -> None:
    """A common direction that makes the mean cosine .98 is how real, untuned encoders look."""
    spread = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    sample = spread + 7 * np.sqrt(32).astype(np.float32) * np.eye(32, dtype=np.float32)[0]
    unit = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    assert (unit @ unit.T)[np.triu_indices(64, 1)].mean() > 0.97
    check_not_constant(sample, "teacher")


def test_few_rows_are_not_judged() -> None:
    check_not_constant(np.ones((7, 4), np.float32), "teacher")


def test_half_of_the_items_may_be_equal() -> None:
    sample = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    sample[:20] = 1
    check_not_constant(sample, "teacher")


def test_normalise_divides_once_and_rounds_once() -> None:
    assert normalise(rows()).tolist() == [[np.float16(0.6), np.float16(0.8)], [1, 0], [0, 1]]
    assert normalise(rows()).dtype == np.float16


@given(arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_lengths_after_normalising(values: np.ndarray) -> None:
    """Whatever the scale of a row, a unit row comes out; zero rows stay zero."""
    alive = values.any(axis=1)
    unit = unit_rows(values.copy())
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), alive.astype(float), atol=1e-6)
    if alive.all():
        lengths = np.linalg.norm(normalise(values).astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=2**-10)


def test_unit_rows_leaves_bad_rows_for_the_check() -> None:
    bad = unit_rows(np.array([[np.nan, 1], [np.inf, 1], [0, 0], [3, 4]], np.float32))
    assert not np.isfinite(bad[:2]).all(axis=1).any()
    assert bad[2].tolist() == [0, 0]
    np.testing.assert_allclose(bad[3], [0.6, 0.8], rtol=1e-7)
