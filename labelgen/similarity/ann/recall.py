"""How much an approximate search finds, measured: some images are searched exactly, and lists are compared.

*Recall@k* of a query is the part of its k nearest that its list holds. An entry counts where it is at least as similar
as the k-th nearest, so it does not matter which of several equal candidates is listed. The recall of an image is the
mean over its query rows (itself, or its captions); images are drawn at random, and the mean over them is reported with
a Wilson interval. That interval is made for coins: recalls of an image lie between 0 and 1, so it is never too narrow
for their spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelgen.similarity.base import Engine, ListRequest, Rows, SearchPlan, Strip
from labelgen.similarity.groups import cut, rows_of, sides
from labelgen.similarity.sort_keys import PAD_KEY, decode, merge
from labelgen.similarity.tiles import STRIP_WORK
from labelgen.types import PAD_SCORE, Float16, Float64, Int64, UInt64

#: Quantile of the normal distribution for 95 %.
_Z = 1.959964
#: Query rows of one strip of an exact search of a sample.
_STRIP_ROWS = 1024
#: Probes that are tried first, and how much more each time.
_FIRST_PROBES, _GROWTH = 4, 1.5
#: A step that gains less than this ends the search for probes: more of them would not help.
_GAIN = 2e-4


def recalls(found: UInt64, exact: UInt64, k: int) -> Float64:
    """Recall@k of every query; NaN where there is nothing to find.

    Args:
        found, exact: sorted keys [n, at least k] with exact scores.
    """
    scores, _ = decode(exact[:, :k])
    there = (scores > PAD_SCORE).sum(axis=1)
    floor = np.take_along_axis(scores, np.maximum(there - 1, 0)[:, None], 1)
    listed, _ = decode(found[:, :k])
    hits = ((listed >= floor) & (listed > PAD_SCORE)).sum(axis=1)
    part: Float64 = np.where(there > 0, np.minimum(hits, there) / np.maximum(there, 1), np.nan)
    return part


def by_image(values: Float64, images: Int64) -> Float64:
    """Mean of the values of every image, NaN values left out; one number an image that has some."""
    known = ~np.isnan(values)
    held, place = np.unique(images[known], return_inverse=True)
    means: Float64 = np.bincount(place, values[known], len(held)) / np.bincount(place, minlength=len(held))
    return means


def wilson(mean: float, count: int) -> tuple[float, float]:
    """95 % interval of a mean of `count` numbers between 0 and 1."""
    if not count:
        return 0.0, 1.0
    scale = 1 + _Z**2 / count
    middle = (mean + _Z**2 / (2 * count)) / scale
    half = _Z / scale * (mean * (1 - mean) / count + _Z**2 / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def tuned(target: float, lists: int, fetch: int, evaluate: Callable[[int, int], float]) -> tuple[int, int, float]:
    """The fewest probes, and then the fewest fetched rows, that reach a recall; (probes, fetch, recall).

    Where more probes gain nothing any more, or there are no more lists, it stays below the target.

    Args:
        fetch: rows to fetch at least; up to eight times as many are tried.
        evaluate: recall of a calibration sample for (probes, fetch).
    """
    probes, before = min(_FIRST_PROBES, lists), -1.0
    while True:
        reached = evaluate(probes, 8 * fetch)
        if reached >= target or probes == lists or reached - before < _GAIN:
            break
        probes, before = min(lists, int(probes * _GROWTH) + 1), reached
    for fewer in (fetch, 2 * fetch, 4 * fetch):
        again = evaluate(probes, fewer)
        if again >= min(target, reached):
            return probes, fewer, again
    return probes, 8 * fetch, reached


def drawn(
    splits: Sequence[tuple[int, int]], count: int, seed: int, purpose: int, without: Int64 | None = None
) -> Int64:
    """`count` images of the given ranges, or all where there are fewer; ascending.

    Those of `without` are not drawn, where enough others are there.
    """
    images = np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in splits)])
    if without is not None and len(images) >= count + len(without):
        images = np.setdiff1d(images, without)
    draw = np.random.default_rng([seed, purpose])
    return np.sort(draw.permutation(images)[:count]).astype(np.int64)


# ------------------------------------------------------------------------------------------------ exactly searched rows


@dataclass(frozen=True)
class _Stacked:
    """Rows `head`, then all of `tail`."""

    head: Float16
    tail: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.head) + self.tail.shape[0], *self.tail.shape[1:]

    def slice(self, start: int, stop: int) -> Float16:
        size = len(self.head)
        if start >= size:
            return self.tail.slice(start - size, stop - size)
        if stop <= size:
            return self.head[start:stop]
        return np.concatenate([self.head[start:], self.tail.slice(0, stop - size)])

    def take(self, rows: Int64) -> Float16:
        inside = rows < len(self.head)
        taken = np.empty((*rows.shape, *self.shape[1:]), np.float16)
        taken[inside] = self.head[rows[inside]]
        taken[~inside] = self.tail.take(rows[~inside] - len(self.head))
        return taken


@dataclass(frozen=True)
class Sampled:
    """An exact search of some images of a plan against its candidates, by any exact engine.

    The sample is put in front of all rows as a split of its own, so that a list of scope `cross` of it has every
    candidate; what belongs to the query's own image is taken out afterwards.

    Attributes:
        plan: whose wants are asked for; only those of scope `split`, or only those of scope `cross`.
        images: query images, ascending.
    """

    plan: SearchPlan
    images: Int64

    def strips(self) -> list[tuple[int, int, tuple[int, int]]]:
        """(first, last, range of candidate images): queries `images[first:last]`, in tasks of some seconds each."""
        plan = self.plan
        sizes = np.maximum(np.diff(plan.offsets), 1) if plan.text is not None else np.ones(len(plan.offsets) - 1, int)
        found = []
        for own in plan.splits:
            low, high = np.searchsorted(self.images, own)
            for first, last in cut(sizes[self.images], int(low), int(high), _STRIP_ROWS):
                rows = int(sizes[self.images[first:last]].sum())
                limit = max(_STRIP_ROWS, int(STRIP_WORK / (2 * plan.dim * rows)))
                for span in self.scope(own):
                    found += [(first, last, part) for part in cut(sizes, *span, limit)]
        return found

    def scope(self, own: tuple[int, int]) -> list[tuple[int, int]]:
        """Ranges of candidate images for queries of a split."""
        if self.plan.wants[0].scope == "split":
            return [own] if own[0] < own[1] else []
        return [span for span in self.plan.splits if span != own and span[0] < span[1]]

    def search(self, engine: Engine, first: int, last: int, span: tuple[int, int]) -> list[UInt64]:
        """Sorted keys [queries, k + 1] of every want, of the queries `images[first:last]` among a range of images."""
        images = self.images[first:last]
        stacked, shifts = self._stacked(images)
        strip = Strip(0, len(images), ((span[0] + len(images), span[1] + len(images)),))
        lists: dict[ListRequest, list[UInt64]] = {}
        for partial in engine.search(stacked, strip):
            lists.setdefault(partial.want, []).append(partial.keys)
        return [
            self._own_left_out(want, images, merge(lists[asked], asked.k + 1), shifts[want.relation.candidate])
            for want, asked in zip(self.plan.wants, stacked.wants, strict=True)
        ]

    def queries(self, want: ListRequest, images: Int64) -> tuple[Int64, Int64]:
        """The query rows of a want that images stand for, and the image of each."""
        if want.relation.query == "image":
            return images, images
        sizes = np.diff(self.plan.offsets)[images]
        return rows_of(self.plan.offsets[images], sizes), np.repeat(images, sizes)

    def _stacked(self, images: Int64) -> tuple[SearchPlan, dict[str, int]]:
        plan, count = self.plan, len(images)
        sizes = np.diff(plan.offsets)[images]
        rows = rows_of(plan.offsets[images], sizes)
        text = None if plan.text is None else _Stacked(plan.text.take(rows), plan.text)
        image = None if plan.image is None else _Stacked(plan.image.take(images), plan.image)
        offsets = np.concatenate([[0], np.cumsum(sizes), len(rows) + plan.offsets[1:]]).astype(np.int64)
        splits = ((0, count), *((start + count, stop + count) for start, stop in plan.splits))
        own = int(sizes.max(initial=1))
        wants = tuple(
            replace(want, k=want.k + (1 if want.relation.candidate == "image" else own), scope="cross")
            for want in plan.wants
        )
        stacked = replace(plan, text=text, image=image, offsets=offsets, splits=splits, wants=wants)
        return stacked, {"text": len(rows), "image": count}

    def _own_left_out(self, want: ListRequest, images: Int64, keys: UInt64, shift: int) -> UInt64:
        listed = keys != PAD_KEY
        keys = np.where(listed, keys - np.uint64(shift), keys)
        _, ids = decode(keys)
        candidate = sides(self.plan, want.relation)[1]
        _, own = self.queries(want, images)
        same = listed & (candidate.images(np.where(listed, ids, 0).astype(np.int64)) == own[:, None])
        return merge([np.where(same, PAD_KEY, keys)], want.k + 1)
