"""Fusions: arithmetic by hand, properties, their text form, and the scheme that uses them in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.audit.card.fusion import fit_logistic, group_ranks
from labelgen.errors import ConfigError, SpecError, UnknownNameError
from labelgen.relevance.base import BlockRequest, Blocks, Scheme, scheme
from labelgen.relevance.ensemble import Ensemble, fused_block, spread
from labelgen.relevance.fusion import FUSIONS, block_ranks, fusion, parse_request
from labelgen.types import Relation

TWO = "of=['i2t.text', 'i2i.image']"
X, Y = np.array([[0.5, 0.1]]), np.array([[0.2, 0.8]])


def test_mean_by_hand() -> None:
    assert fusion(f"mean({TWO})").combine([X, Y]) == pytest.approx(np.array([[0.35, 0.45]]))
    weighted = fusion(f"mean({TWO}, weights=[3, 1], centre=[.1, .2], scale=[.2, .4])")
    # z: (2, 0) and (0, 1.5)
    assert weighted.combine([X, Y]) == pytest.approx(np.array([[1.5, 0.375]]))


def test_maximum_logistic_and_reciprocal_rank_by_hand() -> None:
    assert fusion(f"maximum({TWO})").combine([X, Y]) == pytest.approx(np.array([[0.5, 0.8]]))
    logistic = fusion(f"logistic({TWO}, weights=[2, 1], bias=-1.2)").combine([X, Y])
    assert logistic == pytest.approx(np.array([[0.5, 1 / (1 + np.exp(0.2))]]))
    ranks = [np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]])]
    assert fusion(f"reciprocal_rank({TWO}, k=1, weights=[1, 2])").combine(ranks) == pytest.approx(
        np.array([[1 / 2 + 2 / 3, 1 / 3 + 2 / 2]])
    )


def test_agreement_masks_what_the_teachers_disagree_on() -> None:
    z = [np.array([1.0, -1.0, 2.0]), np.array([3.0, -3.0, -2.0])]
    assert fusion(f"agreement({TWO})").combine(z).tolist() == [2.0, -2.0, -2.0]


def test_text_image_cross_by_hand() -> None:
    three = "of=['i2t.text', 'i2i.image', 'i2t.clip']"
    fused = fusion(f"text_image_cross({three}, weights=[1, 2, 4], dot=10)")
    values = [np.array([0.4, -0.4]), np.array([0.1, 0.1]), np.array([0.25, 0.25])]
    assert fused.combine(values) == pytest.approx(np.array([0.4 + 0.2 + 1 + 10 * 0.2, -0.4 + 0.2 + 1]))
    with pytest.raises(ConfigError):
        fusion("text_image_cross(of=['i2t.text'])")


@given(st.sampled_from(sorted(FUSIONS)), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_fusion_grows_with_its_inputs(name: str, seed: int) -> None:
    """More similar by every teacher (or of a better rank) is never less alike."""
    draw = np.random.default_rng(seed)
    made = fusion(f"{name}({TWO})")
    low = draw.uniform(-1, 1, (2, 50))
    high = low + draw.uniform(0, 0.5, (2, 50))
    if made.uses_ranks:
        low, high = np.exp(-low), np.exp(-high)
    elif name == "agreement":  # monotone where both are on their side of the border
        low, high = np.abs(low), np.abs(low) + (high - low)
    assert (made.combine(list(high)) >= made.combine(list(low)) - 1e-12).all()


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_print_is_parse(name: str) -> None:
    made = fusion(f"{name}({TWO})")
    assert fusion(str(made.spec)) == made
    assert made.inputs == (BlockRequest(Relation.I2T, "text"), BlockRequest(Relation.I2I, "image"))
    unknown = made.combine([np.array([np.nan, 1.0]), np.array([0.5, 1.0])])
    assert np.isnan(unknown[0])
    assert not np.isnan(unknown[1])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mean(of=[])", ConfigError),
        ("mean(of=['i2t.text'], weights=[1, 2])", ConfigError),
        ("mean(of=['x2t.text'])", ConfigError),
        ("mean(of=['t2i.text'])", ConfigError),
        ("mean(of=['i2t.text'], wieghts=[1])", SpecError),
        ("mean()", SpecError),
        ("meen(of=['i2t.text'])", UnknownNameError),
    ],
)
def test_wrong_specs(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        fusion(text)


@pytest.mark.parametrize("text", ["i2t.text", "i2t.text.mean", "i2i.image", "t2t.text", "i2t.text.first", "i2t"])
def test_needs_print_and_parse(text: str) -> None:
    assert str(parse_request(text)) == text


def blocks(aligned: bool = True) -> Blocks:
    draw = np.random.default_rng(3)
    images = np.array([4, 7, 9])
    captions = images if aligned else np.array([7, 9, 9, 4])
    i2t = draw.random((3, len(captions)), np.float32)
    i2i = draw.random((3, 3), np.float32)
    return Blocks({BlockRequest(Relation.I2T, "text"): i2t, BlockRequest(Relation.I2I, "image"): i2i}, images, captions)


def test_scheme_in_a_batch() -> None:
    text = f"mean({TWO}, weights=[1, 3])"
    made = Ensemble(text)
    assert isinstance(made, Scheme)
    given_blocks = blocks()
    labels = made.relevance(given_blocks)
    i2t, i2i = given_blocks.similarities.values()
    expected = (i2t + 3 * i2i) / 4
    off = ~np.eye(3, dtype=bool)
    assert labels.relevance[off] == pytest.approx(expected[off])
    assert (labels.relevance.diagonal() == 1).all()
    assert labels.where.all()
    assert Ensemble(**made.spec.arguments) == made


def test_scheme_is_registered() -> None:
    assert scheme(f'fused(by="maximum({TWO})")') == Ensemble(f"maximum({TWO})")


def test_photographs_are_spread_over_captions() -> None:
    given_blocks = blocks(aligned=False)
    i2i = given_blocks.get(BlockRequest(Relation.I2I, "image"))
    assert (
        spread(BlockRequest(Relation.I2I, "image"), given_blocks).tolist()
        == i2i[:, [1, 2, 2, 0]].astype(float).tolist()
    )
    lonely = Blocks({BlockRequest(Relation.I2I, "image"): i2i}, np.array([4, 7, 9]), np.array([5, 4, 7]))
    with pytest.raises(ConfigError, match="batch of pairs"):
        spread(BlockRequest(Relation.I2I, "image"), lonely)


def test_ranks_in_a_block() -> None:
    assert block_ranks(np.array([[0.9, 0.1], [0.9, 0.5]])).tolist() == [[1.25, 2.0], [1.25, 1.5]]
    made = fusion(f"reciprocal_rank({TWO})")
    assert fused_block(made, blocks()).shape == (3, 3)


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_group_ranks_equal_scipy(n: int, seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(seed)
    values, groups = np.round(draw.random(n), 1), draw.integers(0, 5, n)
    found = group_ranks(values, groups)
    for group in np.unique(groups):
        assert found[groups == group].tolist() == stats.rankdata(-values[groups == group]).tolist()


def test_fitted_logistic_equals_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(0)
    x = draw.random((500, 2))
    y = (draw.random(500) < 1 / (1 + np.exp(-(4 * x[:, 0] + x[:, 1] - 2.5)))).astype(float)
    ours = fit_logistic([parse_request("i2t.text"), parse_request("i2i.image")], list(x.T), y, np.ones(500))
    theirs = linear.LogisticRegression(C=1e6, tol=1e-8).fit(x, y)
    assert ours.weights == pytest.approx(theirs.coef_[0], abs=0.02)
    assert ours.bias == pytest.approx(theirs.intercept_[0], abs=0.02)
    with pytest.raises(ConfigError, match="all equal"):
        fit_logistic([parse_request("i2t.text")], [x[:, 0]], np.ones(500), np.ones(500))
