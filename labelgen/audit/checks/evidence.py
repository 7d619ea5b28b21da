"""Evidence that a caption describes an image, for any pairs.

==============  =====================================================================================================
`set_top2`      mean of the two largest similarities of the caption with the image's captions, itself left out, of one
                text teacher, or the mean over text teachers; `set_max` and `set_mean` beside it
`sets`          similarity of the two images' caption sets: cosine of their mean rows (of an own pair: of the caption
                with the mean of the others)
`images`        similarity of the two photographs, after the mean of all photographs was taken away
`around`        similarity of the caption with the captions of the photographs most similar to the image, both centred:
                what the neighbours of the image, found by sight alone, are called
`crowding`      how high the image's own list of captions is on average: an image that is near to everything (a hub)
                is near to this caption too
`length`        natural logarithm of one plus the words of the caption: the more it says, the more can be wrong
`cross`         plain similarity by a cross-modal teacher, where there is one; the mean over such teachers
==============  =====================================================================================================

NaN stands for evidence that a pair does not have: no photograph, no second caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from labelgen.audit.corpus_view import Lists, View, pieces, unit
from labelgen.types import Bool, Float32, Int64

#: Name of a piece of evidence -> its values, float32 [n].
Evidence: TypeAlias = Mapping[str, Float32]

#: Photographs around an image whose captions are asked, and the temperature of their weights.
AROUND, AROUND_TEMPERATURE = 32, 0.1


class Witness:
    """Computes evidence for pairs of a corpus; what all pairs share is computed once.

    Args:
        view: the corpus.
        words: words of every caption, [n_captions].
        i2t: lists of captions of every image, for `crowding`.
    """

    def __init__(self, view: View, words: Int64, i2t: Lists | None) -> None:
        self._view = view
        self._length = np.log1p(words).astype(np.float32)
        self._crowding = None if i2t is None else _row_means(i2t)
        self._centroids = {alias: view.centroids(alias) for alias in view.text}
        self._text_means = {alias: view.mean_row(rows) for alias, rows in view.text.items()}
        self._image_means = {alias: view.mean_row(rows) for alias, rows in view.image.items()}

    def of(self, images: Int64, captions: Int64) -> dict[str, Float32]:
        """Evidence for pairs (images[n], captions[n]); every array is float32 [n]."""
        found = self._set_similarities(images, captions)
        found["sets"] = self._mean(self._sets(alias, images, captions) for alias in self._view.text)
        found["images"] = self._mean(self._images(alias, images, captions) for alias in self._view.image)
        found["around"] = self._mean(self._around(alias, images, captions) for alias in self._view.text)
        found["crowding"] = _nothing(len(images)) if self._crowding is None else self._crowding[images]
        found["length"] = self._length[captions]
        found["cross"] = self._mean(self._cross(alias, images, captions) for alias in self._view.cross)
        return {name: _nothing(len(images)) if values is None else values for name, values in found.items()}

    def _set_similarities(self, images: Int64, captions: Int64) -> dict[str, Float32 | None]:
        by_teacher = [self._aggregated(alias, images, captions) for alias in self._view.text]
        return {name: self._mean(found[name] for found in by_teacher) for name in ("set_max", "set_top2", "set_mean")}

    def _aggregated(self, alias: str, images: Int64, captions: Int64) -> dict[str, Float32]:
        """Maximum, mean of the two largest and mean over the image's captions, the caption itself left out."""
        source = self._view.text[alias]
        found = {name: _nothing(len(images)) for name in ("set_max", "set_top2", "set_mean")}
        for here in pieces(np.arange(len(images)), 2 * 4 * (self._view.width + 1) * source.shape[1]):
            rows, real = self._view.sets(images[here])
            real = real & (rows != captions[here, None])
            members = unit(source.take(rows.ravel())).reshape(*rows.shape, -1)
            caption = unit(source.take(captions[here]))
            real = real & np.any(members, axis=2) & np.any(caption, axis=1, keepdims=True)
            scores = np.einsum("nkd,nd->nk", members, caption)
            for name, values in set_aggregates(scores, real).items():
                found[name][here] = values
        return found

    def _sets(self, alias: str, images: Int64, captions: Int64) -> Float32:
        """Cosine of the two mean rows; of an own pair, of the caption with the mean of its siblings."""
        centroids, source = self._centroids[alias], self._view.text[alias]
        owners = self._view.image_of[captions]
        sizes = np.diff(self._view.offsets)
        result = _nothing(len(images))
        for here in pieces(np.arange(len(images)), 4 * 4 * centroids.shape[1]):
            left, right = centroids[images[here]], centroids[owners[here]]
            own = images[here] == owners[here]
            if own.any():
                alone = unit(source.take(captions[here][own]))
                left, right = left.copy(), right.copy()
                left[own] = left[own] * sizes[images[here][own], None] - alone  # the sum of the siblings
                right[own] = alone
                left[own] *= (sizes[images[here][own]] > 1)[:, None]
            result[here] = _cosines(left, right)
        return result

    def _images(self, alias: str, images: Int64, captions: Int64) -> Float32:
        source, mean = self._view.image[alias], self._image_means[alias]
        owners = self._view.image_of[captions]
        result = _nothing(len(images))
        for here in pieces(np.arange(len(images)), 4 * 4 * source.shape[1]):
            left, right = unit(source.take(images[here])), unit(source.take(owners[here]))
            living = left.any(axis=1) & right.any(axis=1)
            result[here] = np.where(living, _cosines(left - mean, right - mean), np.nan)
        return result

    def _around(self, alias: str, images: Int64, captions: Int64) -> Float32 | None:
        if self._view.i2i is None:
            return None
        source, mean = self._view.text[alias], self._text_means[alias]
        asked, place = np.unique(images, return_inverse=True)
        called = called_around(self._view.i2i, self._centroids[alias], asked)
        result = _nothing(len(images))
        for here in pieces(np.arange(len(images)), 4 * 4 * source.shape[1]):
            rows = called[place[here]]
            result[here] = _cosines(
                rows - mean * (rows != 0).any(axis=1)[:, None], unit(source.take(captions[here])) - mean
            )
        return result

    def _cross(self, alias: str, images: Int64, captions: Int64) -> Float32:
        photographs, texts = self._view.cross[alias]
        result = _nothing(len(images))
        for here in pieces(np.arange(len(images)), 4 * 4 * texts.shape[1]):
            result[here] = _cosines(unit(photographs.take(images[here])), unit(texts.take(captions[here])))
        return result

    @staticmethod
    def _mean(parts: Iterable[Float32 | None]) -> Float32 | None:
        """Mean over teachers; None where there is none."""
        arrays = [part for part in parts if part is not None]
        return None if not arrays else np.mean(arrays, axis=0, dtype=np.float32)


