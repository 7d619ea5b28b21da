"""Transforms: values by hand, masks, quantile tables, and their text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.errors import ConfigError, SpecError, UnknownNameError
from labelgen.relevance import transforms
from labelgen.relevance.assemble import Pipeline
from labelgen.relevance.transforms import Context

X = np.array([[-1.0, 0.2], [0.5, 1.0]], np.float32)
TABLE = {0.0: -0.1, 0.5: 0.1, 0.9: 0.3, 1.0: 0.9}
ALL = np.ones((2, 2), bool)
CONTEXT = Context(np.eye(2, dtype=bool), ALL, TABLE)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("affine", [[0, 0.6], [0.75, 1]]),
        ("affine(scale=2.0, offset=-1.0)", [[-3, -0.6], [0, 1]]),
        ("relu", [[0, 0.2], [0.5, 1]]),
        ("clip(low=-0.5, high=0.5)", [[-0.5, 0.2], [0.5, 0.5]]),
        ("logistic(scale=1.0, center=0.0)", [[1 / (1 + math.e), 0.549834], [0.622459, 1 / (1 + 1 / math.e)]]),
        ("threshold(at=0.5)", [[0, 0], [0.5, 1]]),
        ("threshold(at=0.5, binary=True)", [[0, 0], [1, 1]]),
        ("threshold(percentile=70)", [[0, 0.2], [0.5, 1]]),  # half way from .1 at 50 to .3 at 90: .2
        ("threshold(percentile=90)", [[0, 0], [0.5, 1]]),
        ("percentile", [[0, 0.7], [0.9 + 0.1 / 3, 1]]),
        ("drop_diagonal", [[0, 0.2], [0.5, 0]]),
        (("relu", "row_normalise"), [[0, 1], [1 / 3, 2 / 3]]),
        (("drop_diagonal", "row_normalise"), [[0, 1], [1, 0]]),
        ("softmax", [[1 / (1 + math.exp(1.2)), 1 / (1 + math.exp(-1.2))], [0.377541, 0.622459]]),
        ("softmax(relevance_temperature=0.001)", [[0, 1], [0, 1]]),
        ((), X),
    ],
)
def test_values(text: str | tuple[str, ...], wanted: object) -> None:
    found = Pipeline.parse(text)(X, CONTEXT)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_rows_of_shares_leave_out_what_does_not_count() -> None:
    context = Context(CONTEXT.positive, np.array([[True, False], [False, False]]), {})
    for text in ("softmax", ("relu", "row_normalise")):
        shares = Pipeline.parse(text)(X + 2, context)
        np.testing.assert_array_equal(shares, [[1, 0], [0, 0]])


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative"):
        Pipeline.parse("row_normalise")(X, CONTEXT)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("softplus", UnknownNameError),
        ("affine(offest=1)", SpecError),
        ("relu(0)", SpecError),
        ("relu() or 1", SpecError),
        ("affine(context=1)", SpecError),
    ],
)
def test_unknown_texts_are_refused_when_they_are_parsed(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Pipeline.parse(text)


@pytest.mark.parametrize("text", ["threshold", "threshold(at=0.1, percentile=5)", "softmax(relevance_temperature=0)"])
def test_impossible_options_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Pipeline.parse(text)(X, CONTEXT)


def test_what_a_pipeline_looks_at() -> None:
    assert Pipeline.parse(("relu", "softmax")).by_row
    assert not Pipeline.parse(("relu", "drop_diagonal")).by_row
    assert Pipeline.parse("percentile").reads_quantiles
    assert Pipeline.parse("threshold(percentile=5)").reads_quantiles
    assert not Pipeline.parse("threshold(at=0.5)").reads_quantiles


def test_means_of_blocks() -> None:
    """(A + T) / 2, and sqrt([A]+ [T]+) as CUSA's modes add and dot have them."""
    other = np.array([[0.5, 0.8], [-0.5, 1.0]], np.float32)
    np.testing.assert_allclose(transforms.mean([X, other]), [[-0.25, 0.5], [0, 1]], atol=1e-7)
    np.testing.assert_allclose(transforms.mean([X, other], [3, 1]), [[-0.625, 0.35], [0.25, 1]], atol=1e-7)
    np.testing.assert_allclose(transforms.geometric_mean([X, other]), [[0, 0.4], [0, 1]], atol=1e-7)
    for wrong in ([], [X, other]):
        with pytest.raises(ConfigError):
            transforms.mean(wrong, [1.0])
    with pytest.raises(ConfigError):
        transforms.mean([X, other], [1.0, -1.0])


@given(level=st.floats(0, 1))
def test_the_two_readings_of_a_table_are_inverse(level: float) -> None:
    value = np.array([transforms.value_at(TABLE, level)], np.float32)
    np.testing.assert_allclose(transforms.level_of(TABLE, value), [level], atol=1e-5)


def test_a_table_has_an_end() -> None:
    with pytest.raises(ConfigError, match="no quantile table"):
        transforms.value_at({}, 0.5)
    with pytest.raises(ConfigError, match="level"):
        transforms.value_at({0.1: 0.0, 0.9: 1.0}, 0.95)
    np.testing.assert_array_equal(transforms.level_of(TABLE, np.float32([-1, 1])), [0, 1])
