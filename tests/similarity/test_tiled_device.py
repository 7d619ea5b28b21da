"""The tiled engine with products on a torch device; here that device is the CPU, or CUDA where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelgen.errors import ConfigError
from labelgen.similarity.exact import block_similarity
from labelgen.similarity.tiled import device, engine, product
from labelgen.similarity.tiled.bits import EVERYTHING, NOTHING
from labelgen.similarity.tiled.device import DeviceProduct, DeviceTile, product_on, whole_sums
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.similarity.tiled.lists import numbers
from labelgen.testing.engines import EngineSuite, clustered_rows, plan_of, requests_of, unit_rows
from labelgen.types import Relation

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class TestTiledEngineOnADevice(EngineSuite):
    """Tiles of every precision, small enough for many of them, on the CPU as a device."""

    @pytest.fixture(autouse=True, params=DTYPES, ids=str)
    def small(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(product, "fastest", lambda: DeviceProduct(torch.device("cpu"), request.param))
        monkeypatch.setattr(engine, "_LEAST_ROWS", 1)
        monkeypatch.setattr(product, "BLOCK", 32)
        monkeypatch.setattr(device, "_SLAB", 1000)

    def make(self) -> TiledEngine:
        return TiledEngine()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestTiledEngineOnCuda(EngineSuite):
    def make(self) -> TiledEngine:
        return TiledEngine("cuda")


def test_a_device_gets_float16_only_where_its_sums_are_known() -> None:
    assert product_on("cpu").dtype == torch.float32


def test_a_device_that_drops_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return out.copy_((x.bfloat16() @ y.bfloat16()).float())

    monkeypatch.setattr(torch, "mm", rounded)
    with pytest.raises(ConfigError, match="not computed in float32"):
        product_on("cpu")


def test_settings_of_the_caller_come_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction
    with whole_sums():
        assert not matmul.allow_fp16_reduced_precision_reduction
    assert matmul.allow_fp16_reduced_precision_reduction == before


def test_a_scan_lists_what_exceeds_a_floor_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_SLAB", 700)
    draw = np.random.default_rng(1)
    tile = torch.from_numpy(draw.uniform(-1, 1, (70, 150)).astype(np.float32)).to(torch.float16)
    floors = [draw.integers(-(2**31), 2**31 - 1, count).astype(np.int32) for count in (70, 150)]
    floors[0][:9], floors[1][:40] = NOTHING, NOTHING
    floors[0][9] = EVERYTHING
    images = [draw.integers(-1, 9, count).astype(np.int32) for count in (70, 150)]
    values = tile.float().numpy()
    above = [np.where(keys == EVERYTHING, -np.inf, np.where(keys == NOTHING, np.inf, numbers(keys))) for keys in floors]
    expected = (values > above[0][:, None]) | (values > above[1])
    expected &= (images[0][:, None] >= 0) & (images[1] >= 0) & (images[0][:, None] != images[1])
    places, keys, row = [], [], 0
    while row < 70:
        (part, part_keys, count), row = DeviceTile(tile).scan(row, *floors, *images)
        assert count == len(part) <= 700
        places.append(part)
        keys.append(part_keys)
    np.testing.assert_array_equal(np.concatenate(places), np.argwhere(expected))
    np.testing.assert_array_equal(numbers(np.concatenate(keys)), values[expected])


@pytest.mark.parametrize("side", [0, 1])
def test_samples_are_no_more_than_what_they_stand_for(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the r best groups, each of other images, r candidates are at least as good, of r images."""
    monkeypatch.setattr(device, "_GROUPS", 16)
    monkeypatch.setattr(device, "_SLAB", 900)
    draw = np.random.default_rng(2)
    images = [np.sort(draw.integers(0, count // 3, count)).astype(np.int32) for count in (90, 130)]
    images[1][20:50] = 7  # an image longer than any group
    images[1] = np.sort(images[1])
    for image in images:
        image[draw.random(len(image)) < 0.2] = -1
    tile = torch.from_numpy(draw.uniform(-1, 1, (90, 130)).astype(np.float32)).to(torch.float16)
    own, others = images[side], images[1 - side]
    bits, groups, _ = DeviceTile(tile).sample(side, own, others, others)
    sample = np.where(bits == device._NONE, -np.inf, bits.view(np.float32))
    assert len(np.unique(groups)) == len(groups) == bits.shape[1] <= 20
    assert not set(groups.tolist()) & set(own.tolist())
    values = (tile if side == 0 else tile.t()).float().numpy()
    for row in np.flatnonzero(own >= 0):
        kept = (others >= 0) & (others != own[row])
        per_image = [values[row, others == name].max() for name in np.unique(others[kept])]
        best = -np.sort(-np.array(per_image))
        found = -np.sort(-sample[row])
        assert (found <= np.append(best, np.full(len(found), -np.inf))[: len(found)]).all()
        assert found[0] > -np.inf
    assert DeviceTile(tile).sample(side, own, np.full_like(others, -1), others)[0].shape == (len(own), 0)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([8, 64, 384, 1000]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["half steps", "tiny", "parallel"]),
)
def test_no_rows_break_the_bound(seed: int, dim: int, dtype: torch.dtype, kind: str) -> None:
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((40, dim))
    if kind == "half steps":
        values = (1 + draw.integers(0, 1024, (40, dim)) / 1024 + 2.0**-11) * draw.choice([-1, 1], (40, dim))
    elif kind == "tiny":
        values[:, 1:] *= 2.0**-18
    else:
        values = 1 + 2.0**-6 * values
    rows = unit_rows(values)
    scale = (1 / np.sqrt((rows.astype(np.float64) ** 2).sum(1))).astype(np.float32)
    product = DeviceProduct(torch.device("cpu"), dtype)
    unit = torch.empty(rows.shape, dtype=dtype)
    loss = product.lower(rows.astype(np.float32) * scale[:, None], unit)
    computed = product.tile(unit, unit, product.buffers()).similarities.double().numpy()
    errors = product.errors(dim, loss, 0)
    assert (np.abs(computed - block_similarity(rows, rows)) <= errors.of(computed)).all()


def test_a_device_makes_mutual_strips_of_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("image", [0] * 500, requests_of([Relation.I2I], (5,)), image=clustered_rows(500, 64, seed=2))
    assert all(strip.mutual for strip in TiledEngine("cpu").schedule(plan))
    monkeypatch.setattr(engine, "_LEAST_ROWS", 1)
    monkeypatch.setattr(engine, "_WORK", 150.0**2 * 64)
    assert len(TiledEngine().schedule(plan)) > 1 == len(TiledEngine("meta").schedule(plan))
