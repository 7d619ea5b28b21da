"""Values and gradients of every loss, against plain loops, between libraries, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import CASES, drawn

from labelgen import losses
from labelgen.testing import loss_oracles

every = pytest.mark.parametrize("name", CASES)


@every
@settings(max_examples=12, deadline=None)
@given(size=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), masked=st.sampled_from([None, 0.0, 0.3, 1.0]))
def test_float64_is_the_oracle(name: str, size: int, seed: int, masked: float | None) -> None:
    scores, labels, where = drawn(size, seed, masked=masked or 0.0)
    where = None if masked is None else where
    wanted = CASES[name](loss_oracles, scores, labels, where)
    np.testing.assert_allclose(CASES[name](losses, scores, labels, where), wanted, rtol=1e-9, atol=1e-12)


@every
def test_float32_is_near_the_oracle(name: str) -> None:
    """The oracle sees the same rounded numbers."""
    for seed in range(3):
        scores, labels, where = drawn(24, seed)
        scores, labels = scores.astype(np.float32), labels.astype(np.float32)
        found = CASES[name](losses, scores, labels, where)
        assert found.dtype == np.float32
        rtol = 1e-4 if name == "smooth_ndcg_sharp" else 1e-5
        np.testing.assert_allclose(found, CASES[name](loss_oracles, scores, labels, where), rtol=rtol)


@every
def test_numpy_torch_and_jax_agree(name: str) -> None:
    scores, labels, where = drawn(6, 1)
    value = CASES[name](losses, scores, labels, where)
    by_torch = torch.tensor(scores, requires_grad=True)
    loss = CASES[name](losses, by_torch, torch.tensor(labels), torch.tensor(where))
    loss.backward()
    arguments = jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(where)
    compiled = jax.jit(jax.value_and_grad(lambda s, r, w: CASES[name](losses, s, r, w)))
    jax_value, jax_gradient = compiled(*arguments)
    assert isinstance(value, np.floating | np.ndarray)
    assert value.shape == loss.shape == jax_value.shape == ()
    np.testing.assert_allclose(loss.item(), value, rtol=1e-12)
    np.testing.assert_allclose(jax_value, value, rtol=1e-12)
    assert by_torch.grad is not None
    np.testing.assert_allclose(by_torch.grad, jax_gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(CASES[name](losses, *arguments), value, rtol=1e-12)


@every
@pytest.mark.parametrize("masked", [0.0, 0.3])
def test_gradient_is_that_of_finite_differences(name: str, masked: float) -> None:
    scores, labels, where = drawn(5, 3, masked=masked)
    assert torch.autograd.gradcheck(
        lambda s: CASES[name](losses, s, labels, where), torch.tensor(scores, requires_grad=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "with_gradient", "options"),
    [
        (losses.kendall, losses.kendall_with_gradient, {"margin": 0.1}),
        (losses.smooth_ndcg, losses.smooth_ndcg_with_gradient, {"temperature": 0.2}),
        (losses.smooth_ndcg, losses.smooth_ndcg_with_gradient, {"temperature": 0.2, "ideal_ties": "competition"}),
    ],
)
def test_numpy_has_the_gradient_too(loss, with_gradient, options) -> None:  # type: ignore[no-untyped-def]
    scores, labels, where = drawn(7, 5)
    value, gradient = with_gradient(scores, labels, where=where, **options)
    by_torch = torch.tensor(scores, requires_grad=True)
    loss(by_torch, labels, where=where, **options).backward()
    np.testing.assert_allclose(value, loss(scores, labels, where=where, **options), rtol=1e-12)
    np.testing.assert_allclose(gradient, by_torch.grad, rtol=1e-12, atol=1e-15)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    scores, labels, where = drawn(6, 2)
    rounded = torch.tensor(scores, dtype=dtype)
    half = rounded.clone().requires_grad_()
    loss = CASES[name](losses, half, labels, where)
    loss.backward()
    wide = rounded.float().requires_grad_()
    expected = CASES[name](losses, wide, labels, where)
    expected.backward()
    assert loss.dtype == torch.float32
    if name != "usa":  # its case computes 1 - s, which rounds
        assert loss.item() == expected.item()
        assert half.grad is not None
        assert wide.grad is not None
        torch.testing.assert_close(half.grad, wide.grad.to(dtype))


@every
def test_half_precision_of_numpy_and_jax(name: str) -> None:
    scores, labels, where = drawn(6, 2)
    half = scores.astype(np.float16)
    found = CASES[name](losses, half, labels, where)
    assert found.dtype == np.float32
    if name != "usa":
        assert found == CASES[name](losses, half.astype(np.float32), labels, where)
    assert CASES[name](losses, jnp.asarray(scores, jnp.bfloat16), labels, where).dtype == jnp.float32


@pytest.mark.parametrize("name", ["kendall", "smooth_ndcg", "smooth_ndcg_ties"])
def test_blocks_of_queries_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query at a time, three (the last block is short), all at once; numpy, torch and JAX."""
    scores, labels, where = drawn(7, 4)
    wanted = CASES[name](loss_oracles, scores, labels, where)
    for pairs in (1, 3 * 49, 10**6):
        monkeypatch.setattr("labelgen.losses._namespace.PAIRS_ON_CPU", pairs)
        for make in (np.asarray, torch.tensor, jnp.asarray):
            found = CASES[name](losses, make(scores), make(labels), make(where))
            np.testing.assert_allclose(float(found), wanted, rtol=1e-9)


COLD = {"temperature": 0.001}
SHARP: dict[str, Callable[[Any, Any], Any]] = {
    "softplus": lambda s, r: losses.triplet_soft_negative(s, **COLD),
    "hinge": lambda s, r: losses.triplet_soft_negative(s, form="hinge", **COLD),
    "smooth_ndcg": lambda s, r: losses.smooth_ndcg(s, r, **COLD),
    "listnet": lambda s, r: losses.listnet(s, r, relevance_temperature=0.001, **COLD),
    "info_nce": lambda s, r: losses.info_nce(s, **COLD),
    "csa": lambda s, r: losses.csa(s, r, relevance_temperature=0.001, **COLD),
    "language_margin": lambda s, r: losses.language_margin(s, r, threshold=0.5, **COLD),
}


@pytest.mark.parametrize("name", SHARP)
def test_small_temperatures_are_stable(name: str) -> None:
    """Temperature .001, float32, scores over the whole range of cosines: finite values and gradients."""
    scores, labels, _ = drawn(32, 6)
    by_torch = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    loss = SHARP[name](by_torch, labels)
    loss.backward()
    assert by_torch.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(by_torch.grad).all()
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(loss.item(), SHARP[name](scores, labels), rtol=1e-4)
