"""Captions that were exchanged with a similar caption of another image.

Such a caption agrees with the captions around it, so distance to them hardly shows it. Whether two captions c, of image
i, and d, of image j, should change places does: with y the row that an image expects of its captions, the two fit

    (c - d) . (y_j - y_i)

better after the exchange than as they stand. By texts, y_i is the mean row of the other captions of i; by a cross-modal
teacher it is the row of the image. Exchanging the two turns the sign round, so the pairs of a corpus with their signs
turned are what exchanged pairs look like: a logistic regression without any sample of noise learns from both how much a
gain by texts and one by images say. (Errors estimated with a mirrored copy of the data: Elias and Gygi, 2007.)

Only captions with siblings are looked at: by a cross-modal teacher alone, captions that are right look exchanged nearly
as often as exchanged ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.audit.checks.logistic import logistic
from labelgen.audit.corpus_view import Unit, View, pieces
from labelgen.types import Bool, Float32, Float64, Int64

#: The share of exchanged pairs is estimated from those beyond this quantile of turned pairs; a corpus without exchanges
#: has next to no pair there.
QUANTILE = 0.75
#: Pairs that the regression learns from, and its penalty.
_SAMPLE, _RIDGE = 500_000, 1e-3


@dataclass(frozen=True)
class Exchanges:
    """How much the captions of a corpus look exchanged.

    Attributes:
        odds: the largest log-odds over candidates, at equal chances, that the caption was exchanged, float32 [n];
            NaN for a caption without candidates.
        share: estimated share of captions that were exchanged with the first candidate.
    """

    odds: Float32
    share: float


def gains_of(
    view: View, text: str, cross: str | None, captions: Int64, near: Int64, real: Bool
) -> tuple[Float32, Bool]:
    """Return what captions gain by changing places with others, by texts and by images, and which pairs count.

    Args:
        view: the corpus.
        text, cross: aliases of a text teacher and of a cross-modal one, if there is one.
        captions: all captions with an embedding, [n].
        near, real: candidates on other images, and which exist, [n, k].

    Returns:
        Gains, [n, k, 2], 0 where they are not known; and the pairs of which both captions have siblings, [n, k].
    """
    held = np.zeros(view.n_captions, np.float32)
    held[captions] = 1
    count = np.bincount(view.image_of, held, view.n_images).astype(np.float32)
    alone = count[view.image_of] < 2
    counted = real & ~alone[near] & ~alone[captions][:, None]
    gains = np.zeros((*near.shape, 2), np.float32)
    if not counted.any():
        return gains, counted
    sums = view.centroids(text, held) * count[:, None]
    siblings = np.maximum(count - 1, 1).astype(np.float32)
    texts = Unit(view.text[text])
    sides = None if cross is None else [Unit(side) for side in view.cross[cross]]

    def others(chosen: Int64, rows: Float32) -> Float32:
        images = view.image_of[chosen]
        return (sums[images] - rows) / siblings[images, None]

    for here in pieces(np.arange(len(near)), 32 * texts.shape[1]):
        mine, row = captions[here], texts.take(captions[here])
        for column in range(near.shape[1]):
            theirs = near[here, column]
            other = texts.take(theirs)
            gains[here, column, 0] = gain(row, other, others(mine, row), others(theirs, other))
            if sides is not None:
                images, words = sides
                photographs = (images.take(view.image_of[rows]) for rows in (mine, theirs))
                gains[here, column, 1] = gain(words.take(mine), words.take(theirs), *photographs)
    return gains, counted


def gain(caption: Float32, other: Float32, expected: Float32, expected_there: Float32) -> Float32:
    """Return (caption - other) . (expected_there - expected) of rows, [n]; 0 where one of the four rows is zero."""
    rows = (caption, other, expected, expected_there)
    known = np.logical_and.reduce([row.any(axis=1) for row in rows])
    products = np.einsum("nd,nd->n", caption - other, expected_there - expected)
    result: Float32 = np.where(known, products, 0).astype(np.float32)
    return result


def exchanges(gains: Float32, real: Bool, sure: Bool) -> Exchanges:
    """Learn from gains how much captions look exchanged.

    Args:
        gains: of every caption with every candidate, the most similar first, by texts and by images, [n, k, 2].
        real: which of them count, [n, k].
        sure: captions whose first candidate does not look like one of a third image, [n]; the share is estimated from
            these, since beside a replaced caption a right one looks exchanged.
    """
    if not real.any():
        return Exchanges(np.full(len(gains), np.nan, np.float32), 0.0)
    pairs = gains[real].astype(np.float64)
    pairs = pairs[:: 1 + len(pairs) // _SAMPLE]
    deviation = pairs.std(axis=0)
    weights = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    both = np.concatenate([pairs, -pairs]) * weights
    targets = np.repeat([0.0, 1.0], len(pairs))
    slopes: Float64 = logistic(both, targets, np.ones(len(both)), ridge=_RIDGE)[1:] * weights
    odds = np.where(real, gains @ slopes, -np.inf)
    best = odds.max(axis=1, initial=-np.inf)
    return Exchanges(np.where(np.isfinite(best), best, np.nan).astype(np.float32), _share(odds[sure, :1]))


def _share(odds: Float64) -> float:
    first = odds[np.isfinite(odds)]
    if not len(first):
        return 0.0
    beyond = max(0.0, float(np.quantile(-first, QUANTILE)))
    return float((first > beyond).mean()) / (1 - QUANTILE) if beyond else 0.0
