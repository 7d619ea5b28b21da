from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelgen.errors import ConfigError, LabelgenError, StoreError
from labelgen.similarity import error_bounds, torch_lists
from labelgen.similarity import torch as torch_engine
from labelgen.similarity.exact import block_similarity, self_dots
from labelgen.similarity.torch import TorchEngine
from labelgen.testing.engines import (
    TEXT_RELATIONS,
    EngineSuite,
    assert_equals_brute_force,
    clustered_rows,
    plan_of,
    unit_rows,
    wants_of,
)
from labelgen.types import Relation


class TestTorchEngine(EngineSuite):
    def make(self) -> TorchEngine:
        return TorchEngine()


class TestTorchEngineWithSmallTiles(EngineSuite):
    """Many tiles for every list, and lists with hardly a place to spare: most of what can go wrong happens here."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_engine, "_BLOCK", 40)
        monkeypatch.setattr(torch_engine, "_TILE", 90)
        monkeypatch.setattr(torch_lists, "SLACK", 2)

    def make(self) -> TorchEngine:
        return TorchEngine()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestTorchEngineOnCuda(EngineSuite):
    def make(self) -> TorchEngine:
        return TorchEngine("cuda")


def facts_of(plan: Any) -> dict[str, Any]:
    engine = TorchEngine()
    (strip,) = engine.schedule(plan)
    (partial,) = engine.search(plan, strip)
    return dict(partial.facts)


def adversarial_rows(kind: str, count: int, dim: int, draw: np.random.Generator) -> np.ndarray:
    """Rows that are as hard as can be for a float32 search."""
    base = draw.standard_normal((1, dim))
    noise = draw.standard_normal((count, dim))
    if kind == "one float16 step apart":
        values = unit_rows(base).astype(np.float64) * (1 + 2.0**-11 * draw.integers(-1, 2, (count, dim)))
    elif kind == "near ties":
        values = base + 10.0 ** draw.uniform(-6, -2) * noise
    elif kind == "anisotropic":
        values = noise * 10.0 ** draw.uniform(-4, 0, dim) + 5 * np.eye(dim)[0]
    elif kind == "cancelling":
        values = np.abs(base) * draw.choice([-1.0, 1.0], (count, dim))
    elif kind == "subnormal":
        values = np.where(draw.random((count, dim)) < 0.7, draw.integers(-9, 10, (count, dim)) * 2.0**-24, noise)
    elif kind == "duplicates":
        values = noise[draw.integers(0, max(2, count // 40), count)]
    else:
        values = noise
    values[np.abs(values).max(axis=1) == 0, 0] = 1
    rows = unit_rows(values)
    rows[draw.random(count) < 0.03] = 0
    return rows


KINDS = ["one float16 step apart", "near ties", "anisotropic", "cancelling", "subnormal", "duplicates", "random"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([2, 5, 33, 384, 1500]),
    k=st.integers(1, 5),
    slack=st.sampled_from([0, 1, 64]),
    tile=st.sampled_from([30, 100, 1000]),
    aggregation=st.sampled_from(["max", "mean"]),
)
def test_no_rows_break_the_certificate(
    kind: str, seed: int, dim: int, k: int, slack: int, tile: int, aggregation: str
) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 6, 75)
    text = adversarial_rows(kind, int(sizes.sum()), dim, draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_lists, "SLACK", slack)
        patch.setattr(torch_engine, "_TILE", tile)
        plan = plan_of("text", sizes, wants_of(TEXT_RELATIONS, (k,), aggregation), text=text)
        assert_equals_brute_force(TorchEngine(), plan)


@pytest.mark.parametrize("dim", [3, 384, 1024, 1025, 5000])
@pytest.mark.parametrize("kind", ["one float16 step apart", "anisotropic", "cancelling", "random"])
def test_the_bound_holds_in_the_worst_order_of_a_sum(kind: str, dim: int) -> None:
    rows = adversarial_rows(kind, 40, dim, np.random.default_rng(dim))
    rows = rows[self_dots(rows) > 0]
    unit = rows.astype(np.float32) * (1 / np.sqrt(self_dots(rows))).astype(np.float32)[:, None]
    exact = block_similarity(rows, rows)
    for i, x in enumerate(unit):
        products = x * unit
        order = np.argsort(products, axis=1)  # all negative numbers first: the largest partial sums
        worst = np.take_along_axis(products, order, axis=1)
        panels = [worst[:, start : start + error_bounds.PANEL] for start in range(0, dim, error_bounds.PANEL)]
        computed = np.cumsum([np.cumsum(panel, axis=1)[:, -1] for panel in panels], axis=0)[-1]
        assert np.abs(computed.astype(np.float64) - exact[i]).max() <= error_bounds.product_bound(dim)


def test_bounds_by_hand() -> None:
    step = 2.0**-24
    # 384 roundings of the sum, two for each unit row, one for the result; squares of 2^-24 do not count here.
    assert error_bounds.product_bound(384) == pytest.approx((384 + 4 + 1) * step, rel=1e-4)
    assert error_bounds.product_bound(37_632) == pytest.approx((1024 + 36 + 4 + 1) * step, rel=1e-4)
    assert error_bounds.mean_bound(384, 5) == pytest.approx((384 + 4 + 1 + 5 + 1) * step, rel=1e-4)


def test_facts_say_what_was_proven() -> None:
    text = clustered_rows(600, 64, seed=1)
    facts = facts_of(plan_of("image", [0] * 600, wants_of([Relation.I2I], (10,)), image=text))
    assert facts["bound"] == error_bounds.product_bound(64)
    assert 0 < facts["largest_error"] <= facts["bound"]
    assert facts["margin"] > 0
    assert facts["fell_back"] == 0
    assert 11 * 600 <= facts["rescored"] < 13 * 600  # k + 1 and the few that are nearly as good


def test_rows_with_more_ties_than_places_fall_back() -> None:
    rows = clustered_rows(600, 64, seed=2)
    rows[:200] = rows[0]
    facts = facts_of(plan_of("image", [0] * 600, wants_of([Relation.I2I], (10,)), image=rows))
    assert facts["fell_back"] >= 200
    few = clustered_rows(600, 64, seed=2)
    few[:60] = few[0]
    assert facts_of(plan_of("image", [0] * 600, wants_of([Relation.I2I], (10,)), image=few))["fell_back"] == 0


def test_only_captions_that_may_be_the_best_of_their_image_are_scored() -> None:
    text = clustered_rows(1000, 64, seed=3)
    facts = facts_of(plan_of("text", [5] * 200, wants_of([Relation.T2I], (10,)), text=text))
    assert facts["rescored"] < 13 * 1000
    facts = facts_of(plan_of("text", [5] * 200, wants_of([Relation.T2I], (10,), "mean"), text=text))
    assert facts["rescored"] >= 11 * 5 * 1000


def test_an_error_beyond_the_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_bounds, "product_bound", lambda dim: 1e-9)
    plan = plan_of("image", [0] * 300, wants_of([Relation.I2I], (5,)), image=clustered_rows(300, 64, seed=4))
    with pytest.raises(LabelgenError, match="less precise than float32"):
        facts_of(plan)


def test_reduced_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return out.copy_((x.bfloat16() @ y.bfloat16()).float())

    monkeypatch.setattr(torch, "mm", rounded)
    plan = plan_of("image", [0] * 300, wants_of([Relation.I2I], (5,)), image=clustered_rows(300, 64, seed=5))
    with pytest.raises(ConfigError, match="not computed in float32"):
        facts_of(plan)


def test_autocast_of_the_caller_changes_nothing() -> None:
    plan = plan_of("text", [2] * 150, wants_of(TEXT_RELATIONS, (5,)), text=clustered_rows(300, 64, seed=5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equals_brute_force(TorchEngine(), plan)


def test_rows_that_are_not_unit_are_refused() -> None:
    rows = clustered_rows(300, 64, seed=6)
    rows[17] = np.nan
    with pytest.raises(StoreError, match="rows 17 "):
        facts_of(plan_of("image", [0] * 300, wants_of([Relation.I2I], (5,)), image=rows))


def test_read_only_rows_are_searched(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", clustered_rows(300, 64, seed=7))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    plan = plan_of("text", [2] * 150, wants_of(TEXT_RELATIONS, (5,)), text=mapped)
    assert_equals_brute_force(TorchEngine(), plan)


def test_threads_change_nothing() -> None:
    plan = plan_of("text", [3] * 200, wants_of(TEXT_RELATIONS, (10,)), text=clustered_rows(600, 384, seed=8))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_equals_brute_force(TorchEngine(), plan)
    finally:
        torch.set_num_threads(before)


MEASURE = """
import sys, threading, time
import numpy as np
from labelgen.similarity.torch import TorchEngine
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, wants_of

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def watch():
    while running:
        peaks.append(anonymous())
        time.sleep(0.002)

budget = int(sys.argv[1])
np.save(sys.argv[2], clustered_rows(9000, 128, seed=1))
rows = np.load(sys.argv[2], mmap_mode="r")
engine = TorchEngine()
small = plan_of("text", [3] * 600, wants_of(TEXT_RELATIONS), text=rows[:1800].copy(), memory=budget)
list(engine.search(small, engine.schedule(small)[0]))  # what libraries allocate once
plan = plan_of("text", [3] * 3000, wants_of(TEXT_RELATIONS, (20,)), text=rows, memory=budget)
before, peaks, running = anonymous(), [], True
thread = threading.Thread(target=watch)
thread.start()
for strip in engine.schedule(plan)[:3]:
    list(engine.search(plan, strip))
running = False
thread.join()
print(max(peaks) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads anonymous memory from /proc")
def test_a_search_call_keeps_its_budget(tmp_path: Path) -> None:
    budget = 40_000_000
    arguments = [sys.executable, "-c", MEASURE, str(budget), str(tmp_path / "rows.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= budget
