"""Evidence that a caption describes an image, for any pairs.

====================  ================================================================================================
`caption_set_top2`    mean of the two largest similarities of the caption with the image's captions, itself left out;
                      `caption_set_max` and `caption_set_mean` are the maximum and the mean
`sets`                similarity of the two images' caption sets: cosine of their mean rows (of an annotated pair: of
                      the caption with the mean of the others, see `labelgen.similarity.caption_sets`)
`images`              similarity of the two images, rows centered
`neighbor_captions`   similarity of the caption with the mean caption of the images most similar to the image, centered
`hubness`             mean similarity in the image's own list of captions: an image that is similar to everything (a
                      hub) is similar to this caption, too
`length`              natural logarithm of one plus the number of words of the caption: longer captions have more
                      details that can be wrong
`cross`               similarity by a cross-modal teacher; of several by the one that tells annotated from random pairs
                      best
====================  ================================================================================================

Rows of texts are centered by the mean row of the train split (of all captions where there is none). With several text
teachers, or image teachers, a piece is the mean over them. NaN is evidence that a pair does not
have: no image embedding, no second caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from labelgen.audit.corpus_view import Centered, NeighborLists, View, or_nan, pieces, unit
from labelgen.similarity.caption_sets import PairAggregation, TakenRows, pair_set_similarities, pair_sets
from labelgen.store.kinds import AllCaptions
from labelgen.types import Bool, Float32, Float64, Int64

#: Name of a piece of evidence -> its values, float32 [n].
Evidence: TypeAlias = Mapping[str, Float32]

#: Neighbors of an image whose captions are averaged, and the temperature of their weights.
NEIGHBORS, NEIGHBOR_TEMPERATURE = 32, 0.1


class PairFeatures:
    """Computes evidence for pairs of a corpus; what all pairs share is computed once.

    Args:
        view: the corpus.
        lengths: `Store.caption_lengths`, [n_captions].
        i2t: lists of captions of every image, for `hubness`.
    """

    def __init__(self, view: View, lengths: Float64, i2t: NeighborLists | None) -> None:
        self._view = view
        self._length = lengths.astype(np.float32)
        self._hubness = None if i2t is None else _row_means(i2t)
        self._centroids = {alias: view.centroids(alias) for alias in view.text}
        self._texts = {alias: view.centered(alias) for alias in view.text}
        self._cross = next(iter(view.cross), None)
        self._images = {alias: Centered.of(rows) for alias, rows in view.image.items()}

    def choose_cross(self, random: tuple[Int64, Int64], annotated: tuple[Int64, Int64]) -> None:
        """Take the cross-modal teacher that tells annotated pairs (images, captions) from random ones best."""
        sources = self._view.cross.values()
        values = [
            np.array([_similarities(left, images, right, captions) for left, right in sources]).T
            for images, captions in (annotated, random)
        ]
        best = separating(*values)
        self._cross = None if best is None else list(self._view.cross)[best]

    def of(self, images: Int64, captions: Int64) -> dict[str, Float32]:
        """Return evidence for the pairs (images[n], captions[n]); every array is float32 [n]."""
        owners = self._view.image_of[captions]
        sets = [self._caption_sets(alias, images, captions) for alias in self._view.text]
        found = {name: [one[name] for one in sets] for name in SET_AGGREGATES}
        found["sets"] = [self._sets(alias, images, captions) for alias in self._view.text]
        found["images"] = [_similarities(rows, images, rows, owners) for rows in self._images.values()]
        found["neighbor_captions"] = [self._neighbors(alias, images, captions) for alias in self._texts]
        found["hubness"] = [] if self._hubness is None else [self._hubness[images]]
        found["length"] = [self._length[captions]]
        cross = () if self._cross is None else self._view.cross[self._cross]
        found["cross"] = [_similarities(cross[0], images, cross[1], captions)] if cross else []
        nothing = np.full(len(images), np.nan, np.float32)
        return {
            name: np.mean(values, axis=0, dtype=np.float32) if values else nothing for name, values in found.items()
        }

    def _caption_sets(self, alias: str, images: Int64, captions: Int64) -> dict[str, Float32]:
        """Return aggregates over the image's captions, the caption itself left out."""
        rows, sets = self._texts[alias], AllCaptions(self._view.offsets)
        return {
            name: or_nan(pair_set_similarities(rows, sets, images, captions, how))
            for name, how in SET_AGGREGATES.items()
        }

    def _sets(self, alias: str, images: Int64, captions: Int64) -> Float32:
        sets, owners = AllCaptions(self._view.offsets), self._view.image_of[captions]
        return or_nan(pair_sets(self._texts[alias], sets, images, captions, owners))

    def _neighbors(self, alias: str, images: Int64, captions: Int64) -> Float32:
        if self._view.i2i is None:
            return np.full(len(images), np.nan, np.float32)
        source = self._texts[alias]
        distinct, place = np.unique(images, return_inverse=True)
        rows = neighbor_rows(self._view.i2i, self._centroids[alias], source.mean, distinct)
        return in_pieces(
            len(images), 4 * rows.shape[1], lambda here: cosines(rows[place[here]], source.take(captions[here]))
        )


