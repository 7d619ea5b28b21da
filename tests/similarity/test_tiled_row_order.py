"""Searches over splits of several ranges, and of new x all: bit for bit what brute force finds over everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.similarity.base import ArrayRows, Engine, ListRequest, SearchPlan, n_queries
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.row_order import ReorderedRows, RowOrder, reorder, restore, row_orders, schedule
from labelgen.similarity.sort_keys import PAD_KEY, TopK, merge
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, requests_of, unit_rows
from labelgen.testing.oracles import brute_force
from labelgen.types import Int64, Relation

ENGINES = {"numpy": ReferenceEngine, "tiled": TiledEngine}
Splits = list[list[tuple[int, int]]]


def searched(
    engine: Engine, plan: SearchPlan, splits: Splits, base: dict[ListRequest, TopK], old: int
) -> dict[ListRequest, TopK]:
    """The lists of a plan: those of the `old` images are taken over and only pairs with a new one are searched."""
    first = {"image": old, "text": int(plan.offsets[old])}
    found = {}
    for request in plan.requests:
        found[request] = np.full((n_queries(plan, request), request.k + 1), PAD_KEY)
        if old:
            kept = base[request].to_keys(first[request.relation.candidate])
            found[request][: len(kept)] = kept
    touched = 0
    for order in row_orders(splits, [request.scope for request in plan.requests]):
        reordered = reorder(plan, order)
        for strip in reversed(schedule(engine.schedule(reordered), order, old)):
            for partial in engine.search(reordered, strip):
                touched += 1
                for piece in restore(partial, order, plan.offsets):
                    rows = slice(piece.first_row, piece.first_row + len(piece.keys))
                    found[piece.request][rows] = merge([found[piece.request][rows], piece.keys], piece.request.k + 1)
    assert touched or old == len(plan.offsets) - 1
    return {request: TopK.from_keys(keys, request.k) for request, keys in found.items()}


def numbers(splits: Splits, images: int) -> Int64:
    split_of = np.full(images, -1)
    for number, spans in enumerate(splits):
        for start, stop in spans:
            split_of[start:stop] = number
    assert (split_of >= 0).all()
    return split_of


def check(engine: Engine, plan: SearchPlan, splits: Splits, old: int) -> None:
    """Everything at once, then the new images after the old ones: both are what brute force finds."""
    split_of = numbers(splits, len(plan.offsets) - 1)
    expected = {request: brute_force(plan, request, split_of) for request in plan.requests}
    before = cut(plan, old)
    base = {request: brute_force(before, request, split_of[:old]) for request in plan.requests} if old else {}
    for known in {0, old}:
        found = searched(engine, plan, splits, base, known)
        for request in plan.requests:
            for name in ("ids", "scores", "next"):
                theirs, ours = getattr(expected[request], name), getattr(found[request], name)
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{name} of {request}, {known} old images")
                assert ours.tobytes() == theirs.tobytes()


def cut(plan: SearchPlan, images: int) -> SearchPlan:
    """The first images of a plan."""
    text = None if plan.text is None else ArrayRows(plan.text.slice(0, int(plan.offsets[images])))
    image = None if plan.image is None else ArrayRows(plan.image.slice(0, images))
    return replace(plan, text=text, image=image, offsets=plan.offsets[: images + 1])


#: Splits of 300 images, 240 of them old: `train` and `val` go on behind them, `test` is new.
SPLITS: Splits = [[(0, 180), (240, 270)], [(180, 240), (270, 280)], [(280, 300)]]


@pytest.mark.parametrize("engine", list(ENGINES))
def test_captions_of_splits_that_go_on_behind_others(engine: str) -> None:
    sizes = np.random.default_rng(1).integers(0, 5, 300)
    text = clustered_rows(int(sizes.sum()), 48, seed=1)
    text[np.random.default_rng(2).permutation(len(text))[:80]] = text[0]  # ties, old and new
    text[::17] = 0
    requests = requests_of(TEXT_RELATIONS, (1, 8)) + requests_of(TEXT_RELATIONS, (3,), scope="cross")
    check(ENGINES[engine](), plan_of("text", sizes, requests, text=text), SPLITS, 240)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_photographs_and_both_sides_of_a_cross_modal_teacher(engine: str) -> None:
    sizes = np.random.default_rng(3).integers(0, 4, 300)
    image, text = clustered_rows(300, 32, seed=3), clustered_rows(int(sizes.sum()), 32, seed=4)
    image[250:290:3] = image[5]
    scopes = [Relation.I2I], [Relation.I2T, Relation.T2I]
    for product, relations in zip(("image", "cross"), scopes, strict=True):
        requests = requests_of(relations, (6,)) + requests_of(relations, (4,), scope="cross")
        plan = plan_of(product, sizes, requests, text=text if product == "cross" else None, image=image)
        check(ENGINES[engine](), plan, SPLITS, 240)


def test_means_over_captions() -> None:
    sizes = np.random.default_rng(5).integers(0, 4, 300)
    text = clustered_rows(int(sizes.sum()), 32, seed=5)
    check(TiledEngine(), plan_of("text", sizes, requests_of(TEXT_RELATIONS, (5,), "mean"), text=text), SPLITS, 240)


@pytest.mark.parametrize("one_sided", [False, True])
def test_short_tasks_cut_more_strips_and_find_the_same(monkeypatch: pytest.MonkeyPatch, one_sided: bool) -> None:
    monkeypatch.setattr("labelgen.similarity.tiled.engine._WORK", 150.0**2 * 48)
    monkeypatch.setattr(
        "labelgen.similarity.tiled.engine._cost", lambda _plan, strips: any(s.mutual for s in strips) == one_sided
    )
    sizes = np.random.default_rng(6).integers(1, 4, 300)
    text = clustered_rows(int(sizes.sum()), 48, seed=6)
    text[::7] = text[3]
    requests = requests_of(TEXT_RELATIONS, (4,)) + requests_of(TEXT_RELATIONS, (3,), scope="cross")
    plan = plan_of("text", sizes, requests, text=text)
    order = row_orders(SPLITS, ["split"])[0]
    strips = TiledEngine().schedule(reorder(plan, order))
    assert len(strips) > 4
    assert {strip.mutual for strip in strips if strip.candidates} == {not one_sided}
    check(TiledEngine(), plan, SPLITS, 240)


def test_only_pairs_with_a_new_image_are_searched() -> None:
    sizes = [1] * 9000
    plan = plan_of("text", sizes, requests_of([Relation.T2T], (4,)), text=clustered_rows(9000, 32, seed=7))
    splits: Splits = [[(0, 6000), (8000, 8900)], [(6000, 8000), (8900, 9000)]]
    for engine in (TiledEngine(), ReferenceEngine()):
        (order,) = row_orders(splits, ["split"])
        pairs = 0
        for strip in schedule(engine.schedule(reorder(plan, order)), order, 8000):
            size, others = strip.last - strip.first, sum(stop - start for start, stop in strip.candidates)
            pairs += size * others * (2 if strip.mutual and strip.candidates != ((strip.first, strip.last),) else 1)
        assert pairs == 6900**2 - 6000**2 + 2100**2 - 2000**2


@st.composite
def corpora(draw: Any) -> tuple[SearchPlan, Splits, int]:
    """A few images in up to three splits, rows of a handful of values: almost every pair ties with another."""
    old, new = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    images = max(1, old + new)
    names = [draw(st.integers(0, 2)) for _ in range(images)]
    names[:old], names[old:] = sorted(names[:old]), sorted(names[old:])
    splits: dict[int, list[tuple[int, int]]] = {}
    for row, name in enumerate(names):
        spans = splits.setdefault(name, [])
        if spans and spans[-1][1] == row:
            spans[-1] = (spans[-1][0], row + 1)
        else:
            spans.append((row, row + 1))
    sizes = [draw(st.integers(0, 3)) for _ in range(images)]
    values = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [1, 0.5]])
    rows = unit_rows(values)[[draw(st.integers(0, 4)) for _ in range(sum(sizes))]].reshape(-1, 2)
    rows[[draw(st.integers(0, 9)) == 0 for _ in range(len(rows))]] = 0
    k = draw(st.integers(1, 5))
    requests = requests_of(TEXT_RELATIONS, (k,)) + requests_of(TEXT_RELATIONS, (k,), scope="cross")
    return plan_of("text", sizes, requests, text=rows.astype(np.float16)), list(splits.values()), min(old, images)


@settings(max_examples=60, deadline=None)
@given(corpora(), st.sampled_from(sorted(ENGINES)))
def test_ties_at_every_border(corpus: tuple[SearchPlan, Splits, int], engine: str) -> None:
    check(ENGINES[engine](), *corpus)


def test_the_row_behind_next_is_not_needed() -> None:
    """k = 2 of four equal candidates, rows 0 to 3: `next` is theirs too; a later equal one comes after all of them."""
    old = TopK(np.array([[0, 1]], np.uint32), np.full((1, 2), 0.5, np.float32), np.full(1, 0.5, np.float32))
    again = TopK.from_keys(old.to_keys(4), 2)
    assert (again.ids.tolist(), again.next.tolist()) == ([[0, 1]], [0.5])
    later = TopK(np.array([[4, 5]], np.uint32), np.full((1, 2), 0.5, np.float32), np.full(1, -np.inf, np.float32))
    merged = TopK.from_keys(merge([old.to_keys(4), later.to_keys(6)], 3), 2)
    assert merged.ids.tolist() == [[0, 1]]
    assert merged.next.tolist() == [0.5]
    better = replace(later, scores=np.array([[0.75, 0.5]], np.float32))
    merged = TopK.from_keys(merge([old.to_keys(4), better.to_keys(6)], 3), 2)
    assert merged.ids.tolist() == [[4, 0]]
    assert merged.next.tolist() == [0.5]


def test_reordered_rows_are_read_from_the_store() -> None:
    rows = np.arange(20, dtype=np.float16).reshape(10, 2)
    reordered = ReorderedRows(ArrayRows(rows), [(4, 7), (0, 4), (7, 10)])
    whole = np.concatenate([rows[4:7], rows[:4], rows[7:]])
    np.testing.assert_array_equal(reordered.slice(0, 10), whole)
    np.testing.assert_array_equal(reordered.slice(2, 5), whole[2:5])
    assert reordered.slice(3, 5).base is not None, "a view where the rows are adjacent"
    assert reordered.slice(4, 4).shape == (0, 2)
    np.testing.assert_array_equal(reordered.take(np.array([9, 0, 6, 6])), whole[[9, 0, 6, 6]])


def test_a_store_of_plain_splits_is_searched_as_it_is() -> None:
    (order,) = row_orders([[(0, 3)], [(3, 5)]], ["split", "cross"])
    assert order == RowOrder(((0, 5),), ((0, 3), (3, 5)))
    assert order.unchanged
