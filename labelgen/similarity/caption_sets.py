"""Similarity of an image, as the set of its captions, with single captions: for listed pairs, and of two sets.

An annotated caption is in the set of its own image, and would find itself there. `itself=False` leaves it out, and
`pair_sets` always does. With m the mean unit row of a set, it is for an image v and a caption c of image w::

    m_v . m_w / (|m_v| |m_w|)                w is another image
    m_{v-c} . c / (|m_{v-c}| |m_v|)          w = v, and v-c is the set without the caption; at most 1

A mean row is shorter than a caption's by what its captions do not share. The caption of an annotated pair stands for
the mean of its set, so it is divided by the length of that, or annotated pairs would score below others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal, Protocol, TypeAlias

import numpy as np

from labelgen.similarity.exact import aggregate, pair_similarities
from labelgen.types import PAD_SCORE, Float16, Float32, Float64, Int64

#: How the similarities of a caption with the captions of an image become one number.
PairAggregation: TypeAlias = Literal["max", "mean", "top2", "first"]

#: Numbers of gathered embedding rows at once.
_PIECE = 4_000_000


class Sets(Protocol):
    """The captions of image v are `captions(offsets[v] ... offsets[v + 1] - 1)`."""

    @property
    def offsets(self) -> Int64: ...

    def captions(self, places: Int64) -> Int64:
        """Caption rows at places."""
        ...


class TakenRows(Protocol):
    """Embedding rows by number, as they are stored or centered in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def take(self, rows: Int64) -> Float16 | Float32:
        """The given rows, copied."""
        ...


def pair_row_similarities(left: TakenRows, left_rows: Int64, right: TakenRows, right_rows: Int64) -> Float32:
    """Similarity of row left_rows[i] of one array with row right_rows[i] of another, [n]; -inf where one is dead."""
    scores = np.empty(len(left_rows), np.float32)
    for here in _pieces(len(left_rows), left.shape[1]):
        scores[here] = pair_similarities(left.take(left_rows[here]), right.take(right_rows[here]))
    return scores


def pair_set_similarities(
    rows: TakenRows,
    sets: Sets,
    images: Int64,
    captions: Int64,
    how: PairAggregation,
    *,
    itself: bool = False,
) -> Float32:
    """Aggregated similarities of captions[i] with the captions of images[i], [n]; -inf where there is none.

    Args:
        rows: of captions.
        itself: whether an annotated caption is compared with itself, too.
    """
    found = np.empty(len(images), np.float32)
    for here in _pieces(len(images), rows.shape[1]):
        query, wanted = rows.take(captions[here]), captions[here]
        members = [np.full(len(wanted), PAD_SCORE)]  # of images without captions
        for places, rows_there in islice(_members(sets, images[here]), 1 if how == "first" else None):
            kept = np.ones(len(places), np.bool_) if itself else rows_there != wanted[places]
            there, others = places[kept], rows_there[kept]
            scores = np.full(len(wanted), PAD_SCORE)
            scores[there] = pair_similarities(query[there], rows.take(others))
            members.append(scores)
        found[here] = aggregate(members, "max" if how == "first" else how)
    return found


def pair_sets(rows: TakenRows, sets: Sets, images: Int64, captions: Int64, owners: Int64) -> Float32:
    """Similarity of the caption sets of images[i] and owners[i], the image of captions[i], [n]; see the module.

    -inf where a set is empty, and where the caption has no row.
    """
    found = np.empty(len(images), np.float32)
    for here in _pieces(len(images), 4 * rows.shape[1]):
        distinct, place = np.unique(np.concatenate([images[here], owners[here]]), return_inverse=True)
        sums = set_sums(rows, sets, distinct)
        left, right = sums[place[: len(captions[here])]], sums[place[len(captions[here]) :]]
        query = unit64(rows.take(captions[here]))
        annotated = np.flatnonzero(images[here] == owners[here])
        if annotated.size:
            own, caption = images[here][annotated], captions[here][annotated]
            held, living = np.zeros(len(own), np.bool_), np.zeros(len(own), np.int64)
            for there, others in _members(sets, own):
                held[there] |= others == caption[there]
                living[there] += np.any(rows.take(others), axis=1)
            left[annotated] -= query[annotated] * held[:, None]
            mean = np.sqrt(_squares(right[annotated])) / np.maximum(living, 1)
            right[annotated] = query[annotated] * np.where(mean > 0, 1 / np.where(mean > 0, mean, 1), 1)[:, None]
        alive = query.any(axis=1)
        lengths = _squares(right)
        lengths[annotated] = query[annotated].any(axis=1)
        found[here] = _cosines(np.einsum("nd,nd->n", left, right), _squares(left) * alive, lengths)
    return found


def block_sets(rows: TakenRows, sets: Sets, images: Int64, captions: Int64, owners: Int64) -> Float32:
    """`pair_sets` of all pairs of A images and B captions, [A, B]."""
    sums = set_sums(rows, sets, images)
    distinct, place = np.unique(owners, return_inverse=True)
    others = set_sums(rows, sets, distinct)
    alive = np.any(rows.take(captions), axis=1)
    block = _cosines(sums @ others.T, _squares(sums)[:, None], _squares(others)[None, :])[:, place]
    block[:, ~alive] = PAD_SCORE
    same = np.nonzero(images[:, None] == owners[None, :])
    block[same] = pair_sets(rows, sets, images[same[0]], captions[same[1]], owners[same[1]])
    return block


def set_sums(rows: TakenRows, sets: Sets, images: Int64) -> Float64:
    """Sum of the unit rows of the captions of every image, [n, d]."""
    sums = np.zeros((len(images), rows.shape[1]))
    for there, captions in _members(sets, images):
        sums[there] += unit64(rows.take(captions))
    return sums


def unit64(rows: Float16 | Float32 | Float64) -> Float64:
    """Rows of length 1 in float64; zero rows stay zero."""
    wide = rows.astype(np.float64)
    lengths = np.sqrt(_squares(wide))[:, None]
    unit: Float64 = wide / np.where(lengths == 0, 1.0, lengths)
    return unit


def _members(sets: Sets, images: Int64) -> Iterator[tuple[Int64, Int64]]:
    """The first captions of the sets of images, then the second ones ...: places of the images that have one, rows."""
    starts = sets.offsets[images]
    sizes = sets.offsets[images + 1] - starts
    for number in range(int(sizes.max(initial=0))):
        there = np.flatnonzero(number < sizes)
        yield there, sets.captions(starts[there] + number)


def _squares(rows: Float64) -> Float64:
    squares: Float64 = np.einsum("nd,nd->n", rows, rows)
    return squares


def _cosines(products: Float64, left: Float64, right: Float64) -> Float32:
    lengths = np.sqrt(left * right)
    # what is left of a sum after its only row was subtracted is exactly zero
    alive = lengths > 0
    cosines = np.clip(products / np.where(alive, lengths, 1), -1, 1)
    return np.where(alive, cosines, PAD_SCORE).astype(np.float32)


def _pieces(count: int, dim: int) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, dim))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
