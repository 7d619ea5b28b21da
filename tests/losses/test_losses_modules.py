"""The torch shell: totals of the methods, temperatures within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelgen import losses
from labelgen.errors import ConfigError
from labelgen.losses import modules
from labelgen.relevance.base import BlockRequest, Blocks, scheme
from labelgen.types import Relation

SIZE = 6


@pytest.fixture
def blocks() -> Blocks:
    """Six pairs, the first two of one image."""
    random = np.random.default_rng(0)
    rows = np.array([4, 4, 1, 2, 7, 9])
    vectors = random.normal(size=(2, SIZE, 5))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    images, texts = (np.float32(side @ side.T) for side in vectors)
    needs = {BlockRequest(Relation.I2I): images, BlockRequest(Relation.T2T): texts, BlockRequest(Relation.I2T): texts}
    table = {BlockRequest(Relation.I2T): {0.0: -1.0, 0.5: 0.1, 1.0: 1.0}}
    return Blocks(needs, rows, rows, quantiles=table)


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.tensor(np.random.default_rng(1).uniform(-1, 1, (SIZE, SIZE)), dtype=torch.float32, requires_grad=True)


def labels_of(text: str, blocks: Blocks):  # type: ignore[no-untyped-def]
    return scheme(text).relevance(blocks).map(torch.from_numpy)


def test_cusa(blocks: Blocks, scores: torch.Tensor) -> None:
    soft = labels_of("cusa", blocks)
    module = modules.Cusa()
    uni = {"image_scores": scores, "text_scores": scores}
    wanted = (
        losses.info_nce(scores, image_rows=soft.image_rows, reduction="cusa")
        + 0.1 * losses.csa(scores, soft.i2i, relevance_t2i=soft.t2t)
        + 0.5 * losses.usa(scores, scores, soft.i2i, soft.t2t)
    )
    found = module(scores, soft, **uni)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert {name for name, value in module.named_parameters() if value.grad is not None} == {
        "info_nce.temperature.value",
        "csa_temperature.value",
        "usa_temperature.value",
    }
    assert module(scores, soft).item() < found.item()
    with pytest.raises(ConfigError):
        module(scores, soft, image_scores=scores)


def test_bcls(blocks: Blocks, scores: torch.Tensor) -> None:
    soft = labels_of("bcls", blocks)
    triplet = losses.triplet_soft_negative(scores, where=~soft.same_image)
    wanted = triplet + 2 * losses.kendall(scores, soft.i2t, gap=0.2)
    torch.testing.assert_close(modules.Bcls(2, gap=0.2)(scores, soft), wanted)
    wanted = triplet + losses.sliding_window_kendall(scores, soft.relevance, window=3)
    torch.testing.assert_close(modules.Bcls(window=3)(scores, soft), wanted)
    apart = losses.sliding_window_kendall(scores, soft.relevance, window=3, min_gap=0.3, where=soft.where)
    wanted = losses.triplet_soft_negative(scores, where=soft.where & ~soft.same_image) + apart
    found = modules.Bcls(window=3, min_gap=0.3)(scores, soft)
    torch.testing.assert_close(found, wanted)
    assert found != modules.Bcls(window=3)(scores, soft)


def test_listwise(blocks: Blocks, scores: torch.Tensor) -> None:
    soft = labels_of("rsc", blocks)
    triplet = losses.triplet_hard_negative(scores, where=~soft.same_image)
    wanted = 0.7 * triplet + 0.3 * losses.smooth_ndcg(scores, soft.relevance)
    torch.testing.assert_close(modules.Listwise(0.3)(scores, soft), wanted)


def test_fine_grained_and_language_margin(blocks: Blocks, scores: torch.Tensor) -> None:
    soft = labels_of("fine_grained", blocks)
    wanted = losses.pairwise_mean_variance(scores, soft.same_image, weights=soft.weights)
    torch.testing.assert_close(modules.FineGrained()(scores, soft), wanted)
    soft = labels_of("language_margin(percentile=50)", blocks)
    wanted = losses.language_margin(scores, soft.relevance, threshold=0.1, where=~soft.same_image)
    torch.testing.assert_close(modules.LanguageMargin()(scores, soft), wanted)


def test_a_temperature_stays_within_its_bounds() -> None:
    temperature = modules.Temperature(0.45, 0.10, 0.99)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=100.0)
    for target in (10.0, -10.0):
        optimizer.zero_grad()
        (temperature() - target).square().backward()
        assert temperature.value.grad is not None
        optimizer.step()
        assert temperature().item() == pytest.approx(0.99 if target > 0 else 0.10)
    assert temperature.state_dict()["value"].item() == pytest.approx(0.10)
    assert "0.1 in [0.1, 0.99]" in repr(temperature)
    with pytest.raises(ConfigError):
        modules.Temperature(0.5, 0.6, 0.7)


def test_a_temperature_at_its_bound_can_come_back() -> None:
    """A clamp in the graph would have gradient 0 beyond the bound, for ever."""
    temperature = modules.Temperature(0.10, 0.01, 0.10)
    temperature.value.data.fill_(0.2)
    temperature().backward()
    assert temperature.value.grad is not None
    assert temperature.value.grad.item() == 1


def test_soft_labels_move_like_tensors(blocks: Blocks) -> None:
    soft = labels_of("cusa", blocks).to("cpu", non_blocking=True)
    assert all(isinstance(value, torch.Tensor) for value in soft.arrays().values())
