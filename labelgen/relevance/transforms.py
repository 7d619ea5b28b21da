"""Transforms from similarities to relevance, chosen when a store is read. Pure functions of numpy arrays.

A transform has a text form, so that it can be an argument of a scheme: `"affine"`, `"threshold(percentile=90)"`, or a
list, applied from left to right. Some depend on whole rows (`softmax`, `row_normalise`): a scheme applies these to
the rows of the transpose for the text-to-image half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from labelgen.errors import ArrayError, ConfigError
from labelgen.relevance.base import Quantiles
from labelgen.types import Bool, Float32

#: One text or several, from left to right.
TransformText: TypeAlias = "str | tuple[str, ...]"


@dataclass(frozen=True)
class Context:
    """Facts that a transform may use besides the numbers.

    Attributes:
        positive: the pairs of the batch, bool, of the shape of the numbers.
        where: entries that count, of the same shape.
        quantiles: the table of random pairs; empty unless a transform reads it.
    """

    positive: Bool
    where: Bool
    quantiles: Quantiles


def affine(similarity: Float32, *, scale: float = 0.5, offset: float = 0.5) -> Float32:
    """`scale * x + offset`; by default (1 + x) / 2, which takes [-1, 1] to [0, 1]."""
    return similarity * np.float32(scale) + np.float32(offset)


def relu(similarity: Float32) -> Float32:
    """max(0, x)."""
    return np.maximum(similarity, np.float32(0))


def clip(similarity: Float32, *, low: float = 0.0, high: float = 1.0) -> Float32:
    """x within [low, high]."""
    return np.clip(similarity, np.float32(low), np.float32(high))


def logistic(similarity: Float32, *, scale: float = 10.0, center: float = 0.5) -> Float32:
    """`1 / (1 + exp(-scale (x - center)))`."""
    smooth: Float32 = np.float32(0.5) * (1 + np.tanh((similarity - np.float32(center)) * np.float32(scale / 2)))
    return smooth


def threshold(
    similarity: Float32,
    context: Context,
    *,
    at: float | None = None,
    percentile: float | None = None,
    binary: bool = False,
) -> Float32:
    """x where x >= the threshold, else 0; with `binary`, 1 instead of x.

    Args:
        at: the threshold, or
        percentile: that of random pairs, 0 to 100, by the store's quantile table.

    Raises:
        ConfigError: both or neither.
    """
    if (at is None) == (percentile is None):
        raise ConfigError("threshold takes one of at and percentile", found=f"at={at}, percentile={percentile}")
    limit = np.float32(value_at(context.quantiles, percentile / 100) if percentile is not None else at)
    return np.where(similarity >= limit, np.float32(1) if binary else similarity, np.float32(0))


def percentile(similarity: Float32, context: Context) -> Float32:
    """The share of random pairs that are less similar, in [0, 1], by the store's quantile table (linear between)."""
    return level_of(context.quantiles, similarity)


def softmax(similarity: Float32, context: Context, *, relevance_temperature: float = 1.0) -> Float32:
    """exp(x / relevance_temperature) over the entries that count, rows sum to 1 (to 0 where none counts).

    Raises:
        ConfigError: a temperature that is not positive.
    """
    if not relevance_temperature > 0:
        raise ConfigError(f"relevance_temperature is {relevance_temperature}", expected="a positive number")
    logits = np.where(context.where, similarity / np.float32(relevance_temperature), np.float32(-np.inf))
    top = logits.max(axis=1, keepdims=True, initial=np.finfo(np.float32).min)
    return _rows_to_one(np.exp(logits - top))


def drop_diagonal(similarity: Float32, context: Context) -> Float32:
    """0 at the pairs of the batch (SoftCLIP, before `row_normalise`)."""
    return np.where(context.positive, np.float32(0), similarity)


def mask_above_own(similarity: Float32, *, margin: float = 0.0) -> Float32:
    """x, unchanged; unannotated pairs that look as right as the annotated ones do not count (`SoftLabels.where`).

    Left out is a pair of image a and caption b with s(a, b) > max(own(a), own(b)) - margin: own(a) is the similarity of
    image a with its own caption in the batch, own(b) that of caption b with its image (the largest, if there are
    several), before any transform. An annotated caption must not be compared with itself: `aggregation` `top2`, `sets`
    or `max_other`, or a fusion of such. A positive margin leaves out more. Source of the relative threshold:
    NV-Retriever (Moreira et al. 2024).
    """
    if not np.isfinite(margin):
        raise ConfigError(f"margin is {margin}", expected="a finite number")
    return similarity


