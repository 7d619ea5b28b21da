"""Language-guided margin (LG_ITM): a margin for every negative, smaller the more relevant it is."""

from __future__ import annotations

from labelgen.losses import _checks
from labelgen.losses._halves import Half, of_pairs
from labelgen.losses._namespace import log_sum_exp, mean_where
from labelgen.losses._types import Array


def language_margin(
    scores: Array,
    relevance: Array,
    *,
    threshold: float,
    margin: float = 0.2,
    temperature: float = 0.02,
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> Array:
    """Softmax loss with additive margins on the negatives that shrink as they become relevant::

        beta      = margin / (1 - threshold)          (1 if threshold = 1)
        margin_ij = (1 - r_ij) beta  if r_ij >= threshold  else  margin
        L_dir     = mean_i -log( e^{s_ii/t} / (e^{s_ii/t} + sum_{j != i} e^{(s_ij + margin_ij)/t}) )
        L         = L_i2t(S, R) + L_t2i(S^T, R^T)                                       (the sum of the two)

    Source: code of LG_ITM, `model.py:153-243`, by an author of BCLS. The threshold (alpha there) is a percentile of the
    relevance of random pairs, see `labelgen.relevance.language_margin`.

    Args:
        scores: [B, B], rows are images; float16 and bfloat16 are computed in float32.
        relevance: similarities [B, B] in [-1, 1], (image, caption); constants.
        threshold: from which relevance on the margin shrinks.
        where: bool [B, B], True where an entry may be a negative; the diagonal never is.
        relevance_t2i: labels [B, B] of the text-to-image half, rows are captions, if not the transpose of `relevance`.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a temperature that is not positive.
    """
    _checks.temperature("temperature", temperature)
    beta = 1.0 if threshold == 1 else margin / (1 - threshold)

    def loss(half: Half) -> Array:
        xp, labels = half.xp, half.relevance
        _checks.within("relevance", labels, -1, 1, half.where)
        margins = xp.where(labels >= threshold, (1 - labels) * beta, xp.full_like(labels, margin))
        ahead = (half.scores + margins - half.positive[:, None]) / temperature
        return mean_where(xp, log_sum_exp(xp, ahead, half.where, floor=True)[0], half.counted)

    first, second = of_pairs(scores, where, relevance, relevance_t2i)
    return loss(first) + loss(second)