def set_aggregates(scores: Float32, real: Bool) -> dict[str, Float32]:
    """Maximum, mean of the two largest and mean of the real entries of every row; NaN where there is none.

    Args:
        scores: [n, k].
        real: which entries count, bool [n, k].
    """
    count = real.sum(axis=1)
    ordered = -np.sort(-np.where(real, scores, -np.inf), axis=1)
    first = ordered[:, 0]
    second = np.where(count > 1, ordered[:, min(1, ordered.shape[1] - 1)], first)
    with np.errstate(invalid="ignore"):
        mean = np.where(real, scores, 0).sum(axis=1) / count
        both = (first + second) / 2
    none = count == 0
    return {
        name: np.where(none, np.nan, values).astype(np.float32)
        for name, values in (("set_max", first), ("set_top2", both), ("set_mean", mean))
    }


def called_around(i2i: Lists, centroids: Float32, images: Int64) -> Float32:
    """What the photographs around each image are called: weighted mean of their captions' mean rows, [n, d].

    Weights are exp(similarity / `AROUND_TEMPERATURE`) of the first `AROUND` of the list; zero rows where it is empty.
    """
    result = np.zeros((len(images), centroids.shape[1]), np.float32)
    for here in pieces(np.arange(len(images)), 4 * AROUND * centroids.shape[1]):
        ids, scores = i2i.ids[images[here], :AROUND], i2i.scores[images[here], :AROUND]
        weights = list_weights(ids >= 0, scores, AROUND_TEMPERATURE)
        result[here] = np.einsum("nk,nkd->nd", weights, centroids[np.maximum(ids, 0)])
    return result


def list_weights(real: Bool, scores: Float32, temperature: float) -> Float32:
    """Softmax of the real scores of every row, [n, k]; rows without a real entry are zero."""
    best = np.max(np.where(real, scores, -np.inf), axis=1, keepdims=True, initial=-np.inf)
    shifted = np.where(real, scores - np.where(np.isfinite(best), best, 0), -np.inf)
    weights = np.exp(shifted / temperature)
    total = weights.sum(axis=1, keepdims=True)
    result: Float32 = (weights / np.where(total == 0, 1, total)).astype(np.float32)
    return result


def _row_means(lists: Lists) -> Float32:
    real = lists.ids >= 0
    with np.errstate(invalid="ignore"):
        means = np.where(real, lists.scores, 0).sum(axis=1) / real.sum(axis=1)
    result: Float32 = means.astype(np.float32)
    return result


def _cosines(left: Float32, right: Float32) -> Float32:
    """Cosine of left[i] with right[i]; NaN where a row is zero."""
    products = np.einsum("nd,nd->n", left, right)
    lengths = np.sqrt(np.einsum("nd,nd->n", left, left) * np.einsum("nd,nd->n", right, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, products / lengths, np.nan).astype(np.float32)


def _nothing(count: int) -> Float32:
    return np.full(count, np.nan, np.float32)
