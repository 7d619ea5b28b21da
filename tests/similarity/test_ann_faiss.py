"""The approximate engine: what it lists is right, what it misses is measured, and threads change nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("faiss", reason="needs the extra labelgen[faiss]")

from labelgen.errors import BudgetError, ConfigError
from labelgen.similarity.ann.faiss_engine import FaissEngine
from labelgen.similarity.ann.recall import drawn, exact_keys, listed_scores, recall_by_image, wilson
from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.groups import searched_rows, sides
from labelgen.similarity.sort_keys import PAD_KEY, encode
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, requests_of, unit_rows
from labelgen.testing.oracles import brute_force
from labelgen.types import PAD_ROW, PAD_SCORE, Relation, UInt64


def tuned(engine: FaissEngine, plan: SearchPlan, request: ListRequest) -> tuple[Any, dict[str, Any]]:
    """The index for a request of a plan of one split, and how it was tuned."""
    span = plan.splits[0]
    rows: Any = plan.text if searched_rows(plan, request.relation)[1] == "text" else plan.image
    index, sample = engine.index(rows, 0, rows.shape[0], 10**9), drawn([span], 64, 0, 1)
    return index, engine.tune(plan, index, {request: (sample, *exact_keys(plan, request, sample, [span]))})


def check(engine: FaissEngine, plan: SearchPlan, images: int, least: float = 0.9) -> None:
    """Every entry is a candidate with its exact score, once, in order; and the recall is near its target."""
    for request in plan.requests:
        keys = engine.search(plan, [request], np.arange(images), tuned(engine, plan, request)[0])[request]
        assert (keys[:, 1:] >= keys[:, :-1]).all()
        whole = brute_force(plan, ListRequest(request.relation, 4000, request.aggregation))
        for row, line in enumerate(keys):
            listed = line[line != PAD_KEY]
            assert len(set(listed.tolist())) == len(listed)
            assert np.isin(listed, encode(whole.scores[row], whole.ids[row])).all(), request
        query = sides(plan, request.relation)[0]
        owners = query.images(query.units(0, images))
        exact = encode(whole.scores, whole.ids)
        exact[whole.scores == PAD_SCORE] = PAD_KEY
        means = recall_by_image(keys[:, : request.k], exact, owners)
        assert not len(means) or means.mean() >= least - 0.05, request


@pytest.mark.parametrize("arguments", [{}, {"lists": 20}, {"lists": 20, "codes": "float16"}])
def test_entries_are_right_and_the_recall_is_reached(arguments: dict[str, Any]) -> None:
    sizes = np.random.default_rng(1).integers(0, 6, 300)
    text, image = clustered_rows(int(sizes.sum()), 64, seed=1), clustered_rows(300, 48, seed=2)
    text[np.random.default_rng(2).permutation(len(text))[:40]] = 0
    engine = FaissEngine(recall=0.9, **arguments)
    check(engine, plan_of("text", sizes, requests_of(TEXT_RELATIONS), text=text), 300)
    check(engine, plan_of("image", sizes, requests_of([Relation.I2I]), image=image), 300)
    both = clustered_rows(300 + int(sizes.sum()), 64, seed=3)
    requests = requests_of([Relation.I2T, Relation.T2I])
    check(engine, plan_of("cross", sizes, requests, image=both[:300], text=both[300:]), 300)


def test_means_and_few_and_dead_rows() -> None:
    text = clustered_rows(360, 32, seed=4)
    check(FaissEngine(), plan_of("text", [3] * 120, requests_of(TEXT_RELATIONS, (5,), "mean"), text=text), 120, 0.5)
    for count, dim in ((1, 3), (2, 16), (40, 10)):
        rows = clustered_rows(2 * count, dim, seed=count)
        check(
            FaissEngine(lists=5), plan_of("text", [2] * count, requests_of(TEXT_RELATIONS, (1, 64)), text=rows), count
        )
    dead = plan_of("image", [0] * 20, requests_of([Relation.I2I], (2,)), image=np.zeros((20, 8), np.float16))
    check(FaissEngine(), dead, 20)


def test_threads_and_a_file_change_nothing(tmp_path: Path) -> None:
    text = unit_rows(np.random.default_rng(0).standard_normal((3000, 64)))
    plan = plan_of("text", [3] * 1000, requests_of(TEXT_RELATIONS), text=text)
    engine, found, before = FaissEngine(lists=60), [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            file = io.BytesIO()
            engine.write(tuned(engine, plan, plan.requests[0])[0], file)
            (tmp_path / "index").write_bytes(file.getvalue())
            keys = engine.search(plan, plan.requests, np.arange(1000), engine.read(tmp_path / "index"))
            found.append((file.getvalue(), *(keys[request].tobytes() for request in plan.requests)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_more_recall_costs_more_probes() -> None:
    text = unit_rows(np.random.default_rng(0).standard_normal((1500, 64)))
    plan = plan_of("text", [3] * 500, requests_of([Relation.T2T]), text=text)
    engines = [FaissEngine(recall=recall, lists=40) for recall in (0.5, 0.8, 0.97)]
    how = [tuned(engine, plan, plan.requests[0])[1] for engine in engines]
    assert [item["probes"] for item in how] == sorted({item["probes"] for item in how})
    assert [item["recall"] >= recall for item, recall in zip(how, (0.5, 0.8, 0.97), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("rows", "dim", "factory"),
    [
        (1_000_000, 384, "IVF4000,PQ192x4fs"),
        (1_000_000, 768, "IVF4000,PQ256x4fs"),
        (10_000, 383, "IVF400,SQfp16"),
        (10_000, 2048, "IVF400,SQfp16"),
        (4000, 384, "IDMap,Flat"),
    ],
)
def test_the_index_depends_on_rows_and_numbers(rows: int, dim: int, factory: str) -> None:
    assert FaissEngine().factory(rows, dim) == factory


@pytest.mark.parametrize(
    "arguments", [{"recall": 0}, {"recall": 1.2}, {"sample": 0}, {"lists": -1}, {"probes": -1}, {"codes": "pq8"}]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        FaissEngine(**arguments)


def test_an_index_that_does_not_fit_is_refused() -> None:
    plan = plan_of("image", [0] * 100, requests_of([Relation.I2I]), image=clustered_rows(100, 32, seed=1))
    with pytest.raises(BudgetError, match="cannot hold the index"):
        FaissEngine().index(plan.image, 0, 100, 1000)  # type: ignore[arg-type]


def test_scores_of_listed_candidates() -> None:
    text = clustered_rows(30, 16, seed=1)
    plan = plan_of("text", [3] * 10, requests_of(TEXT_RELATIONS, (4,)), text=text)
    for request in plan.requests:
        whole = brute_force(plan, request)
        ids = whole.ids[:3, ::-1].copy()
        ids[0, 1] = PAD_ROW
        expected = whole.scores[:3, ::-1].copy()
        expected[0, 1] = PAD_SCORE
        assert listed_scores(plan, request, np.arange(3), ids).tolist() == expected.tolist()


def keys(*rows: Sequence[tuple[float, int]]) -> UInt64:
    found = np.full((len(rows), max(map(len, rows))), PAD_KEY)
    for place, row in enumerate(rows):
        scores, ids = np.array([score for score, _ in row], np.float32), np.array([number for _, number in row], int)
        found[place, : len(row)] = encode(scores, ids)
    return found


def test_recall_by_hand() -> None:
    exact = keys([(0.9, 1), (0.8, 2), (0.7, 3), (0.6, 4)], [(0.9, 1)], [])
    found = keys([(0.9, 1), (0.7, 3), (0.6, 4), (0.5, 5)], [(0.9, 1)], [])
    assert recall_by_image(found, exact, np.array([0, 1, 2])).tolist() == [3 / 4, 1.0]
    assert recall_by_image(found[:, :2], exact, np.array([5, 5, 5])).tolist() == [3 / 4]  # the mean of 1/2 and 1
    ties = keys([(0.8, 2), (0.8, 3), (0.8, 4)])  # which of equal candidates is listed does not matter
    assert recall_by_image(ties, keys([(0.9, 1), (0.8, 2), (0.8, 3)]), np.array([0])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("mean", "count", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (1.0, 1000, 0.9962, 1.0), (0.95, 1000, 0.9347, 0.9619), (0.0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_of_the_textbook(mean: float, count: int, low: float, high: float) -> None:
    assert wilson(mean, count) == pytest.approx((low, high), abs=1e-4)


def test_drawn_images() -> None:
    assert drawn([(0, 5), (8, 10)], 99, 0, 1).tolist() == [0, 1, 2, 3, 4, 8, 9]
    first, again, other = drawn([(0, 500)], 20, 0, 1), drawn([(0, 500)], 20, 0, 1), drawn([(0, 500)], 20, 0, 2)
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert first.tolist() != other.tolist()
