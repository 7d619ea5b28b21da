"""What a loss refuses, and what debug mode adds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from labelgen import losses
from labelgen.errors import ArrayError, ConfigError

S = np.random.default_rng(0).uniform(-1, 1, (4, 4))
R = np.random.default_rng(1).uniform(0, 1, (4, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.kendall([[1.0]], R), "scores is not an array"),
        (lambda: losses.triplet_hard_negative(S[:3]), "scores have the wrong shape"),
        (lambda: losses.triplet_hard_negative(S[0]), "scores have the wrong shape"),
        (lambda: losses.kendall(S[:0], R[:0]), "scores have the wrong shape"),
        (lambda: losses.kendall(S.astype(int), R), "scores are not real numbers"),
        (lambda: losses.kendall(S.astype(complex), R), "scores are not real numbers"),
        (lambda: losses.kendall(S, R[:3]), "relevance has the wrong shape"),
        (lambda: losses.kendall(S, R[:1]), "relevance has the wrong shape"),
        (lambda: losses.kendall(S[:3], R[:3], relevance_t2i=R[:3]), "relevance_t2i has the wrong shape"),
        (lambda: losses.csa(S, R, where=R > 2), None),
        (lambda: losses.csa(S, R, where=R), "where is not a mask"),
        (lambda: losses.csa(S, R, where=R[0] > 0), "where has the wrong shape"),
        (lambda: losses.usa(S, S, R, R[:2]), "relevance has the wrong shape"),
        (lambda: losses.info_nce(S, image_rows=np.arange(3)), "image_rows has the wrong shape"),
        (lambda: losses.info_nce(S, positives=R), "positives is not a mask"),
        (lambda: losses.info_nce(S, temperature=np.ones(2)), "temperature has the wrong shape"),
        (lambda: losses.pairwise_mean_variance(S, R), "positives is not a mask"),
        (lambda: losses.pairwise_mean_variance(S, R > 0, weights=R[0]), "weights has the wrong shape"),
        (lambda: losses.kendall(torch.tensor(S), jnp.asarray(R)), "two array libraries"),
        (lambda: losses.kendall(S, torch.tensor(R)), "two array libraries"),
    ],
)
def test_wrong_arrays_are_refused(call: Any, message: str | None) -> None:
    if message is None:
        assert call() == 0
        return
    with pytest.raises(ArrayError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.triplet_soft_negative(S, temperature=0),
        lambda: losses.triplet_soft_negative(S, form="softmax"),  # type: ignore[arg-type]
        lambda: losses.smooth_ndcg(S, R, temperature=-1),
        lambda: losses.smooth_ndcg(S, R, temperature=float("nan")),
        lambda: losses.smooth_ndcg(S, R, ideal_ties="dense"),  # type: ignore[arg-type]
        lambda: losses.csa(S, R, relevance_temperature=0),
        lambda: losses.info_nce(S, reduction="sum"),  # type: ignore[arg-type]
        lambda: losses.info_nce(S, image_rows=np.arange(4), positives=R > 0),
        lambda: losses.sliding_window_kendall(S, R, window=1),
        lambda: losses.sliding_window_kendall(S, R, stride=0),
        lambda: losses.sliding_window_kendall(S, R, top=0),
        lambda: losses.language_margin(S, R, threshold=0.5, temperature=0),
    ],
)
def test_wrong_options_are_refused(call: Any) -> None:
    with pytest.raises(ConfigError):
        call()


def spoilt(array: Any, value: float) -> Any:
    array = array.copy()
    array[0, 1] = value
    return array


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda make: losses.kendall(make(spoilt(S, np.nan)), make(R)), "scores: 1 entries"),
        (lambda make: losses.kendall(make(S), make(spoilt(R, np.inf))), "relevance: 1 entries"),
        (lambda make: losses.triplet_hard_negative(make(spoilt(S, np.inf))), "scores: 1 entries"),
        (lambda make: losses.smooth_ndcg(make(S), make(spoilt(R, 1.5))), "relevance: 1 entries"),
        (lambda make: losses.language_margin(make(S), make(spoilt(R, -3)), threshold=0.5), "relevance: 1 entries"),
        (lambda make: losses.pairwise_mean_variance(make(S), make(R > 0.5), weights=make(spoilt(R, -1))), "weights: 1"),
        (lambda make: losses.info_nce(make(S), temperature=make(np.float64(-1))), "temperature is -1"),
    ],
)
def test_debug_mode_looks_at_values(make: Any, call: Any, message: str) -> None:
    with losses.check_values(), pytest.raises(ArrayError, match=message):
        call(make)
    with losses.check_values(), losses.check_values(False), np.errstate(all="ignore"):
        call(make)


def test_debug_mode_forgives_what_does_not_count() -> None:
    with losses.check_values():
        where = np.ones((4, 4), bool)
        where[0, 1] = False
        assert np.isfinite(losses.kendall(spoilt(S, np.nan), spoilt(R, np.nan), where=where))


def test_values_are_not_looked_at_by_default() -> None:
    """On torch's meta device there are no values: looking at one raises. Blocks of queries work there too."""
    scores = torch.rand(4, 4, device="meta", requires_grad=True)
    labels, where = torch.rand(4, 4, device="meta"), torch.ones(4, 4, device="meta", dtype=torch.bool)
    for loss in (
        losses.triplet_hard_negative(scores, where=where),
        losses.triplet_soft_negative(scores, where=where),
        losses.sel_hn_triplet(scores, where=where),
        losses.kendall(scores, labels, where=where),
        losses.sliding_window_kendall(scores, labels, window=2, where=where),
        losses.smooth_ndcg(scores, labels, where=where),
        losses.listnet(scores, labels, where=where),
        losses.info_nce(scores, image_rows=torch.arange(4, device="meta"), where=where),
        losses.csa(scores, labels, temperature=torch.rand((), device="meta"), where=where),
        losses.language_margin(scores, labels, threshold=0.5, where=where),
        losses.pairwise_mean_variance(scores, where, weights=labels),
    ):
        loss.backward()
        assert loss.shape == ()


def test_labels_get_no_gradient() -> None:
    labels = torch.tensor(R, requires_grad=True)
    scores = torch.tensor(S, requires_grad=True)
    (losses.csa(scores, labels) + losses.kendall(scores, labels) + losses.smooth_ndcg(scores, labels)).backward()
    assert labels.grad is None


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    scores = torch.tensor(S, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.smooth_ndcg(scores, R, temperature=0.1), scores, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_autocast_leaves_float32_alone() -> None:
    scores = torch.tensor(S, dtype=torch.float32)
    for loss in (losses.kendall, losses.smooth_ndcg, losses.csa, losses.listnet):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(scores, R)
        assert found == loss(scores, R)
