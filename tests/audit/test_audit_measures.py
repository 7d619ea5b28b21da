"""Measures against scipy and scikit-learn, and with multiplicities against the pairs written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.audit.card import measures
from labelgen.audit.card.measures import Figure, agreement_figures, draw_images
from labelgen.types import Bool, Float64, Int64

stats = pytest.importorskip("scipy.stats")
metrics = pytest.importorskip("sklearn.metrics")


def oracle(scores: Float64, ratings: Float64, right: Bool) -> dict[str, float]:
    return {
        "spearman": stats.spearmanr(scores, ratings).statistic,
        "kendall": stats.kendalltau(scores, ratings).statistic,
        "auc": metrics.roc_auc_score(right, scores),
        "average_precision": metrics.average_precision_score(right, scores),
    }


def made(n: int, levels: int, ties: int, seed: int) -> tuple[Float64, Float64, Int64]:
    """Scores with ties, ratings that go with them somewhat, and the image of every pair."""
    draw = np.random.default_rng(seed)
    truth = draw.random(n)
    scores = np.round((truth + draw.random(n)) * ties) / ties
    ratings = np.floor(truth * levels)
    return scores, ratings, draw.integers(0, max(2, n // 5), n)


@given(st.integers(20, 120), st.sampled_from([2, 3, 12, 1000]), st.sampled_from([3, 10, 10**6]), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_replicate_equals_the_pairs_written_out(n: int, levels: int, ties: int, seed: int) -> None:
    scores, ratings, images = made(n, levels, ties, seed)
    right = ratings >= levels // 2
    counts = draw_images(int(images.max()) + 1, 4, seed)
    found = agreement_figures(scores, ratings, images, counts, right=right)
    for place, drawn in enumerate(counts):
        rows = np.repeat(np.arange(n), drawn[images])
        if len(set(ratings[rows])) < 2 or len(set(scores[rows])) < 2 or len(set(right[rows])) < 2:
            continue
        for name, value in oracle(scores[rows], ratings[rows], right[rows]).items():
            ours = found[name].value if place == 0 else found[name].replicates[place - 1]
            assert ours == pytest.approx(value, abs=1e-9), name


def test_by_hand() -> None:
    """Scores 1 2 3 4, ratings 0 1 0 1: three of four right-wrong pairs in order; precision 1 and 2/3 at the hits."""
    scores, ratings = np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1])
    found = agreement_figures(scores, ratings, np.arange(4), draw_images(4, 0), right=ratings > 0)
    assert found["auc"].value == 0.75
    assert found["average_precision"].value == pytest.approx((1 + 2 / 3) / 2)
    # midranks of the ratings .5, 2.5 twice each; covariance 2, variances 5 and 4 (in sums): 2 / sqrt(20)
    assert found["spearman"].value == pytest.approx(2 / np.sqrt(20))
    # 3 concordant, 1 discordant; 6 pairs not tied by score, 4 not tied by rating
    assert found["kendall"].value == pytest.approx(2 / np.sqrt(24))


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, ratings, images = made(60, 3, 10, 2)
    counts = draw_images(int(images.max()) + 1, 9)
    whole = agreement_figures(scores, ratings, images, counts, right=ratings > 1)
    monkeypatch.setattr(measures, "_PIECE", 100)
    again = agreement_figures(scores, ratings, images, counts, right=ratings > 1)
    for name, figure in whole.items():
        assert figure == again[name]
        assert np.array_equal(figure.replicates, again[name].replicates)


def test_without_right_pairs_there_is_no_auc() -> None:
    scores, ratings, images = made(30, 3, 10, 3)
    found = agreement_figures(scores, ratings, images, draw_images(int(images.max()) + 1, 3))
    assert np.isnan(found["auc"].value)
    assert found["auc"].to_json() == {"value": None, "low": None, "high": None}


def test_constant_scores_have_no_correlation() -> None:
    found = agreement_figures(np.ones(6), np.arange(6.0), np.arange(6), draw_images(6, 3), right=np.arange(6) > 2)
    assert np.isnan(found["spearman"].value)
    assert found["auc"].value == 0.5
    assert found["average_precision"].value == 0.5


def test_pairs_that_repeat_within_an_image_narrow_nothing() -> None:
    """Five copies of every pair, in the image of the original: the same figures and the same intervals."""
    scores, ratings, images = made(60, 4, 10, 5)
    counts = draw_images(int(images.max()) + 1, 30)
    once = agreement_figures(scores, ratings, images, counts, right=ratings > 1)
    copied = (np.repeat(values, 5) for values in (scores, ratings, images, ratings > 1))
    five = agreement_figures(*(next(copied) for _ in range(3)), counts, right=next(copied))
    for name in ("spearman", "auc", "average_precision"):
        assert five[name].replicates == pytest.approx(once[name].replicates), name


def test_lead_is_paired() -> None:
    one = Figure.of(np.array([0.6, 0.5, 0.7]))
    two = Figure.of(np.array([0.5, 0.4, 0.6]))
    lead = one.lead_over(two)
    assert lead.value == pytest.approx(0.1)
    assert (lead.low, lead.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_drawn_images() -> None:
    counts = draw_images(7, 5, seed=3)
    assert counts.shape == (6, 7)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, draw_images(7, 5, seed=3))
