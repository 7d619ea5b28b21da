"""The two directions of a loss: rows of the scores are images, rows of their transpose are captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labelgen.losses import _checks
from labelgen.losses._namespace import beside, identity, namespace_of, wide
from labelgen.losses._types import Array, Namespace


@dataclass(frozen=True)
class Half:
    """One direction: n queries against m candidates.

    Attributes:
        xp: the array library.
        scores: float32 or float64 [n, m]; 0 where an entry does not count.
        where: entries that count, bool [n, m].
        relevance: of the dtype of the scores, [n, m]; 0 where an entry does not count. None for losses without.
        positive: score of every query's candidate of the same pair, [n]; None where the scores are not of pairs.
        whole: whether every entry counts for certain, so that nothing needs a copy.
    """

    xp: Namespace
    scores: Array
    where: Array
    relevance: Array = None
    positive: Array = None
    whole: bool = False

    @property
    def counted(self) -> Array:
        """Queries with an entry that counts, bool [n]."""
        return self.xp.any(self.where, axis=1)


def of_pairs(
    scores: Array, where: Array | None, relevance: Array | None = None, relevance_t2i: Array | None = None
) -> tuple[Half, Half]:
    """Both directions of a square batch whose diagonal are the positive pairs: `where` without the diagonal.

    Raises:
        ArrayError: wrong shapes or types; in debug mode wrong values.
    """
    _checks.matrix("scores", scores, square=True)
    xp = namespace_of("scores", scores)
    scores = wide(xp, scores)
    positive = xp.linalg.diagonal(scores)
    others = ~identity(xp, scores)
    if where is not None:
        others = others & _mask(scores, where)
    _checks.finite("scores", scores, others)
    _checks.finite("scores of positive pairs", positive)
    return _halves(xp, scores, others, relevance, relevance_t2i, positive)


def of_matrix(scores: Array, where: Array | None, relevance: Array, relevance_t2i: Array | None) -> tuple[Half, Half]:
    """Both directions of scores of A images and B captions.

    Raises:
        ArrayError: wrong shapes or types; in debug mode wrong values.
    """
    _checks.matrix("scores", scores, square=False)
    xp = namespace_of("scores", scores)
    scores = wide(xp, scores)
    whole = where is None
    where = xp.ones_like(scores, dtype=xp.bool) if where is None else _mask(scores, where)
    _checks.finite("scores", scores, where)
    return _halves(xp, scores, where, relevance, relevance_t2i, whole=whole)


def mean_of_both(loss: Callable[[Half], Array], halves: tuple[Half, Half]) -> Array:
    """(loss of image-to-text + loss of text-to-image) / 2."""
    return (loss(halves[0]) + loss(halves[1])) / 2


def _halves(
    xp: Namespace,
    scores: Array,
    where: Array,
    relevance: Array | None,
    relevance_t2i: Array | None,
    positive: Array = None,
    *,
    whole: bool = False,
) -> tuple[Half, Half]:
    if not whole:
        scores = xp.where(where, scores, xp.zeros_like(scores))
    turned, where_t2i = xp.matrix_transpose(scores), xp.matrix_transpose(where)
    first = second = None
    if relevance is not None:
        first = _labels("relevance", scores, relevance, where, whole)
        second = xp.matrix_transpose(first)
    if relevance_t2i is not None:
        second = _labels("relevance_t2i", turned, relevance_t2i, where_t2i, whole)
    return Half(xp, scores, where, first, positive, whole), Half(xp, turned, where_t2i, second, positive, whole)


def _labels(name: str, scores: Array, relevance: Array, where: Array, whole: bool) -> Array:
    _checks.shaped(name, relevance, scores.shape)
    xp = namespace_of("scores", scores)
    labels = beside(name, scores, relevance, scores.dtype)
    _checks.finite(name, labels, where)
    return labels if whole else xp.where(where, labels, xp.zeros_like(labels))


def _mask(scores: Array, where: Array) -> Array:
    _checks.mask("where", where, scores.shape)
    return beside("where", scores, where, namespace_of("scores", scores).bool)
