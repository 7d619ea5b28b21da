"""Sets of rows by products of 8-bit integers: the bits of the definition, or a refusal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.similarity import digits, matrix_units, scratch
from labelgen.similarity.exact import block_group_similarity, block_similarity, similarity
from labelgen.similarity.widen import widen
from labelgen.store.blocks import Side, compare
from labelgen.testing.engines import clustered_rows, unit_rows
from labelgen.types import Float16

pytest.importorskip("torch")
needs_units = pytest.mark.skipif(not matrix_units.available(), reason="needs units for 8-bit products (Intel AMX)")


@pytest.fixture(autouse=True)
def small_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_FEWEST", 1)


def small_rows(count: int, dim: int, seed: int) -> Float16:
    """Unit rows whose numbers all have three digits."""
    rows = unit_rows(np.random.default_rng(seed).standard_normal((count, dim)))
    return np.clip(rows, np.float16(-0.49), np.float16(0.49))


@needs_units
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 700), sets=st.integers(1, 12), columns=st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_the_bits_are_those_of_the_definition(seed: int, dim: int, sets: int, columns: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 7, sets)
    members, y = (small_rows(count, dim, seed) for count in (int(sizes.sum()), columns))
    with np.errstate(over="ignore", under="ignore"):
        members = (members * np.float16(2.0) ** -draw.integers(0, 3)).astype(np.float16)
    members[:, draw.random(dim) < 0.3] *= np.float16(2.0**-10)  # numbers below the normal ones
    y[0] = members[-1]  # the same row, and its exact 1
    members, y = (np.where((rows == 0).all(1)[:, None], np.float16(0.1), rows) for rows in (members, y))
    found = digits.best_of_sets(members, sizes, y)
    assert found is not None
    np.testing.assert_array_equal(found, block_group_similarity(members, sizes, y, "max"))
    for others in (y, members):
        found = digits.similarities(members, others)
        assert found is not None
        np.testing.assert_array_equal(found, block_similarity(members, others))


@needs_units
def test_slabs_and_near_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SLAB", 40 * 3 * 384)
    monkeypatch.setattr(scratch, "_KEPT", 20_000)  # some arrays are kept, some are not
    members = np.repeat(np.clip(clustered_rows(40, 384, seed=1), -0.49, 0.49), 3, axis=0)
    members[1::3] = np.nextafter(members[1::3], np.float16(1))
    sizes = np.full(24, 5)
    y = members[::2]
    found = digits.best_of_sets(members, sizes, y)
    np.testing.assert_array_equal(found, block_group_similarity(members, sizes, y, "max"))


@needs_units
def test_between_two_float32_numbers_the_definition_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "block_group_similarity", lambda *_: np.full((1, 1), 7, np.float32))
    x = np.zeros((1, 64), np.float16)
    x[0, :16] = 0.25  # of length 1
    y = np.zeros((3, 64), np.float16)
    y[:, 0:16] = 0.25
    y[1, 16], y[2, 15] = 2.0**-12, 0.25 - 2.0**-12
    exact = [(x.astype(float) @ row.astype(float) / np.linalg.norm(row.astype(float))).item() for row in y]
    open_ = [np.float32(value * (1 - 2.0**-48)) != np.float32(value * (1 + 2.0**-48)) for value in exact]
    found = digits.best_of_sets(x, np.array([1]), y)
    assert found is not None
    assert (found[0] == 7).tolist() == open_
    # a quotient that lies half way between two float32 numbers: 1 - 2^-25
    half_way = 1 - 2.0**-25
    assert np.float32(half_way * (1 - 2.0**-48)) != np.float32(half_way * (1 + 2.0**-48))
    best, out = np.array([half_way, 0.5]), np.empty(2, np.float32)
    assert digits._rounded(best, np.ones(2), out) == 1
    assert np.isnan(out[0])
    assert out[1] == 0.5


@pytest.mark.parametrize("spoilt", ["large", "dead member", "dead column", "not a number", "long", "empty set"])
def test_what_does_not_suit_is_left_to_the_definition(spoilt: str) -> None:
    members, y, sizes = small_rows(15, 32, 1), small_rows(4, 32, 2), np.full(3, 5)
    if spoilt == "large":
        members[3, 5] = 0.5
    elif spoilt == "dead member":
        members[3] = 0
    elif spoilt == "dead column":
        y[1] = 0
    elif spoilt == "not a number":
        y[1, 0] = np.nan
    elif spoilt == "long":
        members, y = small_rows(15, 43_691, 1), small_rows(4, 43_691, 2)
    else:
        sizes = np.array([5, 0, 10])
    assert digits.best_of_sets(members, sizes, y) is None
    if spoilt != "empty set":
        assert digits.similarities(members, y) is None
    if spoilt in {"large", "dead member"}:
        assert digits.similarities(members, members) is None


@needs_units
def test_a_few_pairs_are_left_to_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = small_rows(15, 32, 1)
    monkeypatch.setattr(digits, "_FEWEST", 226)
    assert digits.similarities(rows, rows) is None
    monkeypatch.setattr(digits, "_FEWEST", 225)
    assert digits.similarities(rows, rows) is not None


def test_blocks_of_sets_take_this_way_where_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    members, y, sizes = small_rows(15, 32, 1), small_rows(4, 32, 2), np.full(3, 5)
    calls = []
    monkeypatch.setattr(digits, "best_of_sets", lambda *given: calls.append(given))
    expected = block_group_similarity(members, sizes, y, "max")
    np.testing.assert_array_equal(compare(Side(members, sizes), Side(y), "max"), expected)
    assert len(calls) == 1
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_array_equal(compare(Side(members, sizes), Side(y), "max"), expected)
    compare(Side(members, sizes), Side(y), "mean")
    assert len(calls) == 1


@pytest.mark.parametrize("own", [True, False])
def test_blocks_of_rows_take_this_way_too(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = small_rows(15, 32, 1)
    y = x if own else small_rows(4, 32, 2)
    calls = []
    monkeypatch.setattr(digits, "similarities", lambda *given: calls.append(given))
    np.testing.assert_array_equal(compare(Side(x), Side(y), "max"), block_similarity(x, y))
    assert [(a is x, b is y) for a, b in calls] == [(True, True)]


@needs_units
def test_negative_similarities_and_zero() -> None:
    x = small_rows(10, 48, 3)
    y = np.concatenate([-x[:5], np.roll(x[:2], 1, axis=1)])
    x[0, :24], x[0, 24:], y[0] = 0.2, 0, 0
    y[0, 24:] = 0.2  # x.y = 0
    found = digits.best_of_sets(x, np.full(10, 1), y)
    np.testing.assert_array_equal(found, block_group_similarity(x, np.full(10, 1), y, "max"))
    assert found is not None
    assert found[0, 0] == similarity(np.zeros(1), np.ones(1), np.ones(1))[0]


def test_every_float16_number_is_widened_exactly() -> None:
    rows = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    out = np.empty((256, 256))
    widen(rows, out)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, rows.astype(np.float64))


@needs_units
@pytest.mark.parametrize(("rows", "columns", "dim"), [(16, 16, 64), (48, 32, 192)])
def test_sums_of_products_of_extreme_digits(rows: int, columns: int, dim: int) -> None:
    draw = np.random.default_rng(0)
    left, right = (draw.choice(np.array([-128, -1, 0, 127], np.int8), (count, 3, dim)) for count in (rows, columns))
    best, sums, found = (
        np.empty((rows, columns)),
        np.empty((5, 16, columns), np.int32),
        np.empty((rows, columns), np.float32),
    )
    ones, dots = np.ones(rows, np.int64), np.ones(max(rows, columns))
    given = left.reshape(-1), dim, ones, dots[:rows], matrix_units.packed(right), dots[:columns]
    digits._best(*given, False, matrix_units.configuration(), sums, best, found)
    wide = [sum(part[:, place].astype(np.int64) << 8 * place for place in range(3)) for part in (left, right)]
    np.testing.assert_array_equal(best, (wide[0] @ wide[1].T).astype(np.float64) * 2.0**-48)


@needs_units
def test_a_fork_has_the_permission_of_its_parent() -> None:
    rows = small_rows(40, 64, 1)
    expected = digits.similarities(rows, rows)
    child = os.fork()
    if child == 0:
        same = digits.similarities(rows, rows)
        os._exit(0 if same is not None and np.array_equal(same, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def asked_anew() -> Iterator[None]:
    matrix_units.available.cache_clear()
    yield
    matrix_units.available.cache_clear()


@pytest.mark.parametrize("why", ["another system", "compiled for another processor", "no units", "no permission"])
def test_units_are_not_used_where_they_are_not_known_to_work(
    why: str, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    if why == "another system":
        monkeypatch.setattr(matrix_units.sys, "platform", "darwin")
    elif why == "compiled for another processor":
        monkeypatch.setattr(matrix_units.config, "CPU_NAME", "generic")
    elif why == "no units":
        monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"amx-tile": False})
    else:
        monkeypatch.setattr(matrix_units, "_TILE_DATA", 63)
    rows = small_rows(40, 64, 1)
    assert digits.similarities(rows, rows) is None
    assert digits.best_of_sets(rows, np.full(20, 2), rows) is None
