"""Mismatched pairs: a model of captions assigned to the wrong image, learned from the store alone.

20,000 captions are replaced, in memory, by another caption of the same split. A logistic regression learns to
distinguish the replaced pairs from the annotated ones; the score of an annotated pair is its negated log-odds. It needs
no human judgements, and a share of mismatched pairs in the data does not mislead it, because they look like replaced
ones. The share is estimated, siblings and neighbors that look replaced get less weight, and the model is fitted again.

===================  =================================================================================================
`siblings`           similarity of the caption with the weighted mean of its siblings, the other captions of its image
`sibling_top2`       mean of its two largest similarities with siblings
`sibling_mean`       weighted mean of its similarities with siblings
`best_other_image`   its largest similarity with another image: mean over its two nearest captions there (three quarters
                     of the similarity where only one is near); a swapped caption finds its original image
`neighbor_captions`  its similarity with the mean caption of the images most similar to its image
`image_consistency`  weighted mean similarity of its image with the images of the captions most similar to it
`cross`              its similarity with its image by a cross-modal teacher; of several by the one that tells annotated
                     from replaced pairs best. A `bridge` knows the data set; its rows are cross-fitted, so that no pair
                     vouches for itself
`cross_elsewhere`    the largest of these similarities with the images of the captions most similar to it: a swapped
                     caption finds its original image
===================  =================================================================================================

Rows are of length 1; from those of images the mean row of the corpus is subtracted. Rows of texts are not centered: a
caption that is unlike all captions is more suspect than one that is merely unlike its siblings. NaN is a value that a
pair does not have.

Captions that were exchanged with a similar one of another image look like their siblings, and are found by
`labelgen.audit.checks.exchange`. Its log-odds are evidence `exchange`, and enter the score where the share of exchanged
captions is larger, by its interval, than that of replaced ones: in a corpus that holds none they would only push real
mistakes down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.audit.checks.evidence import (
    NEIGHBOR_TEMPERATURE,
    cosines,
    in_pieces,
    list_weights,
    neighbor_rows,
    separating,
)
from labelgen.audit.checks.exchange import QUANTILE, exchanges, gains_of
from labelgen.audit.checks.logistic import logistic
from labelgen.audit.corpus_view import Centered, Held, Unit, View, need, pieces, unit
from labelgen.similarity.caption_sets import TakenRows
from labelgen.similarity.exact import aggregate
from labelgen.types import PAD_SCORE, Bool, Float32, Float64, Int64

#: Evidence on a pair, in the order of the columns of a frame.
PIECES = (
    *("siblings", "sibling_top2", "sibling_mean", "best_other_image", "neighbor_captions", "image_consistency"),
    *("cross", "cross_elsewhere"),
)
#: Evidence on pairs without siblings alone: beside siblings it hides pairs that people call wrong (AUC .62 instead of
#: .66 of 21 on Flickr8k), and `exchange` finds more of the captions that were swapped for a similar one.
_ALONE = "best_other_image"
#: Replaced pairs that the model learns from, and the seed they are drawn with.
SAMPLE, SEED = 20_000, 20221105
#: Nearest captions used for `best_other_image` and `image_consistency`.
_NEAREST = 24
#: Factor of a similarity for which the other image has no second near caption.
_SINGLE = 0.75
_RIDGE = 1e-3
#: Centered image rows are held in memory up to this size.
_HELD_BYTES = 512 << 20


@dataclass(frozen=True)
class Mismatches:
    """Result of the model for the annotated pairs whose caption has an embedding.

    Attributes:
        captions: caption rows, int64 [n].
        score: log-odds that the caption was replaced, or exchanged, float32 [n]; larger is worse.
        suspicion: share of replaced captions among such pairs, if errors are captions swapped at random, float32 [n].
        evidence: the pieces, float32 [n] each.
        noise: estimated share of mismatched pairs in the corpus, if errors look like captions swapped at random.
        noise_interval: its 95 % interval: of the images that happen to be in the corpus, not of that assumption.
        exchanged: estimated share of captions exchanged with the most similar caption of another image.
    """

    captions: Int64
    score: Float32
    suspicion: Float32
    evidence: dict[str, Float32]
    noise: float
    noise_interval: tuple[float, float] = (float("nan"), float("nan"))
    exchanged: float = 0.0


@dataclass(frozen=True)
class _Similarities:
    """Similarities that do not depend on the weights of captions, of n pairs.

    Attributes:
        images, captions: the pairs, [n].
        rows, real: the other captions of the image [n, width], and which exist.
        scores: their similarities with the caption, [n, width].
        near, near_real, near_scores: the nearest captions on other images, [n, k].
        consistency: similarity of the images of `near` with the image, [n, k]; NaN where one is not embedded.
        cross: similarity of image and caption by every cross-modal teacher, [n, t]; NaN where one is not embedded.
        elsewhere: the largest of these similarities of the caption with the images of `near`, [n, t].
    """

    images: Int64
    captions: Int64
    rows: Int64
    real: Bool
    scores: Float32
    near: Int64
    near_real: Bool
    near_scores: Float32
    consistency: Float32
    cross: Float32
    elsewhere: Float32


class MismatchModel:
    """The model of one corpus; of several teachers of a modality the first one counts.

    Raises:
        ConfigError: only the caption itself is known: no text teacher, or neither siblings nor images.
    """

    def __init__(self, view: View) -> None:
        need(view.text, "text teacher", "build it with one: --add-teacher text=minilm()")
        self._view = view
        self._alias = next(iter(view.text))
        photos = next(iter(view.image.values()), None) if view.i2i is not None else None
        need(
            view.width > 1 or (photos is not None and view.t2t is not None) or view.cross,
            "second caption an image, nor photographs with lists i2i and t2t, nor a cross-modal teacher",
            "annotated pairs are judged by one of them: add an image teacher",
        )
        self._text = Unit(view.text[self._alias])
        self._photos: TakenRows | None = None if photos is None else Centered.of(photos)
        if self._photos is not None and 4 * int(np.prod(self._photos.shape)) <= _HELD_BYTES:
            # every image is used many times
            self._photos = Held(self._photos.take(np.arange(view.n_images)))

    def find(self, *, rounds: int = 2) -> Mismatches:
        """Score all annotated pairs whose caption has an embedding."""
        view = self._view
        embedded = np.flatnonzero(in_pieces(view.n_captions, self._text.shape[1], self._embedded))
        draw = np.random.default_rng(SEED)
        annotated = self._similarities(embedded, embedded)
        replaced = self._similarities(*self._replaced(embedded, draw))
        weights = np.zeros(view.n_captions, np.float32)
        weights[embedded] = 1
        cross = separating(annotated.cross, replaced.cross)
        for _ in range(rounds):
            neighbors = self._neighbors(weights)
            evidence = self._evidence(annotated, weights, neighbors, cross)
            others = self._evidence(replaced, weights, neighbors, cross)
            odds, suspicion, noise = classify(evidence, others, weights[embedded])
            weights[embedded] = 1 - suspicion
        images = len(np.unique(view.image_of[embedded]))
        alias = None if cross is None else list(view.cross)[cross]
        looks_replaced = np.zeros(view.n_captions, np.bool_)
        looks_replaced[embedded] = odds < 0
        sure = np.asarray(~looks_replaced[annotated.near[:, :1]].any(axis=1))
        swaps = exchanges(*gains_of(view, self._alias, alias, embedded, annotated.near, annotated.near_real), sure)
        score = -odds
        if noise_interval(swaps.share, images, QUANTILE)[0] > noise:
            score = np.logaddexp(score, np.nan_to_num(swaps.odds, nan=-np.inf)).astype(np.float32)
            suspicion = _posterior(score, max(noise, swaps.share))
        evidence["exchange"] = swaps.odds
        return Mismatches(embedded, score, suspicion, evidence, noise, noise_interval(noise, images), swaps.share)

    def _embedded(self, here: Int64) -> Float32:
        found: Float32 = np.any(self._text.source.take(here), axis=1).astype(np.float32)
        return found

    def _replaced(self, embedded: Int64, draw: np.random.Generator) -> tuple[Int64, Int64]:
        """Return captions whose place is taken, and the captions of other images of the split that take it."""
        view = self._view
        split = view.split_of[view.image_of[embedded]]
        places = draw.integers(0, len(embedded), SAMPLE)
        first = np.searchsorted(split, split[places], side="left")
        last = np.searchsorted(split, split[places], side="right")
        captions = embedded[first + (draw.random(SAMPLE) * (last - first)).astype(np.int64)]
        other = view.image_of[captions] != view.image_of[embedded[places]]
        return embedded[places][other], captions[other]

    def _similarities(self, places: Int64, captions: Int64) -> _Similarities:
        numbers = 2 * self._view.width * self._text.shape[1]
        numbers += 0 if self._photos is None else 6 * self._photos.shape[1]
        numbers += sum(4 * left.shape[1] for left, _ in self._view.cross.values())
        parts = [self._piece(places[here], captions[here]) for here in pieces(np.arange(len(places)), 4 * numbers)]
        need(parts, "embedded caption", "the store is empty")
        names = _Similarities.__dataclass_fields__
        return _Similarities(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def _piece(self, places: Int64, captions: Int64) -> _Similarities:
        view = self._view
        images = view.image_of[places]
        rows, real = view.sets(images)
        caption = self._text.take(captions)
        members = self._text.take(rows.ravel()).reshape(*rows.shape, -1)
        real = real & (rows != places[:, None]) & np.any(members, axis=2)
        scores = np.einsum("nkd,nd->nk", members, caption)
        near, near_real, near_scores = self._near(images, captions)
        consistency = self._consistency(images, near, near_real)
        cross, elsewhere = self._cross(images, captions, near, near_real)
        known = (images, captions, rows, real, scores, near, near_real, near_scores, consistency)
        return _Similarities(*known, cross, elsewhere)

    def _cross(self, images: Int64, captions: Int64, near: Int64, real: Bool) -> tuple[Float32, Float32]:
        """Return `cross` and `elsewhere`."""
        cross, elsewhere = np.full((2, len(images), len(self._view.cross)), np.nan, np.float32)
        distinct, inverse = np.unique(self._view.image_of[near], return_inverse=True)
        place = np.asarray(inverse).reshape(near.shape)
        for number, (left, right) in enumerate(self._view.cross.values()):
            texts, others = unit(right.take(captions)), unit(left.take(distinct))
            cross[:, number] = cosines(unit(left.take(images)), texts)
            for column in range(near.shape[1]):
                found = np.where(real[:, column], cosines(others[place[:, column]], texts), np.float32(np.nan))
                elsewhere[:, number] = np.fmax(elsewhere[:, number], found)
        return cross, elsewhere

    def _near(self, images: Int64, captions: Int64) -> tuple[Int64, Bool, Float32]:
        """Return the captions nearest to the given ones, on other images than the given ones; best first."""
        view = self._view
        if view.t2t is None:
            empty = np.zeros((len(images), 0))
            return empty.astype(np.int64), empty.astype(np.bool_), empty.astype(np.float32)
        listed, scores = view.t2t.ids[captions], view.t2t.scores[captions]
        moved = images != view.image_of[captions]
        if moved.any():
            # the list of a moved caption lacks its former siblings, which are on another image now
            rows, real = view.sets(view.image_of[captions])
            real = real & (rows != captions[:, None]) & moved[:, None]
            left = np.einsum(
                "nkd,nd->nk",
                unit(self._text.source.take(rows.ravel())).reshape(*rows.shape, -1),
                unit(self._text.source.take(captions)),
            )
            listed = np.concatenate([np.where(real, rows, -1), listed], axis=1)
            scores = np.concatenate([left, scores], axis=1)
        real = (listed >= 0) & (view.image_of[np.maximum(listed, 0)] != images[:, None])
        scores = np.where(real, scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_NEAREST]
        near, found = np.take_along_axis(listed, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return np.maximum(near, 0), np.isfinite(found), found.astype(np.float32)

    def _consistency(self, images: Int64, near: Int64, real: Bool) -> Float32:
        scores = np.full(near.shape, np.nan, np.float32)
        if self._photos is None:
            return scores
        distinct, inverse = np.unique(self._view.image_of[near], return_inverse=True)
        place = np.asarray(inverse).reshape(near.shape)
        others, own = self._photos.take(distinct), self._photos.take(images)
        for column in range(near.shape[1]):
            scores[:, column] = np.einsum("nd,nd->n", others[place[:, column]], own)
        known = np.any(others, axis=1, keepdims=True)[place, 0] & np.any(own, axis=1, keepdims=True)
        return np.where(real & known, scores, np.nan).astype(np.float32)

    def _neighbors(self, weights: Float32) -> Float32 | None:
        """Return mean captions of the neighbors of every image, centered unit rows [n_images, d]."""
        view = self._view
        if view.i2i is None or self._photos is None:
            return None
        centroids = view.centroids(self._alias, weights)
        origin = np.zeros(self._text.shape[1], np.float32)
        return neighbor_rows(view.i2i, centroids, origin, np.arange(view.n_images))

    def _evidence(
        self, found: _Similarities, weights: Float32, neighbors: Float32 | None, cross: int | None
    ) -> dict[str, Float32]:
        weight = np.where(found.real, np.maximum(weights[found.rows], 1e-3), 0)
        trust = list_weights(found.near_real, found.near_scores, NEIGHBOR_TEMPERATURE) * weights[found.near]
        unknown = np.isnan(found.consistency)

        def siblings(here: Int64) -> Float32:
            rows = found.rows[here]
            members = self._text.take(rows.ravel()).reshape(*rows.shape, -1)
            mean = np.einsum("nk,nkd->nd", weight[here], members)
            length = np.sqrt(np.einsum("nd,nd->n", mean, mean))
            product = (weight[here] * found.scores[here]).sum(axis=1)  # the caption is a unit row
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.where(length > 0, product / length, np.nan).astype(np.float32)

        def around(here: Int64) -> Float32:
            if neighbors is None:
                return np.full(len(here), np.nan, np.float32)
            return cosines(neighbors[found.images[here]], self._text.take(found.captions[here]))

        scores = np.where(found.real, found.scores, PAD_SCORE)
        top2 = aggregate([scores[:, number] for number in range(scores.shape[1])], "top2")
        top2 = np.where(top2 > PAD_SCORE, top2, np.float32(np.nan))
        count, dim = len(found.images), self._text.shape[1]
        nothing = np.full(count, np.nan, np.float32)
        values = (
            in_pieces(count, 2 * self._view.width * dim, siblings),
            top2,
            _weighted_mean(found.scores, weight),
            best_other_image(self._view.image_of[found.near], found.near_scores, found.near_real),
            in_pieces(count, 2 * dim, around),
            _weighted_mean(np.nan_to_num(found.consistency), np.where(unknown, 0, trust)),
            nothing if cross is None else found.cross[:, cross],
            nothing if cross is None else found.elsewhere[:, cross],
        )
        return dict(zip(PIECES, values, strict=True))


def classify(
    evidence: dict[str, Float32], replaced: dict[str, Float32], weights: Float32
) -> tuple[Float32, Float32, float]:
    """Return log-odds that an annotated pair was not replaced, suspicion, and the share of mismatched pairs.

    Pairs with siblings and pairs without have a model each.
    """
    odds, suspicion = np.zeros((2, len(weights)), np.float32)
    with_siblings, replaced_with = ~np.isnan(evidence["siblings"]), ~np.isnan(replaced["siblings"])
    mismatched = 0.0
    for have in (True, False):
        mine, theirs = with_siblings == have, replaced_with == have
        if mine.sum() < 2 or theirs.sum() < 2:
            continue
        names = [name for name in PIECES if not have or name != _ALONE]
        left, right = _standardized({name: (evidence[name][mine], replaced[name][theirs]) for name in names})
        targets = np.repeat([1.0, 0.0], [len(left), len(right)])
        share = weights[mine] / max(float(weights[mine].sum()), 1e-9)
        balanced = np.concatenate([share, np.full(len(right), 1 / len(right))])
        model = logistic(np.concatenate([left, right]), targets, balanced, ridge=_RIDGE)
        odds[mine], others = left @ model[1:] + model[0], right @ model[1:] + model[0]
        noise = min(0.9, 2 * float((odds[mine] < np.median(others)).mean()))
        suspicion[mine] = _posterior(-odds[mine], noise)
        mismatched += noise * float(mine.sum())
    return odds, suspicion, mismatched / max(len(weights), 1)


def _posterior(score: Float32, share: float) -> Float32:
    """Return the chance of a mismatch of the given log-odds, if a share of the pairs is mismatched."""
    ratio = np.exp(-np.clip(score, -50, 50))
    result: Float32 = (share / (share + (1 - share) * ratio)).astype(np.float32)
    return result


def noise_interval(noise: float, images: int, quantile: float = 0.5) -> tuple[float, float]:
    """Return the 95 % interval of an estimated share: Wilson's, from as many pairs as there are images.

    The share is that of the pairs that look worse than a quantile of replaced ones, divided by 1 - quantile; pairs of
    one image are not independent.
    """
    if not images:
        return float("nan"), float("nan")
    share, z = noise * (1 - quantile), 1.959964
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * np.sqrt(share * (1 - share) / images + z * z / (4 * images * images)) / (1 + z * z / images)
    low, high = (float(end) / (1 - quantile) for end in (middle - half, middle + half))
    return max(0.0, low), min(1.0, high)


def _standardized(evidence: dict[str, tuple[Float32, Float32]]) -> tuple[Float64, Float64]:
    """Return evidence of annotated and of replaced pairs in standard deviations; NaN becomes the mean."""
    left, right = ([np.zeros((len(values), 0))] for values in evidence["siblings"])
    for annotated, replaced in evidence.values():
        ours, others = annotated.astype(np.float64), replaced.astype(np.float64)
        known = others[~np.isnan(others)]
        if len(known) and known.std() > 0 and not np.isnan(ours).all():
            mean, deviation = np.nanmean(ours), known.std()
            left.append(np.nan_to_num((ours - mean) / deviation)[:, None])
            right.append(np.nan_to_num((others - mean) / deviation)[:, None])
    return np.concatenate(left, axis=1), np.concatenate(right, axis=1)


def best_other_image(images: Int64, scores: Float32, real: Bool) -> Float32:
    """Return per row the largest over images of the mean of the two best scores there; see `_SINGLE`."""
    best = np.full(len(scores), -np.inf)
    for first in range(scores.shape[1]):
        same = (images[:, first + 1 :] == images[:, first, None]) & real[:, first + 1 :]
        second = np.max(np.where(same, scores[:, first + 1 :], -np.inf), axis=1, initial=-np.inf)
        both = np.where(np.isfinite(second), (scores[:, first] + second) / 2, _SINGLE * scores[:, first])
        best = np.maximum(best, np.where(real[:, first], both, -np.inf))
    return np.where(np.isfinite(best), best, np.nan).astype(np.float32)


def _weighted_mean(scores: Float32, weight: Float32) -> Float32:
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (weight * scores).sum(axis=1) / total, np.nan).astype(np.float32)
