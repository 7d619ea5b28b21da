"""Rows that are equal bit for bit: found, searched as one, and listed as often as they stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelgen.errors import StoreError
from labelgen.similarity.base import ArrayRows, SearchPlan
from labelgen.similarity.tiled import engine, equal_rows, lists, product
from labelgen.similarity.tiled.device import DeviceProduct
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.similarity.tiled.equal_rows import EqualRows
from labelgen.similarity.tiled.product import TileProduct
from labelgen.testing.engines import (
    TEXT_RELATIONS,
    assert_equals_brute_force,
    clustered_rows,
    plan_of,
    requests_of,
)
from labelgen.types import Float16, Relation


@pytest.fixture(params=["bfloat16", "float32-blas", "device"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tiles, strips and lists, multiplied in several ways."""
    how = DeviceProduct(torch.device("cpu"), torch.float16) if request.param == "device" else TileProduct(request.param)
    monkeypatch.setattr(product, "fastest", lambda: how)
    monkeypatch.setattr(product, "BLOCK", 16)
    monkeypatch.setattr(product, "HITS", 64)
    monkeypatch.setattr(lists, "SLACK", 20)


@st.composite
def repeated_rows(draw: st.DrawFn, count: int) -> Float16:
    """Rows drawn from a few, some of them zero, some of them close to others or their negative."""
    distinct = draw(st.sampled_from([1, 2, 5, 40, 1000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = clustered_rows(distinct, 24, seed=int(random.integers(2**31)), spread=draw(st.sampled_from([0.05, 0.6])))
    rows = rows[random.zipf(1.5, count) % distinct if distinct < 1000 else random.permutation(1000)[:count]]
    if draw(st.booleans()):
        rows[random.random(count) < 0.15] = 0
    if draw(st.booleans()):
        rows[random.random(count) < 0.2] *= -1
    return rows


@st.composite
def plans(draw: st.DrawFn) -> SearchPlan:
    """Every product, aggregation and scope; images of no caption, of several, and of very many; one split or more."""
    images = draw(st.integers(1, 60))
    sizes = np.array(draw(st.lists(st.integers(0, 5), min_size=images, max_size=images)))
    if draw(st.booleans()):
        sizes[draw(st.integers(0, images - 1))] = 40
    kind = draw(st.sampled_from(["text", "image", "cross"]))
    relations = {"text": TEXT_RELATIONS, "image": [Relation.I2I], "cross": [Relation.I2T, Relation.T2I]}[kind]
    aggregation = "max" if kind == "image" else draw(st.sampled_from(["max", "mean"]))
    requests = requests_of(relations, (draw(st.integers(1, 30)),), aggregation)
    if draw(st.booleans()):
        requests += requests_of(relations, (3,), aggregation, "cross")
    border = draw(st.integers(0, images))
    both = draw(repeated_rows(images + int(sizes.sum())))
    return plan_of(
        kind,  # type: ignore[arg-type]
        sizes,
        requests,
        text=None if kind == "image" else both[images:],
        image=None if kind == "text" else both[:images],
        splits=[(0, border), (border, images)],
    )


@pytest.mark.usefixtures("products")
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans(), work=st.sampled_from([20.0**2 * 24, 1e13]), one_sided=st.booleans())
def test_equal_rows_give_the_lists_of_brute_force(plan: SearchPlan, work: float, one_sided: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_WORK", work)
        patch.setattr(engine, "_cost", lambda _plan, strips: any(s.mutual for s in strips) == one_sided)
        assert_equals_brute_force(TiledEngine(), plan)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(0, 80).flatmap(repeated_rows), start=st.integers(0, 5), equal_sums=st.booleans())
def test_units_are_the_distinct_rows(rows: Float16, start: int, equal_sums: bool) -> None:
    start = min(start, len(rows))
    with pytest.MonkeyPatch.context() as patch:
        if equal_sums:  # rows that differ although their sums do not are never taken for copies
            patch.setattr(equal_rows, "_sums", lambda bits, factors, sums: sums.fill(0))
        found = EqualRows.of(ArrayRows(rows), start, len(rows))
    here = rows[start:].view(np.uint16)
    np.testing.assert_array_equal(here[found.firsts][found.unit], here)
    assert (np.diff(found.firsts) > 0).all()
    if not equal_sums:
        assert len(found) == len(np.unique(here, axis=0))
    for unit in range(len(found)):
        copies = found.copies[found.bounds[unit] : found.bounds[unit + 1]]
        np.testing.assert_array_equal(copies, np.flatnonzero(found.unit == unit))
        assert copies[0] == found.firsts[unit]


def test_a_text_that_stands_hundreds_of_times_makes_no_ties() -> None:
    text = clustered_rows(5000, 64, seed=3, spread=1.5)
    draw = np.random.default_rng(3)
    for number in range(5):
        text[draw.permutation(5000)[:400]] = text[number]
    plan = plan_of("text", [5] * 1000, requests_of(TEXT_RELATIONS, (10,)), text=text)
    searched = TiledEngine()
    facts = [dict(partial.facts) for strip in searched.schedule(plan) for partial in searched.search(plan, strip)]
    assert [item["fell_back"] for item in facts] == [0, 0, 0]
    assert facts[0]["rescored"] < 60 * 4000
    assert_equals_brute_force(searched, plan)


def test_every_image_twice() -> None:
    """Copies of whole images: no unit belongs to one image alone."""
    half = clustered_rows(1500, 64, seed=4, spread=1.5)
    plan = plan_of("text", [5] * 600, requests_of(TEXT_RELATIONS, (20,)), text=np.concatenate([half, half]))
    searched = TiledEngine()
    facts = [dict(partial.facts) for strip in searched.schedule(plan) for partial in searched.search(plan, strip)]
    assert sum(item["fell_back"] for item in facts) < 30
    assert_equals_brute_force(searched, plan)


def test_copies_that_are_not_finite_are_refused() -> None:
    rows = clustered_rows(300, 64, seed=6)
    rows[[17, 40, 250]] = np.nan
    plan = plan_of("image", [0] * 300, requests_of([Relation.I2I], (5,)), image=rows)
    with pytest.raises(StoreError, match="rows 17 "):
        list(TiledEngine().search(plan, TiledEngine().schedule(plan)[0]))
