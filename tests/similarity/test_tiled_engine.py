from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelgen import resources
from labelgen.errors import LabelgenError, StoreError
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.error_bounds import Errors, low_precision_errors
from labelgen.similarity.exact import block_similarity
from labelgen.similarity.tiled import bits, engine, kernels, lists, product
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.similarity.tiled.product import TileProduct, fastest
from labelgen.stages.estimate.calibrate import ShapeOnly
from labelgen.stages.running.worker import search_memory
from labelgen.testing.engines import (
    TEXT_RELATIONS,
    EngineSuite,
    assert_equals_brute_force,
    clustered_rows,
    plan_of,
    requests_of,
    search_all,
    unit_rows,
)
from labelgen.types import Float16, Relation


class TestTiledEngine(EngineSuite):
    def make(self) -> TiledEngine:
        return TiledEngine()


@pytest.fixture(params=["bfloat16", "float32", "float32-blas"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way to multiply, whatever is fastest here."""
    monkeypatch.setattr(product, "fastest", lambda: TileProduct(request.param))
    return str(request.param)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles and strips for every list, and lists with hardly a place to spare: where most can go wrong."""
    monkeypatch.setattr(product, "BLOCK", 48)
    monkeypatch.setattr(product, "HITS", 64)
    monkeypatch.setattr(engine, "_LEAST_ROWS", 1)
    monkeypatch.setattr(engine, "_WORK", 150.0**2 * 64)
    monkeypatch.setattr(lists, "SLACK", 20)


@pytest.mark.usefixtures("small")
class TestTiledEngineWithSmallTiles(EngineSuite):
    def make(self) -> TiledEngine:
        return TiledEngine()


@pytest.fixture
def one_sided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips with lists of their queries alone, wherever the matrix is symmetric."""
    monkeypatch.setattr(engine, "_cost", lambda _plan, strips: any(strip.mutual for strip in strips))


@pytest.mark.usefixtures("small", "one_sided")
class TestTiledEngineWithOneSidedStrips(EngineSuite):
    def make(self) -> TiledEngine:
        return TiledEngine()


@pytest.mark.usefixtures("small")
def test_every_precision_gives_the_same_lists(precision: str) -> None:
    sizes = np.random.default_rng(1).integers(0, 6, 150)
    text = clustered_rows(int(sizes.sum()), 64, seed=1)
    text[::17] = 0
    plan = plan_of("text", sizes, requests_of(TEXT_RELATIONS, (1, 7)), text=text, splits=[(0, 100), (100, 150)])
    assert_equals_brute_force(TiledEngine(), plan)


def facts_of(plan: SearchPlan) -> list[dict[str, float]]:
    engine = TiledEngine()
    return [dict(partial.facts) for strip in engine.schedule(plan) for partial in engine.search(plan, strip)]


def test_symmetric_strips_cover_every_pair_of_images_once(small: None) -> None:
    plan = plan_of("text", [2] * 200, requests_of(TEXT_RELATIONS, (5,)), text=clustered_rows(400, 64, seed=2))
    strips = TiledEngine().schedule(plan)
    met = np.zeros((200, 200), int)
    for strip in strips:
        ((start, stop),) = strip.candidates
        assert strip.mutual
        met[strip.first : strip.last, start:stop] += 1
        if (strip.first, strip.last) != (start, stop):
            met[start:stop, strip.first : strip.last] += 1
    assert len(strips) > 3
    assert (met == 1).all()


def test_the_proof_holds_and_few_candidates_are_scored() -> None:
    text = clustered_rows(5000, 64, seed=3, spread=1.5)
    (facts,) = facts_of(plan_of("text", [5] * 1000, requests_of([Relation.T2T], (10,)), text=text))
    assert facts["fell_back"] == 0
    assert facts["margin"] > 0
    assert facts["largest_error"] <= facts["bound"]
    assert 11 * 5000 <= facts["rescored"] <= 40 * 5000


def nearly_equal(row: Float16, count: int) -> Float16:
    """Rows that differ in the last bits of some numbers, so that hardly two are equal."""
    rows = np.repeat(row[None], count, axis=0)
    rows.view(np.uint16)[:, :16] ^= np.random.default_rng(0).integers(0, 2, (count, 16), np.uint16)
    return rows


def test_near_ties_beyond_the_places_fall_back(precision: str) -> None:
    text = clustered_rows(3000, 64, seed=4)
    text[:1500] = nearly_equal(text[0], 1500)
    plan = plan_of("text", [1] * 3000, requests_of([Relation.T2T], (10,)), text=text)
    (facts,) = facts_of(plan)
    assert facts["fell_back"] >= 1500
    assert_equals_brute_force(TiledEngine(), plan)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_lists(threads: int, small: None) -> None:
    sizes = np.random.default_rng(5).integers(1, 6, 250)
    plan = plan_of("text", sizes, requests_of(TEXT_RELATIONS, (9,)), text=clustered_rows(int(sizes.sum()), 64, seed=5))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equals_brute_force(TiledEngine(), plan)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_budgets_change_the_strips_and_not_the_lists() -> None:
    text = clustered_rows(12_000, 64, seed=6)
    plan = plan_of("text", [3] * 4000, requests_of([Relation.T2T], (4,)), text=text)
    tight = replace(plan, memory=engine._thread_bytes() + 12 * 10**6)
    assert len(TiledEngine().schedule(tight)) > len(TiledEngine().schedule(plan)) == 1
    loose, held = (search_all(TiledEngine(), item)[plan.requests[0]] for item in (plan, tight))
    for name in ("ids", "scores", "next"):
        np.testing.assert_array_equal(getattr(loose, name), getattr(held, name))


@pytest.mark.parametrize("memory", [250, 400, 650, 900, 1400, 2900])
def test_strips_leave_room_for_the_tiles_of_two_threads(memory: int) -> None:
    """A budget that rows fill to the last byte leaves one thread at work."""
    rows = np.broadcast_to(np.zeros(384, np.float16), (100_000, 384))
    requests = requests_of([Relation.T2T, Relation.I2T, Relation.T2I], (64,))
    plan = replace(plan_of("text", [5] * 20_000, requests, text=rows), memory=memory * 10**6)
    for strips in (list(engine._mutual_strips(plan, engine._WORK)), list(engine._one_sided_strips(plan))):
        assert strips
        assert min(engine._threads_that_fit(plan, strip) for strip in strips) >= 2


def photographs() -> Float16:
    """The photographs of the demo set and their four corners as rows of 112 x 112 x 3 numbers, around their mean."""
    from PIL import Image

    rows = []
    for path in sorted((resources.demo_root() / "images").glob("*.jpg")):
        with Image.open(path) as photo:
            size = min(photo.size) // 2
            corners = [(x, y, x + size, y + size) for x in (0, photo.width - size) for y in (0, photo.height - size)]
            whole = [photo.convert("RGB").resize((112, 112), box=box) for box in (None, *corners)]
        rows += [np.asarray(image, np.float32).ravel() for image in whole]
    values = np.array(rows)
    return unit_rows(values - values.mean(axis=0))


def test_rows_of_37_632_numbers_are_searched_under_a_budget_of_one_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = photographs()
    assert rows.shape == (380, 37_632)
    plan = plan_of("image", [0] * 380, requests_of([Relation.I2I], (64,)), image=rows, memory=search_memory(10**9))
    assert engine._rows_that_fit(plan) >= engine._LEAST_FITTING
    # as thousands of rows would be cut: nine ranges, and pairs of them
    monkeypatch.setattr(engine, "_WORK", 88.0**2 * 37_632)
    assert len(TiledEngine().schedule(plan)) > 20
    assert_equals_brute_force(TiledEngine(), plan)


MEASURE = """
import sys, numpy as np
from labelgen.stages.running.memory import PeakMeter, anonymous_bytes
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.testing.engines import clustered_rows, plan_of, wants_of
from labelgen.types import Relation

budget, count, dim = map(int, sys.argv[1:4])
out = np.lib.format.open_memmap(sys.argv[4], "w+", np.float16, (count, dim))
for start in range(0, count, 64):
    out[start : start + 64] = clustered_rows(len(out[start : start + 64]), dim, seed=start)
rows = np.load(sys.argv[4], mmap_mode="r")
engine = TiledEngine(least_rows=1)

def plan(count):
    return plan_of("image", [0] * count, wants_of([Relation.I2I], (20,)), image=rows[:count], memory=budget)

list(engine.search(plan(100), engine.schedule(plan(100))[0]))  # what libraries allocate once
before = anonymous_bytes()
strips = engine.schedule(plan(count))
with PeakMeter(seconds=0.01) as meter:
    list(engine.search(plan(count), strips[min(1, len(strips) - 1)]))
print(meter.peak_bytes - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads anonymous memory from /proc")
@pytest.mark.parametrize(("budget", "count", "dim"), [(search_memory(10**9), 1200, 37_632), (120_000_000, 20_000, 128)])
def test_a_search_keeps_its_budget(budget: int, count: int, dim: int, tmp_path: Path) -> None:
    numbers = [str(number) for number in (budget, count, dim)]
    arguments = [sys.executable, "-c", MEASURE, *numbers, str(tmp_path / "rows.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= budget


def test_autocast_of_the_caller_changes_nothing() -> None:
    plan = plan_of("text", [2] * 150, requests_of(TEXT_RELATIONS, (5,)), text=clustered_rows(300, 64, seed=5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equals_brute_force(TiledEngine(), plan)


def test_rows_that_are_not_unit_are_refused() -> None:
    rows = clustered_rows(300, 64, seed=6)
    rows[17] = np.nan
    with pytest.raises(StoreError, match="rows 17 "):
        facts_of(plan_of("image", [0] * 300, requests_of([Relation.I2I], (5,)), image=rows))


def test_an_error_beyond_the_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TileProduct, "errors", lambda *_: Errors(1e-9))
    plan = plan_of("image", [0] * 300, requests_of([Relation.I2I], (5,)), image=clustered_rows(300, 64, seed=4))
    with pytest.raises(LabelgenError, match="less precise than float32"):
        facts_of(plan)


# ------------------------------------------------------------------------------------------------------------ bounds


def adversarial(draw: st.DataObject, count: int, dim: int) -> Float16:
    """Rows whose numbers lie where rounding to 8 bits loses most, subnormal ones, and rows that are nearly parallel."""
    random = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    kind = draw.draw(st.sampled_from(["half steps", "parallel", "subnormal", "few"]))
    if kind == "half steps":
        exponent = random.integers(-6, 1, (count, dim))
        values = (1 + random.integers(0, 128, (count, dim)) / 128 + 1 / 256 - 1 / 1024) * 2.0**exponent
        return unit_rows(values * random.choice([-1, 1], (count, dim)))
    if kind == "parallel":
        return unit_rows(1 + 2.0 ** -random.integers(3, 11) * random.standard_normal((count, dim)))
    values = random.standard_normal((count, dim))
    if kind == "subnormal":
        values[:, dim // 2 :] *= 2.0**-22
    else:
        values[:, 3:] = 0
    return unit_rows(values)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data(), dim=st.sampled_from([8, 64, 384, 1000]))
def test_no_rows_break_the_bound(precision: str, draw: st.DataObject, dim: int) -> None:
    rows = adversarial(draw, 40, dim)
    product = TileProduct(precision)  # type: ignore[arg-type]
    scale = (1 / np.sqrt((rows.astype(np.float64) ** 2).sum(1))).astype(np.float32)
    unit = torch.empty(rows.shape, dtype=product.dtype)
    loss = product.lower(rows.astype(np.float32) * scale[:, None], unit)
    bits = product.tile(unit, unit, product.buffers()).bits
    wide = bits.astype(np.uint16).astype(np.uint32) << 16 if bits.dtype == np.int16 else bits.view(np.uint32)
    computed = wide.astype(np.uint32).view(np.float32).astype(np.float64)
    errors = product.errors(dim, loss, 0)
    assert (np.abs(computed - block_similarity(rows, rows)) <= errors.of(computed)).all()


@settings(deadline=None, max_examples=40)
@given(draw=st.data(), k=st.integers(1, 12))
def test_adversarial_rows_give_the_lists_of_brute_force(draw: st.DataObject, k: int) -> None:
    rows = adversarial(draw, 120, 24)
    assert_equals_brute_force(TiledEngine(), plan_of("text", [2] * 60, requests_of(TEXT_RELATIONS, (k,)), text=rows))


def test_a_bfloat16_bound_is_made_of_what_was_lost() -> None:
    # Rows that lost nothing: 2 (d + 32) roundings of 2^-24, and what unit rows and the definition lose.
    assert low_precision_errors(384, 0.0, 2.0**-8).flat == pytest.approx(2 * 416 * 2.0**-24, rel=0.02)
    assert low_precision_errors(384, 0.001, 2.0**-8).flat == pytest.approx(0.002 + 2 * 416 * 2.0**-24, rel=0.02)
    assert low_precision_errors(384, 0.0, 2.0**-8).relative == 2.0**-8


@settings(deadline=None)
@given(
    value=st.floats(-1, 1), flat=st.floats(0, 0.01), relative=st.sampled_from([0.0, 2.0**-8]), other=st.floats(-1, 1)
)
def test_what_a_floor_drops_cannot_reach_the_value(value: float, flat: float, relative: float, other: float) -> None:
    value, other = float(np.float32(value)), float(np.float32(other))
    errors = Errors(flat, relative)
    floor = int(bits.floor_key(np.float32(value), flat, relative))
    if int(bits.key_of(np.float32(other))) <= floor:
        reach = other + errors.of(np.array(other))
        assert reach < value - errors.of(np.array(value))


# ----------------------------------------------------------------------------------------------------------- kernels


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_keys_grow_as_numbers_do(low: float, high: float) -> None:
    a, b = (int(bits.key_of(np.float32(number))) for number in (low, high))
    if low < high:
        assert a < b
    assert float(bits.number_of(np.int32(a))) == low


def test_all_float16_numbers_are_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 1)
    dots = np.empty(len(every))
    bits.self_dots(every.view(np.uint16), dots)
    np.testing.assert_array_equal(dots, every[:, 0].astype(np.float64) ** 2)


def test_pair_products_are_exact() -> None:
    rows = clustered_rows(50, 100, seed=7)
    left, right = np.repeat(np.arange(50), 50), np.tile(np.arange(50), 50)
    dots = np.empty(2500)
    bits.pair_dots(rows.view(np.uint16), left, rows.view(np.uint16), right, dots)
    wide = rows.astype(np.float64)
    np.testing.assert_array_equal(dots.reshape(50, 50), wide @ wide.T)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_a_scan_lists_exactly_what_exceeds_a_floor(dtype: type) -> None:
    draw = np.random.default_rng(8)
    numbers = draw.uniform(-1, 1, (70, 150)).astype(np.float32)
    numbers = (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)  # numbers that bfloat16 has
    seen = (
        (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
        if dtype is np.int16
        else numbers.view(np.int32)
    )
    rows, columns = draw.uniform(-1, 1, 70).astype(np.float32), draw.uniform(-1, 1, 150).astype(np.float32)
    keys = [np.array([bits.key_of(number) for number in side], np.int32) for side in (rows, columns)]
    row_image, column_image = (draw.integers(-1, 9, count).astype(np.int32) for count in (70, 150))
    hits, found = np.empty((70 * 150, 2), np.int32), np.empty(70 * 150, np.int32)
    floors = [product.narrowed(side, seen) for side in keys]
    count, last = kernels.scan(seen, 0, *floors, row_image, column_image, hits, found)
    expected = (numbers > rows[:, None]) | (numbers > columns)
    expected &= (row_image[:, None] >= 0) & (column_image >= 0) & (row_image[:, None] != column_image)
    assert last == 70
    np.testing.assert_array_equal(hits[:count], np.argwhere(expected))
    np.testing.assert_array_equal(lists.numbers(found[:count]), numbers[expected])


def test_the_fastest_precision_is_one_that_this_machine_has() -> None:
    assert fastest().precision in ("bfloat16", "float32", "float32-blas")
    assert fastest() is fastest()


def test_first_floors_are_set_once_however_threads_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow first floor, while another thread meets the same block: lists that have failed must stay so."""
    monkeypatch.setattr(product, "BLOCK", 512)
    first = kernels.seed

    def slowly(*arguments: Any) -> None:
        time.sleep(0.05)
        first(*arguments)

    monkeypatch.setattr(kernels, "seed", slowly)
    text = clustered_rows(1536, 64, seed=9)
    text[:1200] = nearly_equal(text[0], 1200)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert_equals_brute_force(
            TiledEngine(), plan_of("text", [1] * 1536, requests_of([Relation.T2T], (10,)), text=text)
        )
    finally:
        torch.set_num_threads(before)


def test_a_small_corpus_is_left_to_the_reference_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    text = clustered_rows(3000, 16, seed=1)
    plan = plan_of("text", [3] * 1000, requests_of([Relation.T2T], (4,)), text=text)
    assert {strip.mutual for strip in TiledEngine().schedule(plan)} == {False}
    assert {strip.mutual for strip in TiledEngine(least_rows=2000).schedule(plan)} == {True}


def test_a_budget_for_few_lists_takes_one_sided_strips() -> None:
    """155,070 captions: a strip a range of queries where lists of both sides would mean dozens of strips."""
    offsets = np.append(np.arange(0, 155_070, 5), 155_070).astype(np.int64)
    requests = tuple(requests_of(TEXT_RELATIONS, (64,)))
    plan = SearchPlan("text", ShapeOnly((155_070, 384)), None, offsets, ((0, len(offsets) - 1),), requests, 0)
    few, many = (TiledEngine().schedule(replace(plan, memory=memory)) for memory in (250 * 10**6, 2900 * 10**6))
    assert {strip.mutual for strip in few} == {False}
    assert {strip.candidates for strip in few} == {((0, len(offsets) - 1),)}
    assert len(few) < 30
    assert {strip.mutual for strip in many} == {True}
    image = replace(
        plan, product="image", text=None, image=plan.text, requests=tuple(requests_of([Relation.I2I], (9,)))
    )
    image = replace(image, offsets=np.zeros(155_071, np.int64), splits=((0, 155_070),), memory=150 * 10**6)
    assert {strip.mutual for strip in TiledEngine().schedule(image)} == {False}
    means = replace(plan, requests=tuple(requests_of(TEXT_RELATIONS, (64,), "mean")), memory=250 * 10**6)
    assert {strip.mutual for strip in TiledEngine().schedule(means)} == {True}
