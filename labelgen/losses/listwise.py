"""Listwise losses: a whole ranking against the ranking by the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from labelgen.losses import _checks
from labelgen.losses._by_query import by_query, differences, differentiable
from labelgen.losses._halves import Half, mean_of_both, of_matrix
from labelgen.losses._namespace import at_least_one, log_softmax, mean_where, namespace_of
from labelgen.losses._types import Array, Namespace

Ties = Literal["stable", "competition"]


def smooth_ndcg(
    scores: Array,
    relevance: Array,
    *,
    temperature: float = 0.01,
    ideal_ties: Ties = "stable",
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> Array:
    """1 - NDCG with differentiable ranks (S-NDCG)::

        rank~_q(i) = 1 + sum_{j != i} sigma((s_qj - s_qi) / temperature)
        DCG~_q     = sum_i (2^r_qi - 1) / log2(1 + rank~_q(i))
        L          = (mean_q (1 - DCG~/IDCG)(S, R) + mean_q (1 - DCG~/IDCG)(S^T, R^T)) / 2

    IDCG has the ranks of a stable sort by label, descending. A query whose labels are all 0 has NDCG 1. O(B^3) time,
    O(B^2) memory.

    Source: Listwise ITR (arXiv 2305.16566) and its code. There tied labels share the best of their ideal ranks, so that
    a perfect order of (1, 1, .5) stays below 1: that is `ideal_ties="competition"`. It also takes R where the
    text-to-image half needs R^T (`model.py:228`): that is `relevance_t2i=R`.

    Args:
        scores: [A, B], rows are images; float16 and bfloat16 are computed in float32.
        relevance: labels [A, B] in [0, 1], (image, caption); constants. See the scheme `rsc`.
        temperature: width of the sigmoid.
        where: bool [A, B], entries that count.
        relevance_t2i: labels [B, A] of the text-to-image half, if not the transpose of `relevance`.

    Returns:
        A scalar of the scores' library, differentiable once in torch.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a temperature that is not positive, unknown ties.
    """
    halves = _checked(scores, relevance, where, relevance_t2i, temperature, ideal_ties)
    function = _SmoothNdcg(temperature, ideal_ties)
    return mean_of_both(lambda half: differentiable(function, half.scores, half.relevance, half.where), halves)


def smooth_ndcg_with_gradient(
    scores: Array,
    relevance: Array,
    *,
    temperature: float = 0.01,
    ideal_ties: Ties = "stable",
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> tuple[Array, Array]:
    """`smooth_ndcg` and its derivative by the scores, [A, B]: for libraries without automatic differentiation."""
    first, second = _checked(scores, relevance, where, relevance_t2i, temperature, ideal_ties)
    function = _SmoothNdcg(temperature, ideal_ties)
    value, gradient = function(first.scores, first.relevance, first.where, gradient=True)
    turned_value, turned = function(second.scores, second.relevance, second.where, gradient=True)
    return (value + turned_value) / 2, (gradient + first.xp.matrix_transpose(turned)) / 2


def smooth_ranks(scores: Array, *, temperature: float = 0.01, where: Array | None = None) -> Array:
    """Differentiable ranks of the columns of every row, [A, B]: `1 + sum_{j != i} sigma((s_qj - s_qi) / temperature)`.

    The ranks of n candidates sum to n (n + 1) / 2 at every temperature. Candidates that do not count have rank 0. For
    looking at; the gradient of `smooth_ndcg` does not go through this function. O(B^3) memory in torch and JAX where
    gradients are recorded.

    Raises:
        ArrayError: wrong shapes or types.
        ConfigError: a temperature that is not positive.
    """
    _checks.temperature("temperature", temperature)
    half = of_matrix(scores, where, scores, None)[0]
    xp = half.xp

    def ranks(scores: Array, where: Array) -> tuple[Array, ...]:
        return (_ranks(xp, _signs(xp, scores, where, temperature), where),)

    found = by_query(ranks, half.scores, half.where)[0]
    return xp.where(half.where, found, xp.zeros_like(found))


def listnet(
    scores: Array,
    relevance: Array,
    *,
    temperature: float = 1.0,
    relevance_temperature: float = 1.0,
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> Array:
    """ListNet, top one: cross entropy of two softmaxes::

        L_q = - sum_i softmax(r_q / relevance_temperature)_i  log softmax(s_q / temperature)_i

    mean over the queries, then over the two directions. Its gradient is that of `soft_contrastive`; the value has the
    entropy of the labels on top.

    Source: Cao et al. 2007.

    Args and raises as `smooth_ndcg`; temperatures may be scalar arrays.
    """
    _checks.temperature("temperature", temperature)
    _checks.temperature("relevance_temperature", relevance_temperature)

    def loss(half: Half) -> Array:
        xp = half.xp
        target = xp.exp(log_softmax(xp, half.relevance / relevance_temperature, half.where))
        terms = -target * log_softmax(xp, half.scores / temperature, half.where)
        return mean_where(xp, xp.sum(xp.where(half.where, terms, xp.zeros_like(terms)), axis=1), half.counted)

    return mean_of_both(loss, of_matrix(scores, where, relevance, relevance_t2i))


@dataclass(frozen=True)
class _SmoothNdcg:
    """Value and gradient of one direction."""

    temperature: float
    ties: Ties

    def __call__(self, scores: Array, *constants: Array, gradient: bool) -> tuple[Array, Array | None]:
        xp = namespace_of("scores", scores)
        kernel = self._queries_with_gradient if gradient else self._queries
        losses, *slopes = by_query(kernel, scores, *constants)
        counted = xp.any(constants[1], axis=1)
        value = mean_where(xp, losses, counted)
        if not gradient:
            return value, None
        slopes[0] /= at_least_one(xp, counted, scores.dtype)
        return value, slopes[0]

    def _queries(self, scores: Array, labels: Array, where: Array) -> tuple[Array, ...]:
        """1 - NDCG of every query, [q]."""
        xp = namespace_of("scores", scores)
        ranks = _ranks(xp, _signs(xp, scores, where, self.temperature), where)
        shares = self._shares(xp, labels, where)
        return (self._loss(xp, ranks, shares),)

    def _queries_with_gradient(self, scores: Array, labels: Array, where: Array) -> tuple[Array, ...]:
        """Also the derivative by the scores, [q, n].

        With g_i = d loss / d rank_i and the symmetric d_ij = sigma'((s_j - s_i) / t) / t, the score of j moves the rank
        of every i by d_ij, and its own rank by minus the sum of all d_ij: the derivative is sum_i g_i d_ij - g_j sum_i
        d_ij.
        """
        xp = namespace_of("scores", scores)
        signs = _signs(xp, scores, where, self.temperature)
        ranks, shares = _ranks(xp, signs, where), self._shares(xp, labels, where)
        logs = xp.log2(1 + ranks)
        pull = shares / (logs * logs * (1 + ranks) * math.log(2))
        signs *= signs
        slopes = 1 - signs  # sigma' = (1 - tanh^2) / 4; 0 towards candidates that do not count
        by_itself = xp.sum(slopes, axis=1)
        slopes *= pull[:, :, None]
        derivative = (xp.sum(slopes, axis=1) - pull * by_itself) * (0.25 / self.temperature)
        return self._loss(xp, ranks, shares), derivative

    @staticmethod
    def _loss(xp: Namespace, ranks: Array, shares: Array) -> Array:
        """1 - DCG~ / IDCG; 0 where nothing is to be gained."""
        value = 1 - xp.sum(shares / xp.log2(1 + ranks), axis=1)
        return xp.where(xp.any(shares != 0, axis=1), value, 0 * value)

    def _shares(self, xp: Namespace, labels: Array, where: Array) -> Array:
        """Gain of every candidate over the ideal DCG of its query, [q, n]; 0 where a candidate does not count."""
        gains = xp.where(where, 2**labels - 1, xp.zeros_like(labels))
        if self.ties == "competition":
            above = (differences(labels) > 0) & where[:, None, :]
            places = xp.sum(xp.astype(above, labels.dtype), axis=2)
            ideal = xp.sum(gains / xp.log2(2 + places), axis=1)
        else:
            keys = xp.where(where, labels, xp.full_like(labels, -float("inf")))
            ordered = xp.flip(xp.sort(keys, axis=1), axis=1)
            places = xp.cumulative_sum(xp.ones_like(labels), axis=1)
            sorted_gains = xp.where(xp.isfinite(ordered), 2**ordered - 1, xp.zeros_like(labels))
            ideal = xp.sum(sorted_gains / xp.log2(1 + places), axis=1)
        return gains / xp.where(ideal == 0, xp.ones_like(ideal), ideal)[:, None]


def _signs(xp: Namespace, scores: Array, where: Array, temperature: float) -> Array:
    """[q, i, j] = tanh((s_j - s_i) / 2 t): the sigmoid is half of one plus this, and it never overflows.

    Candidates that do not count are far below all others: exactly -1 in the rows of those.
    """
    scaled = scores * (0.5 / temperature)
    scaled = xp.where(where, scaled, xp.full_like(scaled, -1e30))
    return xp.tanh(differences(scaled))


def _ranks(xp: Namespace, signs: Array, where: Array) -> Array:
    """Ranks [q, n] of the candidates that count among themselves: 1 + sum of (1 + sign) / 2 over the others.

    With n columns that is (1 + n + sum of all signs) / 2, because a candidate's sign towards itself is 0 and the
    sigmoid of those that do not count is 0.
    """
    found = 0.5 * (1 + signs.shape[2] + xp.sum(signs, axis=2))
    return xp.where(where, found, xp.ones_like(found))


def _checked(
    scores: Array,
    relevance: Array,
    where: Array | None,
    relevance_t2i: Array | None,
    temperature: float,
    ties: str,
) -> tuple[Half, Half]:
    _checks.temperature("temperature", temperature)
    _checks.chosen("ideal_ties", ties, ("stable", "competition"))
    halves = of_matrix(scores, where, relevance, relevance_t2i)
    for half in halves:
        _checks.within("relevance", half.relevance, 0, 1)
    return halves
