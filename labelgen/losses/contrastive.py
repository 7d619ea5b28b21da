"""Contrastive losses: InfoNCE, and the soft-label alignment of CUSA."""

from __future__ import annotations

from typing import Literal

from labelgen.errors import ConfigError
from labelgen.losses import _checks
from labelgen.losses._halves import Half, mean_of_both, of_matrix
from labelgen.losses._namespace import at_least_one, beside, identity, log_softmax, mean_where, namespace_of
from labelgen.losses._types import Array


def info_nce(
    scores: Array,
    *,
    image_rows: Array | None = None,
    positives: Array | None = None,
    temperature: float | Array = 0.05,
    reduction: Literal["mean", "cusa"] = "mean",
    where: Array | None = None,
) -> Array:
    """InfoNCE with one or several positives a query::

        L_a = - 1/n_a sum_{b positive} log softmax(s_a / temperature)_b

    mean over the queries of a direction, then over the two. Queries without a positive are left out.

    Source: code of CUSA, where positives are all captions of the same image and which divides by B once more: that is
    `reduction="cusa"`. Its weights alpha = .1 and beta = .5 beside it therefore mean 12.8 and 64 beside the mean, at
    B = 128.

    Args:
        scores: [A, B], rows are images; float16 and bfloat16 are computed in float32.
        image_rows: whole numbers [B] that say which image a pair is of: equal ones are positives (A = B). None for the
            diagonal.
        positives: bool [A, B], instead of `image_rows`.
        temperature: a number, or a scalar array of the scores' library, into which the gradient flows.
        where: bool [A, B], entries that count, positives included.

    Raises:
        ArrayError: wrong shapes or types.
        ConfigError: both `image_rows` and `positives`, a temperature that is not positive, an unknown reduction.
    """
    _checks.temperature("temperature", temperature)
    _checks.chosen("reduction", reduction, ("mean", "cusa"))
    halves = of_matrix(scores, where, _positives(scores, image_rows, positives), None)

    def loss(half: Half) -> Array:
        xp = half.xp
        number = xp.sum(half.relevance, axis=1)
        logs = log_softmax(xp, half.scores / temperature, half.where)
        sums = -xp.sum(half.relevance * logs, axis=1)
        counted = number > 0
        mean = mean_where(xp, sums / xp.where(counted, number, xp.ones_like(number)), counted)
        return mean / at_least_one(xp, counted, mean.dtype) if reduction == "cusa" else mean

    return mean_of_both(loss, halves)


def soft_contrastive(
    scores: Array,
    relevance: Array,
    *,
    temperature: float | Array = 0.45,
    relevance_temperature: float = 1.0,
    where: Array | None = None,
) -> Array:
    """KL divergence of the rows' softmax from that of soft labels, one direction: the KL of CUSA::

        q = softmax_b(r / relevance_temperature),   p = softmax_b(s / temperature)
        L = mean_a sum_b q_ab (log q_ab - log p_ab)

    Source: code of CUSA, `unire/model.py:254-266`.

    Args:
        scores: [A, B]; float16 and bfloat16 are computed in float32.
        relevance: soft labels [A, B]; constants.
        temperature: a number, or a scalar array of the scores' library, into which the gradient flows.
        where: bool [A, B], entries that count.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a temperature that is not positive.
    """
    _checks.temperature("temperature", temperature)
    _checks.temperature("relevance_temperature", relevance_temperature)
    return _divergence(of_matrix(scores, where, relevance, None)[0], temperature, relevance_temperature)


def csa(
    scores: Array,
    relevance: Array,
    *,
    relevance_t2i: Array | None = None,
    temperature: float | Array = 0.45,
    relevance_temperature: float = 1.0,
    where: Array | None = None,
) -> Array:
    """Cross-modal soft-label alignment of CUSA: `(KL(S, relevance) + KL(S^T, relevance_t2i)) / 2`.

    Which labels supervise which direction is the choice of the scheme `cusa(mode=)`: by default the image teacher's A
    the image-to-text half and the text teacher's T the other. With a small `relevance_temperature`, where the annotated
    pair is the most similar, it is `info_nce`.

    Source: CUSA (arXiv 2403.05261) and its code, where relevance_temperature is 1 and temperature is learnt from .45
    on.

    Args:
        scores: [B, B], rows are images; float16 and bfloat16 are computed in float32.
        relevance: soft labels [B, B] of the image-to-text half; constants.
        relevance_t2i: those of the text-to-image half, [B, B], rows are captions; None for the transpose.
        temperature: a number, or a scalar array of the scores' library, into which the gradient flows.
        where: bool [B, B], entries that count.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a temperature that is not positive.
    """
    _checks.temperature("temperature", temperature)
    _checks.temperature("relevance_temperature", relevance_temperature)
    halves = of_matrix(scores, where, relevance, relevance_t2i)
    return mean_of_both(lambda half: _divergence(half, temperature, relevance_temperature), halves)


def usa(
    image_scores: Array,
    text_scores: Array,
    image_relevance: Array,
    text_relevance: Array,
    *,
    temperature: float | Array = 0.45,
    relevance_temperature: float = 1.0,
    where: Array | None = None,
) -> Array:
    """Uni-modal soft-label alignment of CUSA: `(KL(U, A) + KL(V, T)) / 2`.

    Source: CUSA (arXiv 2403.05261) and its code.

    Args:
        image_scores, text_scores: the student's image-image and text-text cosines U and V, [B, B].
        image_relevance, text_relevance: the teachers' A and T, [B, B]; constants.
        temperature: a number, or a scalar array of the scores' library, into which the gradient flows.
        where: bool [B, B], entries that count, in both.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a temperature that is not positive.
    """
    images = soft_contrastive(
        image_scores, image_relevance, temperature=temperature, relevance_temperature=relevance_temperature, where=where
    )
    texts = soft_contrastive(
        text_scores, text_relevance, temperature=temperature, relevance_temperature=relevance_temperature, where=where
    )
    return (images + texts) / 2


def _divergence(half: Half, temperature: float | Array, relevance_temperature: float) -> Array:
    xp = half.xp
    target = log_softmax(xp, half.relevance / relevance_temperature, half.where)
    terms = xp.exp(target) * (target - log_softmax(xp, half.scores / temperature, half.where))
    return mean_where(xp, xp.sum(xp.where(half.where, terms, xp.zeros_like(terms)), axis=1), half.counted)


def _positives(scores: Array, image_rows: Array | None, positives: Array | None) -> Array:
    """Mask of the positives, bool [A, B]."""
    _checks.matrix("scores", scores, square=positives is None)
    if positives is not None:
        if image_rows is not None:
            raise ConfigError("info_nce takes image_rows or positives", found="both")
        _checks.mask("positives", positives, scores.shape)
        return positives
    xp = namespace_of("scores", scores)
    if image_rows is None:
        return identity(xp, scores)
    _checks.shaped("image_rows", image_rows, scores.shape[:1])
    rows = beside("image_rows", scores, image_rows)
    return rows[:, None] == rows[None, :]
