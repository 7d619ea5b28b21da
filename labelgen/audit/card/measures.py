"""Agreement of labels with ratings: Spearman, Kendall, AUC, average precision, with intervals over images.

Pairs of one image are not independent, so intervals come from a bootstrap over images: a replicate gives every image a
count, and every pair the count of its image. All measures are therefore defined for pairs with multiplicities w_i (a
pair drawn twice is two tied pairs). With W = sum w and the midrank of a pair

    a_i = sum of w_j with s_j < s_i  +  half the sum of w_j with s_j = s_i

they are, for scores s and ratings r (b_i are the midranks of the ratings):

* Spearman's rho: the weighted Pearson correlation of a and b;
* AUC: 1/2 + sum over right pairs of w_i (2 a_i - W) / (2 P N), with P and N the weights of right and wrong pairs;
* average precision: the sum over distinct scores, from the highest down, of precision times the gain in recall;
* Kendall's tau-b: (concordant - discordant) / sqrt(pairs not tied in s * pairs not tied in r).

With all w_i = 1 they equal `scipy.stats.spearmanr`, `kendalltau`, `sklearn.metrics.roc_auc_score` and
`average_precision_score`, which the tests compare them with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from labelgen.errors import requires
from labelgen.types import Bool, Float64, Int64

MEASURES = ("spearman", "kendall", "auc", "average_precision")
#: Level of the intervals.
CONFIDENCE = 0.95
#: With more different ratings Kendall's tau is computed by scipy, replicate by replicate.
_MAX_LEVELS = 64
#: Weights of replicates in memory at once.
_PIECE = 4_000_000


@dataclass(frozen=True)
class Figure:
    """A measure: its value, the ends of its interval, and its value in every replicate."""

    value: float
    low: float
    high: float
    replicates: Float64 = field(repr=False, compare=False)

    @classmethod
    def of(cls, values: Float64) -> Figure:
        """Make a figure of the value on the data itself, first, and those of the replicates."""
        tail = (1 - CONFIDENCE) / 2
        rest = values[1:][np.isfinite(values[1:])]
        low, high = np.quantile(rest, [tail, 1 - tail]) if rest.size else (np.nan, np.nan)
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
    """Draw counts of images: int64 [1 + replicates, n_images]; the first row is all ones (the data itself)."""
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
    rows = max(1, _PIECE // max(1, len(scores)))
    pieces = [compared.measures(counts[start : start + rows], measures) for start in range(0, len(counts), rows)]
    return {name: Figure.of(np.concatenate([piece[name] for piece in pieces])) for name in measures}


class _Compared:
    """Pairs sorted by score, once for all replicates."""

    def __init__(self, scores: Float64, ratings: Float64, images: Int64, right: Bool | None) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = np.asarray(scores, np.float64)[order]
        self.scores, self.ratings = ordered, np.asarray(ratings, np.float64)[order]
        self.images = np.asarray(images)[order]
        self.right = None if right is None else np.asarray(right, bool)[order]
        new = np.ones(len(ordered), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.starts = np.flatnonzero(new)
        self.group = np.cumsum(new) - 1
        _, self.level = np.unique(self.ratings, return_inverse=True)
        self.by_level = np.argsort(self.level, kind="stable")
        self.level_starts = np.flatnonzero(np.diff(self.level[self.by_level], prepend=-1))

    def measures(self, counts: Int64, wanted: Collection[str]) -> Mapping[str, Float64]:
        """Return measures for replicates [r, n_images]; [r] each, NaN where it is not defined."""
        weights = counts[:, self.images].astype(np.float64)
        midranks, tied = self._midranks(weights)
        total = weights.sum(axis=1)
        right = self.right
        made: dict[str, Callable[[], Float64]] = {
            "spearman": lambda: self._spearman(weights, midranks, total),
            "kendall": lambda: self._kendall(weights, counts, total, tied),
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
        sums: Float64 = np.add.reduceat(values[:, self.by_level], self.level_starts, axis=1)
        return sums

    def _midranks(self, weights: Float64) -> tuple[Float64, Float64]:
        """Return a_i [r, n], and the sum of t^2 over groups of equal scores [r]."""
        mass = self._by_score(weights)
        ranks = np.cumsum(mass, axis=1) - mass / 2
        tied: Float64 = np.einsum("rg,rg->r", mass, mass)
        return (ranks if ranks.shape == weights.shape else ranks[:, self.group]), tied

    def _spearman(self, weights: Float64, midranks: Float64, total: Float64) -> Float64:
        middle = total[:, None] / 2  # the mean midrank, of scores and ratings alike
        mass = self._by_rating(weights)
        ranks = np.cumsum(mass, axis=1) - mass / 2 - middle
        spread = midranks - middle
        product = (ranks * self._by_rating(weights * spread)).sum(axis=1)
        scale = np.einsum("rn,rn->r", weights, spread * spread) * (mass * ranks**2).sum(axis=1)
        result: Float64 = product / np.sqrt(scale)
        return result

    def _auc(self, weights: Float64, midranks: Float64, total: Float64, right: Bool) -> Float64:
        chosen = weights[:, right]
        positive = chosen.sum(axis=1)
        lead = (chosen * (2 * midranks[:, right] - total[:, None])).sum(axis=1)
        result: Float64 = 0.5 + lead / (2 * positive * (total - positive))
        return result

    def _precision(self, weights: Float64, right: Bool) -> Float64:
        mass, positive = self._by_score(weights), self._by_score(weights * right)
        above = np.cumsum(mass[:, ::-1], axis=1)
        hits = np.cumsum(positive[:, ::-1], axis=1)
        shares = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        result: Float64 = (positive[:, ::-1] * shares).sum(axis=1) / positive.sum(axis=1)
        return result

    def _kendall(self, weights: Float64, counts: Int64, total: Float64, tied: Float64) -> Float64:
        if len(self.level_starts) > _MAX_LEVELS:
            return self._kendall_of_many_levels(counts)
        mass = self._by_rating(weights)
        lead = np.zeros(len(weights))
        for level in range(1, mass.shape[1]):
            lower = self._by_score(weights * (self.level < level))
            # weight of lower-rated pairs with a smaller score, minus that of those with a larger one
            balance = 2 * np.cumsum(lower, axis=1) - lower - lower.sum(axis=1, keepdims=True)
            here = np.flatnonzero(self.level == level)
            lead += (weights[:, here] * balance[:, self.group[here]]).sum(axis=1)
        pairs = (total**2 - tied) / 2 * ((total**2 - (mass**2).sum(axis=1)) / 2)
        result: Float64 = lead / np.sqrt(pairs)
        return result

    def _kendall_of_many_levels(self, counts: Int64) -> Float64:
        with requires("scipy", "audit", "Kendall's tau of ratings with many levels"):
            from scipy.stats import kendalltau
        values = []
        for drawn in counts:
            rows = np.repeat(np.arange(len(self.scores)), drawn[self.images])
            values.append(kendalltau(self.scores[rows], self.ratings[rows]).statistic)
        return np.array(values, np.float64)