def row_normalise(similarity: Float32, context: Context) -> Float32:
    """Divided by the sum of its row over the entries that count; rows that sum to 0 stay 0.

    Raises:
        ConfigError: a negative number, for which shares have no meaning.
    """
    counted = np.where(context.where, similarity, np.float32(0))
    if (counted < 0).any():
        raise ConfigError("row_normalise needs non-negative similarities", todo="put relu, clip or affine before it")
    return _rows_to_one(counted)


def mean(blocks: Sequence[Float32], weights: Sequence[float] | None = None) -> Float32:
    """Weighted arithmetic mean of blocks: of relations, of teachers, of schemes.

    Raises:
        ConfigError: no block, or weights of another number or sum 0.
    """
    total: Any = 0
    for block, share in zip(blocks, _shares(len(blocks), weights), strict=True):
        total = total + block * share
    return np.asarray(total, np.float32)


def geometric_mean(blocks: Sequence[Float32], weights: Sequence[float] | None = None) -> Float32:
    """Weighted geometric mean of the positive parts: `prod [x]+ ** share`; sqrt([A]+ [T]+) for two blocks.

    Raises:
        ConfigError: as `mean`.
    """
    product: Any = np.float32(1)
    for block, share in zip(blocks, _shares(len(blocks), weights), strict=True):
        product = product * relu(block) ** share
    return np.asarray(product, np.float32)


def value_at(table: Quantiles, level: float) -> float:
    """The similarity at a level in [0, 1] of a quantile table, linear between its levels.

    Raises:
        ConfigError: an empty table, or a level outside of it.
    """
    levels, values = _table(table)
    if not levels[0] <= level <= levels[-1]:
        raise ConfigError(f"a level of {level:g}", expected=f"{levels[0]:g} to {levels[-1]:g}")
    return float(np.interp(level, levels, values))


def level_of(table: Quantiles, similarity: Float32) -> Float32:
    """The level of similarities in a quantile table, linear between its values, 0 and 1 outside of them.

    Raises:
        ConfigError: an empty table.
    """
    levels, values = _table(table)
    return np.interp(similarity, values, levels).astype(np.float32)


#: Name in a text -> function, whether it looks at whole rows.
TRANSFORMS: dict[str, Callable[..., Float32]] = {
    function.__name__: function
    for function in (
        *(affine, relu, clip, logistic, threshold, percentile, softmax, drop_diagonal, row_normalise, mask_above_own),
    )
}
BY_ROW = frozenset({"softmax", "row_normalise"})


def _rows_to_one(values: Float32) -> Float32:
    total = values.sum(axis=1, keepdims=True)
    return np.asarray(values / np.where(total == 0, np.float32(1), total), np.float32)


def _shares(count: int, weights: Sequence[float] | None) -> Float32:
    """Weights that sum to 1, [count]."""
    given = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    total = sum(given.tolist())
    if not count or len(given) != count or not total > 0 or min(given) < 0:
        raise ConfigError(
            f"a mean of {count} blocks",
            found=f"weights {given.tolist()}",
            expected="as many weights, none negative, with a sum above 0",
        )
    return np.asarray(given / total, np.float32)


def _table(table: Quantiles) -> tuple[list[float], list[float]]:
    if not table:
        raise ConfigError("there is no quantile table", todo="use a store's labels, or give quantiles=")
    levels = sorted(table)
    return levels, [table[level] for level in levels]


def pair_weights(similarity: Float32, positives: Bool, gamma: float = 1.0) -> Float32:
    """`1 + gamma (1 - s)` for positive, `1 + gamma s` for negative pairs, s = clip(similarity, 0, 1).

    Hard pairs weigh more. labelgen's own definition; gamma = 0 is the loss without labels. Any shape.

    Raises:
        ArrayError: similarities and positives of two shapes.
    """
    share = _share(similarity, positives)
    return np.asarray(1 + np.float32(gamma) * np.where(positives, 1 - share, share), np.float32)


def pair_targets(similarity: Float32, positives: Bool) -> Float32:
    """`(1 + s) / 2` for positive, `s / 2` for negative pairs, s = clip(similarity, 0, 1). labelgen's own definition.

    Raises:
        ArrayError: similarities and positives of two shapes.
    """
    share = _share(similarity, positives)
    return np.asarray(np.where(positives, 1 + share, share) / 2, np.float32)


def _share(similarity: Float32, positives: Bool) -> Float32:
    if similarity.shape != positives.shape:
        raise ArrayError(
            "similarities and positives are not of the same pairs",
            found=f"{similarity.shape} and {positives.shape}",
            expected="one shape",
        )
    return np.clip(similarity, np.float32(0), np.float32(1))
