"""Every loss as plain loops over float64 numbers, from the formulas of docs/methods.md.

Masked entries are left out of every list. Queries and terms without entries are as the losses define them. For matrices
of some dozens of rows, not for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Scores and labels of the candidates of one query that count: score, label, position.
Candidates: TypeAlias = list[tuple[float, float, int]]
#: Loss of one query: of the score of its pair, and its negatives.
QueryLoss: TypeAlias = Callable[[float, Candidates], float]


def triplet_hard_negative(scores: ArrayLike, *, margin: float = 0.2, where: ArrayLike | None = None) -> float:
    """Hinge of the hardest negative."""
    return _pairs(scores, where, lambda positive, others: _hinge(max(s - positive + margin for s, _, _ in others)))


def triplet_soft_negative(
    scores: ArrayLike,
    *,
    margin: float = 0.2,
    temperature: float = 0.01,
    form: str = "softplus",
    where: ArrayLike | None = None,
) -> float:
    """Soft maximum of the negatives."""

    def loss(positive: float, others: Candidates) -> float:
        terms = [(s - positive + margin) / temperature for s, _, _ in others]
        if form == "softplus":
            return temperature * _log_sum_exp([0.0, *terms])
        return _hinge(temperature * _log_sum_exp(terms))

    return _pairs(scores, where, loss)


def sel_hn_triplet(
    scores: ArrayLike, *, margin: float = 0.2, epsilon: float = 0.01, where: ArrayLike | None = None
) -> float:
    """Mean hinge where the score of the pair and hardest negative are near, else the hardest hinge."""

    def loss(positive: float, others: Candidates) -> float:
        hinges = [_hinge(s - positive + margin) for s, _, _ in others]
        near = abs(positive - max(s for s, _, _ in others)) < epsilon
        return sum(hinges) / len(hinges) if near else max(hinges)

    return _pairs(scores, where, loss)


def pairwise_mean_variance(
    scores: ArrayLike,
    positives: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    margin: float = 0.8,
    balance: float = 0.35,
    where: ArrayLike | None = None,
) -> float:
    """Variances of positives and negatives, and the hinge of their means."""
    values = np.asarray(scores, np.float64).ravel()
    kinds = np.asarray(positives, bool).ravel()
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64).ravel()
    counted = np.ones(len(values), bool) if where is None else np.asarray(where, bool).ravel()
    sides = {
        kind: [(v, w) for v, w, k, c in zip(values, weight, kinds, counted, strict=True) if c and bool(k) is kind and w]
        for kind in (True, False)
    }
    total = 0.0
    means = {}
    for kind, items in sides.items():
        if items:
            mass = sum(w for _, w in items)
            means[kind] = sum(v * w for v, w in items) / mass
            total += sum(w * (v - means[kind]) ** 2 for v, w in items) / mass
    if len(means) == 2:
        total += balance * _hinge(margin - (means[True] - means[False]))
    return total


def kendall(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    gap: float = 0.3,
    margin: float = 0.0,
    where: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """Mean violation of all pairs whose labels are more than `gap` apart."""
    halves = []
    for queries in _both(scores, relevance, where, relevance_t2i):
        violations = [
            _hinge(s_k - s_j + margin)
            for candidates in queries
            for s_j, r_j, _ in candidates
            for s_k, r_k, _ in candidates
            if r_j - r_k > gap
        ]
        halves.append(_mean(violations))
    return sum(halves) / 2


def sliding_window_kendall(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    window: int = 8,
    stride: int = 1,
    hard: bool = True,
    top: int = 1,
    margin: float = 0.0,
    min_gap: float = 0.0,
    where: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """Violations of the ends of windows over the candidates sorted by label."""

    def loss(candidates: Candidates) -> float:
        ordered = sorted(candidates, key=lambda item: (-item[1], item[2]))
        violations = []
        for first in range(0, len(ordered) - window + 1, stride):
            (s_hi, r_hi, _), (s_lo, r_lo, _) = ordered[first], ordered[first + window - 1]
            if r_hi - r_lo > min_gap:
                violations.append(_hinge(s_lo - s_hi + margin))
        return _mean(sorted(violations, reverse=True)[:top] if hard else violations)

    return _queries(loss, scores, relevance, where, relevance_t2i)


def smooth_ranks(scores: Sequence[float], temperature: float) -> list[float]:
    """Smooth ranks of one list."""
    return [
        1 + sum(_sigmoid((other - positive) / temperature) for j, other in enumerate(scores) if j != i)
        for i, positive in enumerate(scores)
    ]


def smooth_ndcg(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    temperature: float = 0.01,
    ideal_ties: str = "stable",
    where: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """1 - NDCG with smooth ranks."""

    def loss(candidates: Candidates) -> float:
        ranks = smooth_ranks([s for s, _, _ in candidates], temperature)
        labels = [r for _, r, _ in candidates]
        if ideal_ties == "competition":
            ideal = [1 + sum(other > label for other in labels) for label in labels]
        else:
            order = sorted(range(len(labels)), key=lambda i: (-labels[i], i))
            ideal = [order.index(i) + 1 for i in range(len(labels))]
        best = sum((2**label - 1) / math.log2(1 + rank) for label, rank in zip(labels, ideal, strict=True))
        if best == 0:
            return 0.0
        return 1 - sum((2**label - 1) / math.log2(1 + rank) for label, rank in zip(labels, ranks, strict=True)) / best

    return _queries(loss, scores, relevance, where, relevance_t2i)


def listnet(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    temperature: float = 1.0,
    relevance_temperature: float = 1.0,
    where: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """Cross entropy of the labels' and the scores' softmax."""

    def loss(candidates: Candidates) -> float:
        logs = _log_softmax([s / temperature for s, _, _ in candidates])
        target = _log_softmax([r / relevance_temperature for _, r, _ in candidates])
        return -sum(math.exp(q) * p for q, p in zip(target, logs, strict=True))

    return _queries(loss, scores, relevance, where, relevance_t2i)


def info_nce(
    scores: ArrayLike,
    *,
    image_rows: Sequence[int] | None = None,
    positives: ArrayLike | None = None,
    temperature: float = 0.05,
    reduction: str = "mean",
    where: ArrayLike | None = None,
) -> float:
    """Mean log probability of the positives of every query."""
    values = np.asarray(scores, np.float64)
    if positives is None:
        rows = range(len(values)) if image_rows is None else image_rows
        positives = [[a == b for b in rows] for a in rows]
    halves = []
    for queries in _both(values, np.asarray(positives, np.float64), where, None):
        found = []
        for candidates in queries:
            logs = _log_softmax([s / temperature for s, _, _ in candidates])
            matched = [log for log, (_, positive, _) in zip(logs, candidates, strict=True) if positive]
            if matched:
                found.append(-_mean(matched))
        halves.append(_mean(found) / (max(1, len(found)) if reduction == "cusa" else 1))
    return sum(halves) / 2


def soft_contrastive(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    temperature: float = 0.45,
    relevance_temperature: float = 1.0,
    where: ArrayLike | None = None,
) -> float:
    """KL divergence of the rows."""
    losses = [
        _divergence(candidates, temperature, relevance_temperature)
        for candidates in _rows(scores, relevance, where)
        if candidates
    ]
    return _mean(losses)


def csa(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    relevance_t2i: ArrayLike | None = None,
    temperature: float = 0.45,
    relevance_temperature: float = 1.0,
    where: ArrayLike | None = None,
) -> float:
    """KL divergence of rows and of columns."""

    loss = partial(_divergence, temperature=temperature, relevance_temperature=relevance_temperature)
    return _queries(loss, scores, relevance, where, relevance_t2i)


def usa(
    image_scores: ArrayLike,
    text_scores: ArrayLike,
    image_relevance: ArrayLike,
    text_relevance: ArrayLike,
    *,
    temperature: float = 0.45,
    relevance_temperature: float = 1.0,
    where: ArrayLike | None = None,
) -> float:
    """KL divergence of image-image and of text-text rows."""
    options: dict[str, Any] = {
        "temperature": temperature,
        "relevance_temperature": relevance_temperature,
        "where": where,
    }
    images = soft_contrastive(image_scores, image_relevance, **options)
    return (images + soft_contrastive(text_scores, text_relevance, **options)) / 2


def language_margin(
    scores: ArrayLike,
    relevance: ArrayLike,
    *,
    threshold: float,
    margin: float = 0.2,
    temperature: float = 0.02,
    where: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """Softmax loss with a margin for every negative; the sum of the two directions."""
    beta = 1.0 if threshold == 1 else margin / (1 - threshold)

    def loss(positive: float, others: Candidates) -> float:
        moved = [s + ((1 - r) * beta if r >= threshold else margin) for s, r, _ in others]
        return _log_sum_exp([positive / temperature, *(s / temperature for s in moved)]) - positive / temperature

    return 2 * _pairs(scores, where, loss, relevance, relevance_t2i)


def _both(
    scores: ArrayLike, relevance: ArrayLike, where: ArrayLike | None, relevance_t2i: ArrayLike | None
) -> tuple[list[Candidates], list[Candidates]]:
    """Candidates of every image, and of every caption."""
    values, labels = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    turned = labels.T if relevance_t2i is None else np.asarray(relevance_t2i, np.float64)
    counted = np.ones(values.shape, bool) if where is None else np.asarray(where, bool)
    return _rows(values, labels, counted), _rows(values.T, turned, counted.T)


def _rows(scores: ArrayLike, relevance: ArrayLike, where: ArrayLike | None) -> list[Candidates]:
    values, labels = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    counted: NDArray[np.bool_] = np.ones(values.shape, bool) if where is None else np.asarray(where, bool)
    return [
        [(float(values[q, i]), float(labels[q, i]), i) for i in range(values.shape[1]) if counted[q, i]]
        for q in range(values.shape[0])
    ]


def _queries(
    loss: Callable[[Candidates], float],
    scores: ArrayLike,
    relevance: ArrayLike,
    where: ArrayLike | None,
    relevance_t2i: ArrayLike | None,
) -> float:
    """Mean over the queries of a direction that have a candidate, then over the directions."""
    both = _both(scores, relevance, where, relevance_t2i)
    return sum(_mean([loss(candidates) for candidates in queries if candidates]) for queries in both) / 2


def _pairs(
    scores: ArrayLike,
    where: ArrayLike | None,
    loss: QueryLoss,
    relevance: ArrayLike | None = None,
    relevance_t2i: ArrayLike | None = None,
) -> float:
    """As `_queries` for losses of pairs; queries without a negative are left out."""
    values = np.asarray(scores, np.float64)
    labels = np.zeros(values.shape) if relevance is None else relevance
    halves = []
    for queries in _both(values, labels, where, relevance_t2i):
        found = []
        for query, candidates in enumerate(queries):
            others = [item for item in candidates if item[2] != query]
            if others:
                found.append(loss(float(values[query, query]), others))
        halves.append(_mean(found))
    return sum(halves) / 2


def _divergence(candidates: Candidates, temperature: float, relevance_temperature: float) -> float:
    logs = _log_softmax([s / temperature for s, _, _ in candidates])
    target = _log_softmax([r / relevance_temperature for _, r, _ in candidates])
    return sum(math.exp(q) * (q - p) for q, p in zip(target, logs, strict=True))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _hinge(value: float) -> float:
    return max(0.0, value)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def _log_softmax(values: Sequence[float]) -> list[float]:
    total = _log_sum_exp(values) if values else 0.0
    return [value - total for value in values]
