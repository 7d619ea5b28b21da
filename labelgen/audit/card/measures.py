"""Agreement of labels with ratings: Spearman, Kendall, AUC, average precision, with intervals over images.

Pairs of one image are not independent, so intervals come from a bootstrap over images: a replicate gives every image a
count, and every pair the count of its image. All measures are therefore defined for pairs with multiplicities w_i (a
pair drawn twice is two tied pairs). With W = sum w and the midrank of a pair

    a_i = sum of w_j with s_j < s_i  +  half the sum of w_j with s_j = s_i

they are, for scores s and ratings r (b_i are the midranks of the ratings):

* Spearman's rho: the weighted Pearson correlation of a and b;
* AUC: 1/2 + sum over right pairs of w_i (2 a_i - W) / (2 P N), with P and N the weights of right and wrong pairs;
* average precision: the sum over distinct scores, from the highest down, of precision times the gain in recall;
* Kendall's tau-b: (concordant - discordant) / sqrt(pairs not tied in s * pairs not tied in r), bit by bit of the
  rating's level: two pairs are compared at the highest bit in which their levels differ.

Weights are counts, so every sum is a whole number and exact.

With all w_i = 1 they equal `scipy.stats.spearmanr`, `kendalltau`, `sklearn.metrics.roc_auc_score` and
`average_precision_score`, which the tests compare them with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from labelgen.types import Bool, Float64, Int64

MEASURES = ("spearman", "kendall", "auc", "average_precision")
#: Level of the intervals.
CONFIDENCE = 0.95
#: Share of the replicates in which a measure must be defined to have an interval.
_DEFINED = 0.95
#: Weights of replicates that are worked on at once: 1 MiB, which stays in a second-level cache.
_PIECE = 1 << 17


@dataclass(frozen=True)
class Figure:
    """A measure: its value, the ends of its interval (NaN without one), and its value in every replicate."""

    value: float
    low: float
    high: float
    replicates: Float64 = field(repr=False, compare=False)

    @classmethod
    def of(cls, values: Float64) -> Figure:
        """Make a figure of the value on the data itself, first, and those of the replicates.

        Without replicates, or where the measure is undefined in more than one of twenty, there is no interval.
        """
        tail = (1 - CONFIDENCE) / 2
        rest = values[1:][np.isfinite(values[1:])]
        enough = rest.size and rest.size >= _DEFINED * (len(values) - 1)
        low, high = np.quantile(rest, [tail, 1 - tail]) if enough else (np.nan, np.nan)
        return cls(float(values[0]), float(low), float(high), values[1:])

    def lead_over(self, other: Figure) -> Figure:
        """Return the difference to another figure of the same replicates, with its interval."""
        return Figure.of(np.concatenate([[self.value - other.value], self.replicates - other.replicates]))

    def to_json(self) -> dict[str, float | None]:
        """Return value and ends; null where it is not defined."""
        return {
            name: float(value) if np.isfinite(value) else None
            for name, value in (("value", self.value), ("low", self.low), ("high", self.high))
        }


def draw_images(n_images: int, replicates: int, seed: int = 0) -> Int64:
    """Draw counts of images: int64 [1 + replicates, n_images]; the first row is all ones (the data itself).

    Of a single image there is nothing to draw: only the first row, [1, n_images].
    """
    if n_images < 2:
        return np.ones((1, n_images), np.int64)
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(n_images, np.full(n_images, 1 / n_images), size=replicates)
    return np.concatenate([np.ones((1, n_images), np.int64), counts])


def agreement_figures(
    scores: Float64,
    ratings: Float64,
    images: Int64,
    counts: Int64,
    *,
    right: Bool | None = None,
    measures: Collection[str] = MEASURES,
) -> dict[str, Figure]:
    """Compute measures of one label.

    Args:
        scores: of the pairs, [n]; finite.
        ratings: of people, [n].
        images: number of the image of every pair, [n], below `counts.shape[1]`.
        counts: of `draw_images`.
        right: pairs that people call right, [n]; without it AUC and average precision are not defined (NaN).
        measures: names of `MEASURES`; Kendall's tau takes most of the time.
    """
    compared = _Compared(scores, ratings, images, right)
    drawn = counts.astype(np.float64)
    rows = max(1, _PIECE // max(1, len(scores)))
    pieces = [compared.measures(drawn[start : start + rows], measures) for start in range(0, len(counts), rows)]
    return {name: Figure.of(np.concatenate([piece[name] for piece in pieces])) for name in measures}


def mean_figures(values: Float64, images: Int64, counts: Int64) -> Figure:
    """Compute the mean of one value a query: of a replicate, the mean over the queries of its images.

    Args:
        values: of the queries, [q].
        images: number of the image of every query, [q], below `counts.shape[1]`.
        counts: of `draw_images`.
    """
    sums = np.bincount(images, weights=values, minlength=counts.shape[1])
    numbers = np.bincount(images, minlength=counts.shape[1])
    return Figure.of((counts @ sums) / (counts @ numbers))


class _Compared:
    """Pairs sorted by score, once for all replicates."""

    def __init__(self, scores: Float64, ratings: Float64, images: Int64, right: Bool | None) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = np.asarray(scores, np.float64)[order]
        self.images = np.asarray(images)[order]
        self.right = None if right is None else np.flatnonzero(np.asarray(right, bool)[order])
        new = np.ones(len(ordered), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.starts = np.flatnonzero(new)
        self.group = np.cumsum(new) - 1
        level: Int64 = np.unique(np.asarray(ratings, np.float64)[order], return_inverse=True)[1]
        self.by_level = np.argsort(level, kind="stable")
        self.level_starts = np.flatnonzero(np.diff(level[self.by_level], prepend=-1))
        self.bits = [_Bit.of(level, bit, self.group) for bit in range(int(level.max()).bit_length())]

    def measures(self, counts: Float64, wanted: Collection[str]) -> Mapping[str, Float64]:
        """Return measures for replicates [r, n_images]; [r] each, NaN where it is not defined."""
        weights = np.take(counts, self.images, axis=1)
        midranks, tied = self._midranks(weights)
        total = weights.sum(axis=1)
        right = self.right
        made: dict[str, Callable[[], Float64]] = {
            "spearman": lambda: self._spearman(weights, midranks, total),
            "kendall": lambda: self._kendall(weights, total, tied),
            "auc": lambda: nothing if right is None else self._auc(weights, midranks, total, right),
            "average_precision": lambda: nothing if right is None else self._precision(weights, right),
        }
        nothing = np.full(len(counts), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: made[name]() for name in wanted}

    def _by_score(self, weights: Float64) -> Float64:
        """Return sums over equal scores, [r, n_scores]."""
        if len(self.starts) == weights.shape[1]:
            return weights
        sums: Float64 = np.add.reduceat(weights, self.starts, axis=1)
        return sums

    def _by_rating(self, values: Float64) -> Float64:
        """Return sums over equal ratings, [r, n_levels]."""
        sums: Float64 = np.add.reduceat(np.take(values, self.by_level, axis=1), self.level_starts, axis=1)
        return sums

    def _midranks(self, weights: Float64) -> tuple[Float64, Float64]:
        """Return a_i [r, n], and the sum of t^2 over groups of equal scores [r]."""
        mass = self._by_score(weights)
        ranks = np.cumsum(mass, axis=1) - mass / 2
        tied: Float64 = np.einsum("rg,rg->r", mass, mass)
        return (ranks if ranks.shape == weights.shape else np.take(ranks, self.group, axis=1)), tied

    def _spearman(self, weights: Float64, midranks: Float64, total: Float64) -> Float64:
        middle = total[:, None] / 2  # the mean midrank, of scores and ratings alike
        mass = self._by_rating(weights)
        ranks = np.cumsum(mass, axis=1) - mass / 2 - middle
        spread = midranks - middle
        weighted = weights * spread
        product = (ranks * self._by_rating(weighted)).sum(axis=1)
        scale = np.einsum("rn,rn->r", weighted, spread) * (mass * ranks**2).sum(axis=1)
        result: Float64 = product / np.sqrt(scale)
        return result

    def _auc(self, weights: Float64, midranks: Float64, total: Float64, right: Int64) -> Float64:
        chosen = np.take(weights, right, axis=1)
        positive = chosen.sum(axis=1)
        lead = (chosen * (2 * np.take(midranks, right, axis=1) - total[:, None])).sum(axis=1)
        result: Float64 = 0.5 + lead / (2 * positive * (total - positive))
        return result

    def _precision(self, weights: Float64, right: Int64) -> Float64:
        """Return the precision at the score of every right pair, averaged by weight."""
        above = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]  # this pair and those of higher scores
        chosen = np.take(weights, right, axis=1)
        hits = np.cumsum(chosen[:, ::-1], axis=1)[:, ::-1]
        first = self.starts[self.group[right]]  # equal scores are counted together
        place = np.searchsorted(right, first)
        drawn = np.take(above, first, axis=1)
        shares = np.divide(np.take(hits, place, axis=1), drawn, out=np.zeros_like(chosen), where=drawn > 0)
        result: Float64 = (chosen * shares).sum(axis=1) / chosen.sum(axis=1)
        return result

    def _kendall(self, weights: Float64, total: Float64, tied: Float64) -> Float64:
        mass = self._by_rating(weights)
        lead = sum((bit.lead(weights) for bit in self.bits), np.zeros(len(weights)))
        pairs = (total**2 - tied) / 2 * ((total**2 - (mass**2).sum(axis=1)) / 2)
        result: Float64 = lead / np.sqrt(pairs)
        return result


@dataclass(frozen=True)
class _Bit:
    """One bit of the levels, which splits pairs with equal higher bits into lower-rated and higher-rated ones.

    Attributes:
        lower: lower-rated pairs, by their higher bits and then by score.
        higher: higher-rated pairs.
        below, within: numbers of `lower` ones, from the first, with a smaller score than each higher one, and with one
            that is not larger.
        first, last: numbers of `lower` ones before those with the same higher bits, and up to the last of them.
    """

    lower: Int64
    higher: Int64
    below: Int64
    within: Int64
    first: Int64
    last: Int64

    @classmethod
    def of(cls, level: Int64, bit: int, group: Int64) -> _Bit:
        """Sort pairs whose levels and groups of equal scores are given by score."""
        order = np.argsort(level >> (bit + 1), kind="stable")
        high = (level[order] >> bit) & 1 == 1
        lower, higher = order[~high], order[high]
        # one key for both orders: higher bits, then score
        width = int(group[-1]) + 1
        key, wanted = ((level[rows] >> (bit + 1)) * width + group[rows] for rows in (lower, higher))
        begin = (level[higher] >> (bit + 1)) * width
        places = (np.searchsorted(key, values, side="left") for values in (wanted, wanted + 1, begin, begin + width))
        return cls(lower, higher, *places)

    def lead(self, weights: Float64) -> Float64:
        """Return concordant minus discordant weight of the pairs that this bit compares, [r]."""
        sums = np.zeros((len(weights), len(self.lower) + 1))
        np.cumsum(np.take(weights, self.lower, axis=1), axis=1, out=sums[:, 1:])
        balance = np.take(sums, self.below, axis=1)  # weight below, minus weight above, of each higher-rated pair
        for places, sign in ((self.within, 1), (self.first, -1), (self.last, -1)):
            balance += sign * np.take(sums, places, axis=1)
        lead: Float64 = np.einsum("rn,rn->r", np.take(weights, self.higher, axis=1), balance)
        return lead
