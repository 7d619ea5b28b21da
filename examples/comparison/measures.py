"""Measures of kept runs, with a paired bootstrap over images and seeds.

A measure gives, for one run, its value on the data and in every replicate, which draws images with replacement and
takes all their queries or pairs. A configuration's figure is the mean over its seeds; a replicate also draws the
seeds. All configurations see the same draws, so that differences have intervals too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from labelgen.audit.card.measures import Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import JudgedPairs

#: Arrays that were kept of a run, by name.
Kept: TypeAlias = Mapping[str, np.ndarray]
#: Kept arrays and draws of images [1 + replicates, images] -> values [1 + replicates].
Function: TypeAlias = Callable[[Kept, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A number of a run between 0 and 1, and how many images stand behind it."""

    name: str
    images: int
    function: Function


def retrieval(owner: np.ndarray, prefix: str = "", levels: Sequence[int] = (1, 5, 10)) -> list[Measure]:
    """Recall at `levels` in both directions, their mean, and text to text."""
    images = int(owner.max()) + 1
    measures = [
        Measure(f"{direction} R@{level}", images, _recall(f"{prefix}{direction}", level, owner))
        for direction in ("i2t", "t2i", "t2t")
        for level in (levels if direction != "t2t" else levels[:1])
    ]
    crossing = [measure for measure in measures if not measure.name.startswith("t2t")]
    mean = Measure("mean recall", images, lambda kept, counts: _mean_of(crossing, kept, counts))
    return [*measures, mean]


def human(pairs: JudgedPairs, half: str | None, name: str) -> list[Measure]:
    """Agreement with people, on one half of the judged images (or all): `name` says who they are."""
    chosen = np.ones(len(pairs), bool) if half is None else pairs.first_half == (half == "first")
    foreign = chosen & ~pairs.annotated
    file = pairs.judgements.name
    return [
        _spearman(f"{name} Spearman", f"{file}.cross", pairs, chosen),
        _spearman(f"{name} Spearman, foreign", f"{file}.cross", pairs, foreign),
        _ndcg(f"{name} nDCG", f"{file}.cross", pairs, chosen),
        _spearman(f"{name} Spearman, texts", f"{file}.texts", pairs, foreign),
        _spearman(f"{name} Spearman, images", f"{file}.images", pairs, foreign),
    ]


def figures(measure: Measure, runs: Mapping[str, Sequence[Kept]], replicates: int) -> dict[str, Figure]:
    """The figure of every configuration, from its runs in the order of their seeds."""
    counts = draw_images(measure.images, replicates)
    draw = np.random.default_rng(1)
    drawn: dict[int, np.ndarray] = {}
    found = {}
    for name, kept in runs.items():
        values = np.stack([measure.function(run, counts) for run in kept])
        seeds = len(kept)
        if seeds not in drawn:
            drawn[seeds] = draw.integers(0, seeds, (replicates, seeds))
        again = values[:, 1:][drawn[seeds].T, np.arange(replicates)].mean(axis=0)
        found[name] = Figure.of(np.concatenate([[values[:, 0].mean()], again]))
    return found


def value(measure: Measure, kept: Kept) -> float:
    """The measure of one run."""
    return float(measure.function(kept, np.ones((1, measure.images), np.int64))[0])


def _recall(key: str, level: int, owner: np.ndarray) -> Function:
    def recall(kept: Kept, counts: np.ndarray) -> np.ndarray:
        ranks = kept[key]
        images = np.arange(len(ranks)) if key.endswith("i2t") else owner
        there = ranks > 0
        hits = np.bincount(images[there], ranks[there] <= level, counts.shape[1])
        queries = np.bincount(images[there], minlength=counts.shape[1])
        found: np.ndarray = counts @ hits / (counts @ queries)
        return found

    return recall


def _mean_of(measures: Sequence[Measure], kept: Kept, counts: np.ndarray) -> np.ndarray:
    mean: np.ndarray = np.mean([measure.function(kept, counts) for measure in measures], axis=0)
    return mean


def _spearman(name: str, key: str, pairs: JudgedPairs, chosen: np.ndarray) -> Measure:
    part = pairs.take(chosen)

    def spearman(kept: Kept, counts: np.ndarray) -> np.ndarray:
        found = agreement_figures(kept[key][chosen], part.ratings, part.groups, counts, measures=("spearman",))
        figure = found["spearman"]
        return np.concatenate([[figure.value], figure.replicates])

    return Measure(name, part.n_groups, spearman)


def _ndcg(name: str, key: str, pairs: JudgedPairs, chosen: np.ndarray) -> Measure:
    """Mean over images of the nDCG of their judged captions; the gain is the rating, from 0 for the least to 1."""
    part = pairs.take(chosen)
    least, most = pairs.ratings.min(), pairs.ratings.max()
    gains = (part.ratings - least) / (most - least)

    def ndcg(kept: Kept, counts: np.ndarray) -> np.ndarray:
        reached = discounted(kept[key][chosen], gains, part.groups)
        ideal = discounted(gains, gains, part.groups)
        there = ideal > 0
        found: np.ndarray = counts[:, there] @ (reached[there] / ideal[there]) / counts[:, there].sum(axis=1)
        return found

    return Measure(name, part.n_groups, ndcg)


def discounted(scores: np.ndarray, gains: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum of gain / log2(1 + rank) of every group, ranked by score."""
    order = np.lexsort((-scores, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)])) + 1
    return np.bincount(groups[order], gains[order] / np.log2(1 + rank))
