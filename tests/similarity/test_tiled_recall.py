"""Measured recall: by hand, against brute force, and never better than it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labelgen.similarity.ann.recall import Sampled, by_image, drawn, recalls, tuned, wilson
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.sort_keys import PAD_KEY, encode
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, wants_of
from labelgen.testing.oracles import brute_force
from labelgen.types import PAD_SCORE, Relation, UInt64


def _keys(*rows: list[tuple[float, int]]) -> UInt64:
    width = max(len(row) for row in rows)
    keys = np.full((len(rows), width), PAD_KEY)
    for place, row in enumerate(rows):
        keys[place, : len(row)] = encode(
            np.array([score for score, _ in row], np.float32), np.array([n for _, n in row])
        )
    return keys


def test_recall_by_hand() -> None:
    exact = _keys([(0.9, 1), (0.8, 2), (0.7, 3), (0.6, 4)], [(0.9, 1)], [])
    found = _keys([(0.9, 1), (0.7, 3), (0.6, 4), (0.5, 9)], [(0.9, 1)], [])
    assert recalls(found, exact, 4)[:2].tolist() == [3 / 4, 1.0]
    assert recalls(found, exact, 2)[:2].tolist() == [1 / 2, 1.0]
    assert np.isnan(recalls(found, exact, 4)[2])
    assert recalls(np.full((1, 4), PAD_KEY), exact[:1], 4).tolist() == [0.0]


def test_which_of_equal_candidates_is_listed_does_not_matter() -> None:
    exact = _keys([(0.9, 1), (0.8, 2), (0.8, 3)])
    assert recalls(_keys([(0.9, 1), (0.8, 7), (0.8, 8)]), exact, 3).tolist() == [1.0]
    assert recalls(_keys([(0.8, 7), (0.8, 8), (0.8, 9)]), exact, 3).tolist() == [1.0]
    assert recalls(_keys([(0.9, 1), (0.8, 7), (0.79, 8)]), exact, 3).tolist() == [2 / 3]


def test_an_image_counts_once_however_many_captions_it_has() -> None:
    values, images = np.array([1.0, 0.0, 0.5, np.nan, np.nan]), np.array([3, 3, 7, 7, 9])
    assert by_image(values, images).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("mean", "count", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (1.0, 1000, 0.9962, 1.0), (0.95, 1000, 0.9347, 0.9619), (0.0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_of_the_textbook(mean: float, count: int, low: float, high: float) -> None:
    assert wilson(mean, count) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_covers_the_true_recall_of_skewed_queries() -> None:
    draw = np.random.default_rng(0)
    population = np.where(draw.random(20_000) < 0.15, draw.random(20_000), 1.0)  # most queries are easy, a few are not
    inside = 0
    for _ in range(400):
        sample = draw.choice(population, 200)
        low, high = wilson(float(sample.mean()), len(sample))
        inside += low <= population.mean() <= high
    assert inside >= 380


def test_probes_are_raised_until_the_recall_is_reached_and_then_less_is_fetched() -> None:
    tried = []

    def evaluate(probes: int, fetch: int) -> float:
        tried.append((probes, fetch))
        return min(1 - 1 / probes, 0.5 if fetch < 20 else 1.0)

    assert tuned(0.9, 100, 10, evaluate) == (11, 20, 1 - 1 / 11)
    assert tried == [(4, 80), (7, 80), (11, 80), (11, 10), (11, 20)]


def test_a_recall_that_cannot_be_reached_is_told_as_it_is() -> None:
    assert tuned(0.9, 50, 10, lambda probes, fetch: min(0.6, probes / 20))[2] == 0.6
    assert tuned(0.9, 3, 10, lambda probes, fetch: 0.25) == (3, 10, 0.25)


def test_drawn_images() -> None:
    assert drawn([(0, 5), (8, 10)], 99, 0, 1).tolist() == [0, 1, 2, 3, 4, 8, 9]
    first, again, other = drawn([(0, 500)], 20, 0, 1), drawn([(0, 500)], 20, 0, 1), drawn([(0, 500)], 20, 0, 2)
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert first.tolist() != other.tolist()
    apart = drawn([(0, 500)], 100, 0, 2, without=first)
    assert len(apart) == 100
    assert not set(apart.tolist()) & set(first.tolist())


@pytest.mark.parametrize("engine", [ReferenceEngine(), TiledEngine(least_rows=1)])
@pytest.mark.parametrize("scope", ["split", "cross"])
def test_a_sample_is_searched_exactly(engine: ReferenceEngine | TiledEngine, scope: str) -> None:
    sizes = np.random.default_rng(5).integers(0, 5, 130)
    sizes[7] = 40
    text, image = clustered_rows(int(sizes.sum()), 32, seed=5), clustered_rows(130, 24, seed=6)
    text[11], image[3] = 0, 0
    splits = [(0, 80), (80, 130)]
    wants = wants_of(TEXT_RELATIONS, (9,), scope=scope)
    _check(engine, plan_of("text", sizes, wants, text=text, splits=splits))
    _check(engine, plan_of("text", sizes, wants_of(TEXT_RELATIONS, (4,), "mean", scope), text=text, splits=splits))
    _check(engine, plan_of("image", sizes, wants_of([Relation.I2I], (9,), scope=scope), image=image, splits=splits))
    both = clustered_rows(130, 32, seed=8)
    cross = plan_of("cross", sizes, wants_of([Relation.I2T, Relation.T2I], (9,), scope=scope), image=both, text=text)
    _check(engine, replace(cross, splits=tuple(splits)))


def _check(engine: ReferenceEngine | TiledEngine, plan: SearchPlan) -> None:
    images = np.array([0, 3, 7, 8, 79, 80, 101, 129])
    sampled = Sampled(plan, images)
    strips = sampled.strips()
    for number, want in enumerate(plan.wants):
        expected = brute_force(plan, want)
        queries, _ = sampled.queries(want, images)
        found = np.full((len(queries), want.k + 1), PAD_KEY)
        for first, last, span in strips:
            part = Sampled(plan, images[first:last])
            here = np.searchsorted(queries, part.queries(want, part.images)[0])
            found[here] = np.minimum(found[here], part.search(engine, 0, last - first, span)[number])
        scores = np.where(expected.ids[queries] == 4294967295, PAD_SCORE, expected.scores[queries])
        np.testing.assert_array_equal(found[:, : want.k], encode(scores, expected.ids[queries]))