#: Aggregates over the captions of an image.
SET_AGGREGATES: Mapping[str, PairAggregation] = {
    "caption_set_max": "max", "caption_set_top2": "top2", "caption_set_mean": "mean",
}  # fmt: skip


def separating(annotated: Float32, others: Float32) -> int | None:
    """Return the column with the largest standardized difference of its means; None without a column."""
    differences = []
    for column, other in zip(annotated.T, others.T, strict=True):
        left, right = column[~np.isnan(column)], other[~np.isnan(other)]
        spread = float(np.sqrt((left.var() + right.var()) / 2)) if len(left) and len(right) else 0.0
        differences.append(float(left.mean() - right.mean()) / spread if spread else -np.inf)
    return int(np.argmax(differences)) if differences else None


def neighbor_rows(i2i: NeighborLists, centroids: Float32, mean: Float32, images: Int64) -> Float32:
    """Return weighted means of the mean caption rows of each image's neighbors, centered unit rows [n, d].

    Weights are exp(similarity / `NEIGHBOR_TEMPERATURE`) of the first `NEIGHBORS` entries of the list; rows are zero
    where it is empty.
    """
    result = np.zeros((len(images), centroids.shape[1]), np.float32)
    for here in pieces(np.arange(len(images)), 4 * NEIGHBORS * centroids.shape[1]):
        ids, scores = i2i.ids[images[here], :NEIGHBORS], i2i.scores[images[here], :NEIGHBORS]
        weights = list_weights(ids >= 0, scores, NEIGHBOR_TEMPERATURE)
        rows = np.einsum("nk,nkd->nd", weights, centroids[np.maximum(ids, 0)])
        result[here] = unit(rows - mean * rows.any(axis=1, keepdims=True))
    return result


def list_weights(real: Bool, scores: Float32, temperature: float) -> Float32:
    """Return the softmax of the real scores of every row, [n, k]; rows without a real entry are zero."""
    best = np.max(np.where(real, scores, -np.inf), axis=1, keepdims=True, initial=-np.inf)
    shifted = np.where(real, scores - np.where(np.isfinite(best), best, 0), -np.inf)
    weights = np.exp(shifted / temperature)
    total = weights.sum(axis=1, keepdims=True)
    result: Float32 = (weights / np.where(total == 0, 1, total)).astype(np.float32)
    return result


def in_pieces(count: int, numbers: int, compute: Callable[[Int64], Float32]) -> Float32:
    """Return float32 [count], computed for pieces of the places; `numbers` is how many floats a place needs."""
    result = np.empty(count, np.float32)
    for here in pieces(np.arange(count), 4 * numbers):
        result[here] = compute(here)
    return result


def cosines(left: Float32, right: Float32) -> Float32:
    """Return the cosine of left[i] with right[i]; NaN where a row is zero."""
    products = np.einsum("nd,nd->n", left, right)
    lengths = np.sqrt(np.einsum("nd,nd->n", left, left) * np.einsum("nd,nd->n", right, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, products / lengths, np.nan).astype(np.float32)


def _similarities(left: TakenRows, left_rows: Int64, right: TakenRows, right_rows: Int64) -> Float32:
    return in_pieces(
        len(left_rows),
        4 * left.shape[1],
        lambda here: cosines(unit(left.take(left_rows[here])), unit(right.take(right_rows[here]))),
    )


def _row_means(lists: NeighborLists) -> Float32:
    real = lists.ids >= 0
    with np.errstate(invalid="ignore"):
        means = np.where(real, lists.scores, 0).sum(axis=1) / real.sum(axis=1)
    result: Float32 = means.astype(np.float32)
    return result
