"""Small examples whose numbers a reader can redo."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelgen import losses

#: Two pairs. Image 0: own score .5, other caption .4. Image 1: own score .6, other caption .1.
TWO = np.array([[0.5, 0.4], [0.1, 0.6]])
#: Three candidates of one query; a column each has one candidate only, so the text-to-image half is 0 or has one entry.
ONE_QUERY = np.array([[0.3, 0.1, 0.2]])


def test_triplet_hard_negative() -> None:
    """Rows: max(0, .4 - .5 + .2) = .1 and max(0, .1 - .6 + .2) = 0. Columns: 0 and max(0, .4 - .6 + .2) = 0."""
    assert losses.triplet_hard_negative(TWO) == pytest.approx((0.1 / 2 + 0 / 2) / 2)


def test_triplet_hard_negative_takes_negatives_from_where() -> None:
    """Without the pair (0, 1) only row 1 and column 0 have a negative: .1 - .6 + .2 < 0 and .1 - .5 + .2 < 0."""
    where = np.array([[True, False], [True, True]])
    assert losses.triplet_hard_negative(TWO, where=where) == 0
    # And with margin .6: row 1 alone, .1 - .6 + .6 = .1; column 0 alone, .1 - .5 + .6 = .2.
    assert losses.triplet_hard_negative(TWO, margin=0.6, where=where) == pytest.approx((0.1 + 0.2) / 2)


def test_triplet_soft_negative() -> None:
    """One negative each, so that the forms are tau log(1 + e^(x / tau)) and max(0, x); tau = .1."""
    rows = [0.1, -0.3]  # s_ij - s_ii + .2
    columns = [-0.2, 0.0]
    soft = [0.1 * math.log(1 + math.exp(x / 0.1)) for x in rows + columns]
    assert losses.triplet_soft_negative(TWO, temperature=0.1) == pytest.approx(sum(soft) / 4)
    hinge = losses.triplet_soft_negative(TWO, temperature=0.1, form="hinge")
    assert hinge == pytest.approx((0.1 + 0 + 0 + 0) / 4)


def test_two_equal_negatives_are_worth_a_logarithm() -> None:
    """hinge: tau log(2 e^(x / tau)) = x + tau log 2, with x = .2."""
    scores = np.zeros((3, 3))
    assert losses.triplet_soft_negative(scores, form="hinge") == pytest.approx(0.2 + 0.01 * math.log(2))


def test_sel_hn_triplet() -> None:
    """Row 0: |.5 - .45| < .1, so the mean of the hinges .15 and 0; the other rows and columns are far apart."""
    scores = np.array([[0.5, 0.45, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9]])
    found = losses.sel_hn_triplet(scores, epsilon=0.1)
    assert found == pytest.approx((0.15 / 2) / 3 / 2)
    assert losses.triplet_hard_negative(scores) == pytest.approx(0.15 / 3 / 2)


def test_pairwise_mean_variance() -> None:
    """Positives .8, .6: mean .7, variance .01. Negatives .5, .1: mean .3, variance .04. Means .4 apart, .8 wanted."""
    scores, positives = np.array([0.8, 0.6, 0.5, 0.1]), np.array([True, True, False, False])
    assert losses.pairwise_mean_variance(scores, positives) == pytest.approx(0.01 + 0.04 + 0.35 * 0.4)
    weights = np.array([3.0, 1.0, 1.0, 1.0])  # mean (2.4 + .6) / 4 = .75, variance (3 * .0025 + .0225) / 4 = .0075
    found = losses.pairwise_mean_variance(scores, positives, weights=weights)
    assert found == pytest.approx(0.0075 + 0.04 + 0.35 * (0.8 - 0.45))
    assert losses.pairwise_mean_variance(scores, np.ones(4, bool)) == pytest.approx(np.var(scores))
    assert losses.pairwise_mean_variance(scores, np.zeros(4, bool)) == pytest.approx(np.var(scores))


def test_kendall() -> None:
    """Labels 1, .5, 0: with gap .3 three pairs; scores .3, .1, .2 have the last two in the wrong order, by .1.

    Columns have one candidate, hence no pair: the second half is 0.
    """
    labels = np.array([[1.0, 0.5, 0.0]])
    assert losses.kendall(ONE_QUERY, labels) == pytest.approx((0.1 / 3 + 0) / 2)
    # With gap .6 only the pair (first, last) is left, and it is in order; margin .15 is missed by .05.
    assert losses.kendall(ONE_QUERY, labels, gap=0.6) == 0
    assert losses.kendall(ONE_QUERY, labels, gap=0.6, margin=0.15) == pytest.approx(0.05 / 2)


def test_kendall_is_normalised_by_all_pairs_of_the_batch() -> None:
    """Query 0 has three pairs and .1, query 1 has none: .1 / 3, not the mean of .1 / 3 and 0. Columns are in order."""
    labels = np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    scores = np.vstack([ONE_QUERY, [[0.3, 0.4, 0.5]]])
    assert losses.kendall(scores, labels) == pytest.approx((0.1 / 3 + 0) / 2)


def test_sliding_windows() -> None:
    """Sorted by label the scores are .1, .5, .2, .4; windows of two: .1-.5, .5-.2, .2-.4: violations .4, 0, .2."""
    labels = np.array([[4.0, 3.0, 2.0, 1.0]])
    scores = np.array([[0.1, 0.5, 0.2, 0.4]])
    assert losses.sliding_window_kendall(scores, labels, window=2) == pytest.approx(0.4 / 2)
    assert losses.sliding_window_kendall(scores, labels, window=2, top=2) == pytest.approx(0.3 / 2)
    assert losses.sliding_window_kendall(scores, labels, window=2, hard=False) == pytest.approx(0.2 / 2)
    assert losses.sliding_window_kendall(scores, labels, window=2, stride=2, hard=False) == pytest.approx(0.3 / 2)
    # Windows of three: .1-.2 and .5-.4: violations .1 and 0; of five: none.
    assert losses.sliding_window_kendall(scores, labels, window=3) == pytest.approx(0.1 / 2)
    assert losses.sliding_window_kendall(scores, labels, window=5) == 0


def test_sliding_windows_drop_pairs_whose_labels_are_near() -> None:
    """Tied labels never form a pair; a gap of 1.5 needs windows of three."""
    scores = np.array([[0.1, 0.5, 0.2, 0.4]])
    assert losses.sliding_window_kendall(scores, np.ones((1, 4)), window=2) == 0
    labels = np.array([[4.0, 3.0, 2.0, 1.0]])
    assert losses.sliding_window_kendall(scores, labels, window=2, min_gap=1.5) == 0
    assert losses.sliding_window_kendall(scores, labels, window=3, min_gap=1.5) == pytest.approx(0.1 / 2)


def test_smooth_ranks_of_equal_scores_are_the_middle() -> None:
    """sigma(0) = 1/2: every one of three has rank 1 + 2/2 = 2."""
    np.testing.assert_allclose(losses.smooth_ranks(np.zeros((1, 3))), [[2, 2, 2]])


def test_smooth_ndcg() -> None:
    """Far-apart scores have whole ranks: labels 0, 1 ranked 1, 2: DCG 1 / log2(3), IDCG 1. Columns: NDCG 1."""
    found = losses.smooth_ndcg(np.array([[0.9, 0.1]]), np.array([[0.0, 1.0]]))
    assert found == pytest.approx((1 - 1 / math.log2(3)) / 2)
    assert losses.smooth_ndcg(np.array([[0.1, 0.9]]), np.array([[0.0, 1.0]])) == pytest.approx(0)


def test_smooth_ndcg_of_tied_labels() -> None:
    """A perfect order of (1, 1, .5), as far as it goes: with competition ranks 1, 1, 3 the ideal is 1 + 1 + g / 2.

    The ranking has DCG 1 + 1 / log2(3) + g / 2, with g = 2^.5 - 1.
    """
    scores, labels = np.array([[0.9, 0.5, 0.1]]), np.array([[1.0, 1.0, 0.5]])
    gain = 2**0.5 - 1
    assert losses.smooth_ndcg(scores, labels) == pytest.approx(0, abs=1e-9)
    shared = 1 - (1 + 1 / math.log2(3) + gain / 2) / (2 + gain / 2)
    assert losses.smooth_ndcg(scores, labels, ideal_ties="competition") == pytest.approx(shared / 2)


def test_smooth_ndcg_without_gain_is_zero() -> None:
    assert losses.smooth_ndcg(TWO, np.zeros((2, 2))) == 0


def test_listnet() -> None:
    """Uniform labels against scores with odds 3 to 1: -(log 3/4 + log 1/4) / 2; columns have one candidate: 0."""
    found = losses.listnet(np.array([[math.log(3), 0.0]]), np.ones((1, 2)))
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2 / 2)


def test_info_nce() -> None:
    """Scores log 3 on the diagonal at temperature 1: probability 3/4 in every row and column."""
    scores = np.log(3) * np.eye(2)
    assert losses.info_nce(scores, temperature=1.0) == pytest.approx(-math.log(0.75))
    assert losses.info_nce(scores, temperature=1.0, reduction="cusa") == pytest.approx(-math.log(0.75) / 2)


def test_info_nce_with_two_captions_of_one_image() -> None:
    """All scores equal, pairs 0 and 1 of one image: every probability is 1/3, whatever is averaged."""
    assert losses.info_nce(np.zeros((3, 3)), image_rows=np.array([7, 7, 9])) == pytest.approx(math.log(3))


def test_soft_contrastive() -> None:
    """q = (3/4, 1/4), p = (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2)."""
    labels = np.array([[math.log(3), 0.0]])
    found = losses.soft_contrastive(np.zeros((1, 2)), labels)
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert losses.soft_contrastive(labels, labels, temperature=1.0) == pytest.approx(0)


def test_csa_and_usa_are_means_of_two() -> None:
    labels, flat = np.log(3) * np.eye(2), np.zeros((2, 2))
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert losses.csa(flat, labels) == pytest.approx(one)
    assert losses.csa(flat, labels, relevance_t2i=flat) == pytest.approx(one / 2)
    assert losses.usa(flat, flat, labels, flat) == pytest.approx(one / 2)


def test_language_margin() -> None:
    """threshold .5 and margin .2: beta .4. Relevance .75 has margin .25 * .4 = .1, relevance .25 the whole .2.

    Scores 0, temperature 1: row 0 and column 1 lose log(1 + e^.1), row 1 and column 0 log(1 + e^.2); sum of the halves.
    """
    labels = np.array([[1.0, 0.75], [0.25, 1.0]])
    found = losses.language_margin(np.zeros((2, 2)), labels, threshold=0.5, temperature=1.0)
    near, far = math.log(1 + math.exp(0.1)), math.log(1 + math.exp(0.2))
    assert found == pytest.approx((near + far) / 2 + (far + near) / 2)
    assert losses.language_margin(np.zeros((2, 2)), np.ones((2, 2)), threshold=1, temperature=1.0) == pytest.approx(
        2 * math.log(2)
    )
