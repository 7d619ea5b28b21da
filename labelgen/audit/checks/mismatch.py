"""Which own pairs look like replaced ones: a model that every store teaches itself.

A caption is taken from its place and another caption of the split is put there, on paper, 20,000 times. A logistic
regression learns what tells the places as they are from the replaced ones; its log-odds, turned round, is the score of
every real pair. No judgement of people is needed, and a share of wrong pairs in the data does not mislead it: the wrong
ones look like replaced ones, wherever they stand. The share is estimated, siblings and neighbours that look replaced
lose their weight, and everything is done once more.

=============  ======================================================================================================
`siblings`     similarity of the caption with the weighted mean of its siblings, the other captions of its image
`sibling_top2` mean of its two largest similarities with siblings
`sibling_mean` weighted mean of its similarities with siblings
`elsewhere`    its largest similarity with another image: mean over its two nearest captions there (three quarters of
               the similarity, where only one is near): a swapped caption finds its own image again
`around`       its similarity with the captions of the photographs most similar to its image
`sight`        weighted mean similarity of its image with the photographs of the captions nearest to it
=============  ======================================================================================================

Rows are unit rows with the mean row of the corpus taken away. NaN stands for what a pair does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.audit.checks.evidence import AROUND_TEMPERATURE, called_around, list_weights
from labelgen.audit.checks.logistic import PIECES, judge
from labelgen.audit.corpus_view import Source, View, need, pieces, unit
from labelgen.types import Bool, Float32, Int64

#: Replaced pairs that the model learns from, and the seed they are drawn with.
SAMPLE, SEED = 20_000, 20221105
#: Nearest captions that are asked for `elsewhere` and `sight`.
_NEAREST = 24
_ALONE = 0.75
#: Photographs are held in memory, centred, up to this size.
_HELD_BYTES = 512 << 20


@dataclass(frozen=True)
class Findings:
    """What the model says of every pair it was asked about.

    Attributes:
        captions: caption rows, int64 [n].
        score: log-odds that the caption was replaced, float32 [n]; larger is worse.
        suspicion: share of replaced captions among such pairs, if errors are captions swapped at random, float32 [n].
        evidence: the pieces, float32 [n] each.
        noise: estimated share of wrong pairs in the corpus.
    """

    captions: Int64
    score: Float32
    suspicion: Float32
    evidence: dict[str, Float32]
    noise: float


@dataclass(frozen=True)
class _Raw:
    """Similarities that do not depend on the weights of captions.

    Attributes:
        places, captions: the caption row whose place is judged, and the caption that stands there, [n].
        images: the image of the place, [n].
        rows, real: the other captions of the image [n, width], and which exist.
        scores: their similarities with the caption, [n, width].
        near, near_real, near_scores: the nearest captions on other images, [n, k].
        sight: similarity of their photographs with the image's, [n, k]; None without photographs.
    """

    places: Int64
    captions: Int64
    images: Int64
    rows: Int64
    real: Bool
    scores: Float32
    near: Int64
    near_real: Bool
    near_scores: Float32
    sight: Float32 | None


class Replaced:
    """The model of one corpus.

    Args:
        view: the corpus.
        text, image: teachers; the first ones without.

    Raises:
        ConfigError: nothing but the caption itself is known: no text teacher, or neither siblings nor photographs.
    """

    def __init__(self, view: View, *, text: str | None = None, image: str | None = None) -> None:
        need(view.text, "text teacher", "build it with one: --add-teacher text=minilm()")
        self._view = view
        self._alias = text or next(iter(view.text))
        self._text = view.text[self._alias]
        self._photos = view.image.get(image or next(iter(view.image), "")) if view.i2i is not None else None
        need(
            view.width > 1 or (self._photos is not None and view.t2t is not None),
            "second caption an image, nor photographs with lists i2i and t2t",
            "own pairs are judged by one or the other: add an image teacher",
        )
        self._mean = view.mean_row(self._text)
        self._photo_mean = None if self._photos is None else view.mean_row(self._photos)
        self._held: Float32 | None = None
        if self._photos is not None and self._photo_mean is not None and _bytes(self._photos) <= _HELD_BYTES:
            # every photograph is asked for many times: centred once, it is looked up from then on
            self._held = _without(self._photos, np.arange(view.n_images), self._photo_mean)

    def find(self, *, rounds: int = 2) -> Findings:
        """Judge all own pairs whose caption has an embedding."""
        view = self._view
        living = np.flatnonzero(self._living())
        draw = np.random.default_rng(SEED)
        own, replaced = self._raw(living, living), self._raw(*self._draw(living, draw))
        weights = np.zeros(view.n_captions, np.float32)
        weights[living] = 1
        for _ in range(rounds):
            around = self._around(weights)
            evidence = self._pieces(own, weights, around)
            against = self._pieces(replaced, weights, around)
            odds, suspicion, noise = judge(evidence, against, weights[living])
            weights[living] = 1 - suspicion
        return Findings(living, -odds, suspicion, evidence, noise)

    def _living(self) -> Bool:
        living = np.zeros(self._view.n_captions, np.bool_)
        for here in pieces(np.arange(self._view.n_captions), 4 * self._text.shape[1]):
            living[here] = np.asarray(self._text.take(here)).any(axis=1)
        return living

    def _draw(self, living: Int64, draw: np.random.Generator) -> tuple[Int64, Int64]:
        """Places and the captions of other images of the same split that are put there."""
        view = self._view
        split = view.split_of[view.image_of[living]]
        places = draw.integers(0, len(living), SAMPLE)
        first = np.searchsorted(split, split[places], side="left")
        last = np.searchsorted(split, split[places], side="right")
        captions = living[first + (draw.random(SAMPLE) * (last - first)).astype(np.int64)]
        foreign = view.image_of[captions] != view.image_of[living[places]]
        return living[places][foreign], captions[foreign]

    def _raw(self, places: Int64, captions: Int64) -> _Raw:
        parts = [self._raw_piece(places[here], captions[here]) for here in self._ranges(len(places))]
        need(parts, "living caption", "the store is empty")
        joined = {
            name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
            for name in _Raw.__dataclass_fields__
        }
        return _Raw(**joined)  # type: ignore[arg-type]

    def _ranges(self, count: int) -> list[Int64]:
        wide = 0 if self._photos is None else 6 * self._photos.shape[1]
        return list(pieces(np.arange(count), 4 * (2 * self._view.width * self._text.shape[1] + wide)))

    def _raw_piece(self, places: Int64, captions: Int64) -> _Raw:
        view = self._view
        images = view.image_of[places]
        rows, real = view.sets(images)
        real = real & (rows != places[:, None])
        caption = self._centred(captions)
        members = self._centred(rows.ravel()).reshape(*rows.shape, -1)
        real = real & np.any(members, axis=2)
        scores = np.einsum("nkd,nd->nk", members, caption)
        near, near_real, near_scores = self._near(images, captions, caption)
        sight = None if self._photos is None else self._sight(images, near, near_real)
        return _Raw(places, captions, images, rows, real, scores, near, near_real, near_scores, sight)

    def _near(self, images: Int64, captions: Int64, caption: Float32) -> tuple[Int64, Bool, Float32]:
        """The captions nearest to the given ones, on other images than the given ones; best first."""
        view = self._view
        if view.t2t is None:
            empty = np.zeros((len(images), 0))
            return empty.astype(np.int64), empty.astype(np.bool_), empty.astype(np.float32)
        listed, scores = view.t2t.ids[captions], view.t2t.scores[captions]
        moved = images != view.image_of[captions]
        if moved.any():
            # A replaced caption has left siblings behind: its list, which holds other images, does not know them.
            rows, real = view.sets(view.image_of[captions])
            real = real & (rows != captions[:, None]) & moved[:, None]
            left = np.einsum(
                "nkd,nd->nk",
                unit(self._text.take(rows.ravel())).reshape(*rows.shape, -1),
                unit(self._text.take(captions)),
            )
            listed = np.concatenate([np.where(real, rows, -1), listed], axis=1)
            scores = np.concatenate([left, scores], axis=1)
        real = (listed >= 0) & (view.image_of[np.maximum(listed, 0)] != images[:, None])
        scores = np.where(real, scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_NEAREST]
        near, found = np.take_along_axis(listed, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return np.maximum(near, 0), np.isfinite(found), found.astype(np.float32)

    def _sight(self, images: Int64, near: Int64, real: Bool) -> Float32:
        if self._photos is None:
            return np.full(near.shape, np.nan, np.float32)
        own, inverse = np.unique(self._view.image_of[near], return_inverse=True)
        place = np.asarray(inverse).reshape(near.shape)
        shown, mine = self._photographs(own), self._photographs(images)
        scores = np.empty(near.shape, np.float32)
        for column in range(near.shape[1]):
            scores[:, column] = np.einsum("nd,nd->n", shown[place[:, column]], mine)
        living = np.any(shown, axis=1, keepdims=True)[place, 0] & np.any(mine, axis=1, keepdims=True)
        return np.where(real & living, scores, np.nan).astype(np.float32)

    def _photographs(self, images: Int64) -> Float32:
        """Centred unit rows of photographs, [n, d]."""
        if self._held is not None:
            return self._held[images]
        if self._photos is None or self._photo_mean is None:
            return np.zeros((len(images), 1), np.float32)
        return _without(self._photos, images, self._photo_mean)

    def _centred(self, captions: Int64) -> Float32:
        return _without(self._text, captions, self._mean)

    def _around(self, weights: Float32) -> Float32 | None:
        """What the photographs around every image are called, centred unit rows [n_images, d]."""
        view = self._view
        if view.i2i is None or self._photos is None:
            return None
        called = called_around(view.i2i, view.centroids(self._alias, weights), np.arange(view.n_images))
        known = called.any(axis=1, keepdims=True)
        return unit(called - self._mean * known)

    def _pieces(self, raw: _Raw, weights: Float32, around: Float32 | None) -> dict[str, Float32]:
        count = len(raw.places)
        found = {name: np.full(count, np.nan, np.float32) for name in PIECES}
        weight = np.where(raw.real, np.maximum(weights[raw.rows], 1e-3), 0)
        found["sibling_mean"], found["sibling_top2"] = _weighted_mean(raw.scores, weight), _top2(raw.scores, raw.real)
        found["elsewhere"] = _elsewhere(self._view.image_of[raw.near], raw.near_scores, raw.near_real)
        for here in self._ranges(count):
            found["siblings"][here] = self._with_mean(raw, weight, here)
            if around is not None:
                rows = around[raw.images[here]]
                cosine = np.einsum("nd,nd->n", rows, self._centred(raw.captions[here]))
                found["around"][here] = np.where(rows.any(axis=1), cosine, np.nan)
        if raw.sight is not None:
            trust = list_weights(raw.near_real, raw.near_scores, AROUND_TEMPERATURE) * weights[raw.near]
            found["sight"] = _weighted_mean(np.nan_to_num(raw.sight), np.where(np.isnan(raw.sight), 0, trust))
        return found

    def _with_mean(self, raw: _Raw, weight: Float32, here: Int64) -> Float32:
        """Cosine of captions with the weighted mean of the siblings of their places."""
        rows = raw.rows[here]
        members = self._centred(rows.ravel()).reshape(*rows.shape, -1)
        mean = np.einsum("nk,nkd->nd", weight[here], members)
        length = np.sqrt(np.einsum("nd,nd->n", mean, mean))
        product = (weight[here] * raw.scores[here]).sum(axis=1)  # the caption is a unit row
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(length > 0, product / length, np.nan).astype(np.float32)


def _bytes(source: Source) -> int:
    return 4 * source.shape[0] * source.shape[1]


def _without(source: Source, rows: Int64, mean: Float32) -> Float32:
    """Unit rows with a mean taken away, unit again; dead rows are zero."""
    wide = unit(source.take(rows))
    return unit(wide - mean * wide.any(axis=1, keepdims=True))


def _weighted_mean(scores: Float32, weight: Float32) -> Float32:
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (weight * scores).sum(axis=1) / total, np.nan).astype(np.float32)


def _top2(scores: Float32, real: Bool) -> Float32:
    ordered = -np.sort(-np.where(real, scores, -np.inf), axis=1)[:, :2]
    known = np.isfinite(ordered)
    total = np.where(known, ordered, 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known.any(axis=1), total / known.sum(axis=1), np.nan).astype(np.float32)


def _elsewhere(owners: Int64, scores: Float32, real: Bool) -> Float32:
    """Per row, the largest over images of the mean of the two best scores there; one alone counts three quarters."""
    if not scores.shape[1]:
        return np.full(len(scores), np.nan, np.float32)
    best = np.full(len(scores), -np.inf)
    for first in range(scores.shape[1]):
        same = (owners[:, first + 1 :] == owners[:, first, None]) & real[:, first + 1 :]
        second = np.max(np.where(same, scores[:, first + 1 :], -np.inf), axis=1, initial=-np.inf)
        both = np.where(np.isfinite(second), (scores[:, first] + second) / 2, _ALONE * scores[:, first])
        best = np.maximum(best, np.where(real[:, first], both, -np.inf))
    return np.where(np.isfinite(best), best, np.nan).astype(np.float32)
