"""Statistics of similarities: quantiles of random pairs, histograms of annotated and of random pairs.

A *random pair* is of two different images of one split, drawn uniformly with a fixed seed; an *annotated pair* is a
caption with its image (the caption itself left out of the image's set), or two captions of one image. Percentile
thresholds are read from the quantiles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.similarity.base import Product, SearchPlan
from labelgen.similarity.caption_sets import pair_row_similarities, pair_set_similarities
from labelgen.similarity.row_order import reorder, row_orders
from labelgen.stages.model import tables
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.search import plan_of
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.kinds import AllCaptions
from labelgen.types import Aggregation, Float32, Int64, Relation

SEED = 20221105
PAIRS = 50_000
_READ_BYTES = 2 << 30
_PIECE_BYTES = 64 << 20
#: Largest number of draws a pair of images: their captions make many pairs.
_PER_PAIR = 4
QUANTILES = (0.0, 0.001, 0.01, 0.05, *(percent / 100 for percent in range(10, 91, 5)), 0.95, 0.99, 0.999, 1.0)
BINS = np.linspace(-1.0, 1.0, 201)


def measure(
    root: Path,
    *,
    corpus: str,
    alias: str,
    product: Product,
    dim: int,
    relation: str,
    aggregation: Aggregation,
    generation: int = 1,
    kinds: Sequence[str] = (),
) -> TaskResult:
    """Sample pairs of one relation, of captions of some kinds or of all, score them exactly and write the table."""
    plan = plan_of(root, corpus, alias, product, [], dim, _PIECE_BYTES, generation, tuple(kinds))
    plan = reorder(plan, row_orders(tables.split_spans(root / corpus), ["split"])[0])
    sampler = _Sampler(plan, Relation(relation), aggregation)
    names = list(tables.splits(root / corpus))
    by_split: dict[str, Any] = {}
    pooled = []
    for name, (start, stop) in zip(names, plan.splits, strict=True):
        random = sampler.random_pairs(start, stop)
        pooled.append(random)
        by_split[name] = {"random": _histogram(random), "own": _histogram(sampler.annotated_pairs(start, stop))}
    values = np.concatenate([np.empty(0, np.float32), *pooled])
    levels = np.quantile(values.astype(np.float64), QUANTILES).tolist() if len(values) else []
    table = {
        "relation": relation,
        "alias": alias,
        "aggregation": aggregation,
        **({"kinds": list(kinds)} if kinds else {}),
        "seed": SEED,
        "pairs": len(values),
        "quantiles": {f"{level:g}": value for level, value in zip(QUANTILES, levels, strict=False)},
        "bins": [round(float(edge), 2) for edge in BINS],
        "splits": by_split,
    }
    data = json.dumps(table, indent=1).encode()
    path = layout.stats_path(Relation(relation), alias, aggregation, generation, kinds)
    return TaskResult((Output(path, *write_atomic(root / path, data)),))


def sample_pairs(plan: SearchPlan, relation: Relation, aggregation: Aggregation) -> tuple[Float32, Float32]:
    """Similarities of random and of annotated pairs of the first split of a plan."""
    sampler, (start, stop) = _Sampler(plan, relation, aggregation), plan.splits[0]
    return sampler.random_pairs(start, stop), sampler.annotated_pairs(start, stop)


@dataclass(frozen=True)
class _Sampler:
    """Draws pairs and scores them as the store defines similarity; pairs with a zero row are dropped."""

    plan: SearchPlan
    relation: Relation
    aggregation: Aggregation

    def random_pairs(self, start: int, stop: int) -> Float32:
        """Similarities of pairs of two different images of the split [start, stop)."""
        count = stop - start
        if count < 2:
            return np.empty(0, np.float32)
        draw = np.random.default_rng([SEED, start])
        first = draw.integers(0, count, min(self._pairs(), _PER_PAIR * count * (count - 1)))
        second = (first + draw.integers(1, count, len(first))) % count
        return self._scored(first + start, second + start, draw)

    def annotated_pairs(self, start: int, stop: int) -> Float32:
        """Similarities of captions with their image; empty for i2i."""
        if self.relation is Relation.I2I or stop <= start:
            return np.empty(0, np.float32)
        draw = np.random.default_rng([SEED, start, 1])
        captions = np.arange(self.plan.offsets[start], self.plan.offsets[stop])
        captions = np.sort(draw.permutation(captions)[: self._pairs()])
        images = np.searchsorted(self.plan.offsets, captions, side="right") - 1
        if self.plan.product == "cross":
            return self._live(self._pairs_of("image", images, "text", captions))
        sizes = np.diff(self.plan.offsets)[images]
        if self.relation is Relation.T2T:
            keep = sizes > 1
            step = draw.integers(1, np.maximum(sizes, 2))
            base = self.plan.offsets[images]
            other = base + (captions - base + step) % np.maximum(sizes, 1)
            return self._live(self._pairs_of("text", captions[keep], "text", other[keep]))
        return self._live(self._sets(images, captions, leave_out=True))

    def _scored(self, first: Int64, second: Int64, draw: np.random.Generator) -> Float32:
        if self.relation is Relation.I2I:
            return self._live(self._pairs_of("image", first, "image", second))
        first_caption, keep_first = self._some_caption(first, draw)
        second_caption, keep_second = self._some_caption(second, draw)
        if self.plan.product == "cross":
            return self._live(self._pairs_of("image", first[keep_second], "text", second_caption[keep_second]))
        keep = keep_first & keep_second
        if self.relation is Relation.T2T:
            return self._live(self._pairs_of("text", first_caption[keep], "text", second_caption[keep]))
        return self._live(self._sets(first[keep], second_caption[keep], leave_out=False))

    def _some_caption(self, images: Int64, draw: np.random.Generator) -> tuple[Int64, np.ndarray[Any, Any]]:
        sizes = np.diff(self.plan.offsets)[images]
        return self.plan.offsets[images] + draw.integers(0, np.maximum(sizes, 1)), sizes > 0

    def _sets(self, images: Int64, captions: Int64, *, leave_out: bool) -> Float32:
        """Similarities of images, as sets of their captions, with captions."""
        rows: Any = self.plan.text
        sets = AllCaptions(self.plan.offsets)
        return pair_set_similarities(rows, sets, images, captions, self.aggregation, itself=not leave_out)

    def _pairs_of(self, side: str, rows: Int64, other: str, columns: Int64) -> Float32:
        return pair_row_similarities(getattr(self.plan, side), rows, getattr(self.plan, other), columns)

    def _pairs(self) -> int:
        """Number of pairs to draw: fewer where rows are very long, so that a table takes seconds at most."""
        return max(1000, min(PAIRS, _READ_BYTES // (4 * self.plan.dim)))

    @staticmethod
    def _live(scores: Float32) -> Float32:
        live: Float32 = scores[np.isfinite(scores)]
        return live


def _histogram(scores: Float32) -> dict[str, Any]:
    counts, _ = np.histogram(np.clip(scores, -1, 1), BINS)
    mean = float(scores.astype(np.float64).mean()) if len(scores) else None
    return {"pairs": len(scores), "mean": mean, "counts": counts.tolist()}
