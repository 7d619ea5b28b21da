"""Triplet losses over the negatives of a batch, and the loss of method 4 over explicit pairs.

For query i with its positive candidate i, margin m and the negatives j allowed by `where` (never i itself)::

    x_ij = s_ij - s_ii + margin

All triplets here are the mean over the queries of the image-to-text half and over those of the text-to-image half,
added and halved. Queries without a negative are left out of the mean; with none at all the loss is 0 with zero
gradient.
"""

from __future__ import annotations

from typing import Literal

from labelgen.losses import _checks
from labelgen.losses._halves import Half, mean_of_both, of_pairs
from labelgen.losses._namespace import (
    beside,
    constant,
    log_sum_exp,
    max_where,
    mean_where,
    namespace_of,
    positive,
    wide,
)
from labelgen.losses._types import Array


def triplet_hard_negative(scores: Array, *, margin: float = 0.2, where: Array | None = None) -> Array:
    """Triplet loss on the hardest negative: `L_i = max(0, max_j x_ij)`.

    Source: VSE++ (Faghri et al. 2018); there summed over both directions and queries, here averaged: times 2 B for the
    sum.

    Args:
        scores: [B, B], rows are images; float16 and bfloat16 are computed in float32.
        where: bool [B, B], True where an entry may be a negative, as in `where=~same_image`; the diagonal never is.

    Returns:
        A scalar of the scores' library.

    Raises:
        ArrayError: wrong shapes or types.
    """
    return mean_of_both(lambda half: _mean(half, _hardest(half, margin)), of_pairs(scores, where))


def triplet_soft_negative(
    scores: Array,
    *,
    margin: float = 0.2,
    temperature: float = 0.01,
    form: Literal["softplus", "hinge"] = "softplus",
    where: Array | None = None,
) -> Array:
    """Triplet loss on a soft maximum of the negatives (Triplet-SN, the binary part of BCLS)::

        softplus:  L_i = temperature * log(1 + sum_j exp(x_ij / temperature))
        hinge:     L_i = max(0, temperature * log sum_j exp(x_ij / temperature))

    softplus >= hinge >= `triplet_hard_negative` >= 0, equal as the temperature goes to 0.

    Source: code of MV-VSE, by an author of BCLS. Which form BCLS uses is not public.

    Args:
        scores: [B, B], rows are images; float16 and bfloat16 are computed in float32.
        where: bool [B, B], True where an entry may be a negative; the diagonal never is.

    Raises:
        ArrayError: wrong shapes or types.
        ConfigError: a temperature that is not positive, an unknown form.
    """
    _checks.temperature("temperature", temperature)
    _checks.chosen("form", form, ("softplus", "hinge"))

    def loss(half: Half) -> Array:
        xp, floor = half.xp, form == "softplus"
        total, there = log_sum_exp(xp, _excess(half, margin) / temperature, half.where, floor=floor)
        values = total * temperature
        return _mean(half, values if floor else xp.where(there, positive(xp, values), xp.zeros_like(values)))

    return mean_of_both(loss, of_pairs(scores, where))


def sel_hn_triplet(scores: Array, *, margin: float = 0.2, epsilon: float = 0.01, where: Array | None = None) -> Array:
    """Triplet loss that mines hard negatives selectively: while a query's own score and its hardest negative are nearer
    than `epsilon`, where the gradient of the hardest negative vanishes, the mean over all negatives is used::

        L_i = mean_j max(0, x_ij)  if |s_ii - max_j s_ij| < epsilon  else  max(0, max_j x_ij)

    Source: code of RVSE++, `loss.py:31-58`; its epsilon is 0.01.

    Args and raises as `triplet_hard_negative`.
    """

    def loss(half: Half) -> Array:
        xp = half.xp
        near = xp.abs(constant(half.positive - max_where(xp, half.scores, half.where))) < epsilon
        hinges = xp.where(half.where, positive(xp, _excess(half, margin)), xp.zeros_like(half.scores))
        number = xp.sum(xp.astype(half.where, half.scores.dtype), axis=1)
        mean = xp.sum(hinges, axis=1) / xp.where(number == 0, xp.ones_like(number), number)
        return _mean(half, xp.where(near, mean, _hardest(half, margin)))

    return mean_of_both(loss, of_pairs(scores, where))


def pairwise_mean_variance(
    scores: Array,
    positives: Array,
    *,
    weights: Array | None = None,
    margin: float = 0.8,
    balance: float = 0.35,
    where: Array | None = None,
) -> Array:
    """Loss over explicit pairs that draws positives and negatives together and their means apart::

        L = var+ + var- + balance * max(0, margin - (mean+ - mean-))

    with the (weighted) means and population variances of the scores of positive and of negative pairs. Terms that lack
    a positive or a negative pair are 0.

    Source: code of SCKR, `lib/mlnet.py:85-101`, by the group of method 4. The weights are labelgen's own definition,
    see `labelgen.relevance.transforms`; weights that are all equal give the published loss.

    Args:
        scores: of pairs, any shape.
        positives: bool, of the shape of the scores: True for a positive pair, False for a negative one.
        weights: not negative, of the shape of the scores.
        where: bool, of the shape of the scores: pairs that count.

    Raises:
        ArrayError: wrong shapes or types, in debug mode a negative weight.
    """
    _checks.floating("scores", scores)
    xp = namespace_of("scores", scores)
    scores = wide(xp, scores)
    _checks.mask("positives", positives, scores.shape)
    positives = beside("positives", scores, positives, xp.bool)
    counted = xp.ones_like(positives)
    if where is not None:
        _checks.mask("where", where, scores.shape)
        counted = beside("where", scores, where, xp.bool)
    _checks.finite("scores", scores, counted)
    scores = xp.where(counted, scores, xp.zeros_like(scores))
    if weights is None:
        weights = xp.ones_like(scores)
    else:
        _checks.shaped("weights", weights, scores.shape)
        weights = beside("weights", scores, weights, scores.dtype)
        _checks.finite("weights", weights, counted)
        _checks.within("weights", weights, 0, float("inf"), counted)
    zero = xp.zeros_like(scores)
    upper, upper_spread, some = _moments(scores, xp.where(counted & positives, weights, zero))
    lower, lower_spread, others = _moments(scores, xp.where(counted & ~positives, weights, zero))
    apart = positive(xp, margin - (upper - lower))
    return upper_spread + lower_spread + balance * xp.where(some & others, apart, xp.zeros_like(apart))


def _moments(scores: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Weighted mean, weighted variance, and whether there is any weight; 0, 0, False without."""
    xp = namespace_of("scores", scores)
    total = xp.sum(weights)
    divisor = xp.where(total == 0, xp.ones_like(total), total)
    mean = xp.sum(weights * scores) / divisor
    return mean, xp.sum(weights * (scores - mean) ** 2) / divisor, total > 0


def _excess(half: Half, margin: float) -> Array:
    return half.scores - half.positive[:, None] + margin


def _hardest(half: Half, margin: float) -> Array:
    return positive(half.xp, max_where(half.xp, _excess(half, margin), half.where))


def _mean(half: Half, values: Array) -> Array:
    return mean_where(half.xp, values, half.counted)
