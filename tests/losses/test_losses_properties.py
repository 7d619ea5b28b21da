"""The numeric contract: permutations, directions, shifts, masks, limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import CASES, ONE_SIDED, SHIFT_INVARIANT, TIES_BY_POSITION, distinct, drawn

from labelgen import losses
from labelgen.testing import loss_oracles

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"info_nce_images"}))
@few
@given(size=st.integers(2, 7), seed=seeds)
def test_order_of_the_batch_does_not_matter(name: str, size: int, seed: int) -> None:
    scores, labels, where = drawn(size, seed)
    labels = distinct(size, seed) if name in TIES_BY_POSITION else labels
    order = np.random.default_rng(seed).permutation(size)
    moved = [array[np.ix_(order, order)] for array in (scores, labels, where)]
    found = CASES[name](losses, scores, labels, where)
    np.testing.assert_allclose(CASES[name](losses, *moved), found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(CASES) - ONE_SIDED))
@few
@given(size=st.integers(1, 7), seed=seeds)
def test_swapping_modalities_is_transposing(name: str, size: int, seed: int) -> None:
    scores, labels, where = drawn(size, seed)
    found = CASES[name](losses, scores, labels, where)
    np.testing.assert_allclose(CASES[name](losses, scores.T, labels.T, where.T), found, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", sorted(SHIFT_INVARIANT))
@few
@given(size=st.integers(1, 7), seed=seeds, constant=st.floats(-10, 10))
def test_a_constant_added_to_the_scores_changes_nothing(name: str, size: int, seed: int, constant: float) -> None:
    scores, labels, where = drawn(size, seed)
    found = CASES[name](losses, scores, labels, where)
    np.testing.assert_allclose(CASES[name](losses, scores + constant, labels, where), found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"info_nce_images"}))
@few
@given(size=st.integers(2, 7), seed=seeds, data=st.data())
def test_masking_pairs_is_removing_them(name: str, size: int, seed: int, data: st.DataObject) -> None:
    """What is masked may even be NaN."""
    scores, labels, where = drawn(size, seed, masked=0.1)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    smaller = [array[np.ix_(kept, kept)] for array in (scores, labels, where)]
    wanted = CASES[name](losses, *smaller) if kept.any() else 0.0
    where = where & kept[:, None] & kept[None, :]
    np.testing.assert_allclose(CASES[name](losses, scores, labels, where), wanted, rtol=1e-9, atol=1e-12)
    hidden = ~kept[:, None] | ~kept[None, :]
    np.fill_diagonal(hidden, False)
    spoilt = np.where(hidden, np.nan, scores)
    np.testing.assert_allclose(CASES[name](losses, spoilt, labels, where), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 4])
def test_all_masked_is_zero_with_zero_gradient(name: str, size: int) -> None:
    scores, labels, _ = drawn(size, 0)
    where = np.zeros((size, size), bool)
    assert CASES[name](losses, scores, labels, where) == 0
    by_torch = torch.tensor(scores, requires_grad=True)
    loss = CASES[name](losses, by_torch, labels, where)
    loss.backward()
    assert loss.item() == 0
    assert by_torch.grad is not None
    assert (by_torch.grad == 0).all()
    value, gradient = jax.value_and_grad(lambda s: CASES[name](losses, s, labels, where))(jnp.asarray(scores))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_one(name: str) -> None:
    scores, labels = np.array([[0.3]]), np.array([[1.0]])
    by_torch = torch.tensor(scores, requires_grad=True)
    loss = CASES[name](losses, by_torch, labels, None)
    loss.backward()
    assert abs(loss.item() - CASES[name](loss_oracles, scores, labels, None)) < 1e-12
    assert by_torch.grad is not None
    assert torch.isfinite(by_torch.grad).all()


@pytest.mark.parametrize("name", CASES)
def test_nan_scores_show(name: str) -> None:
    """A NaN that counts is never swallowed by a comparison."""
    scores, labels, _ = drawn(4, 1)
    labels[0, 1], labels[0, 2] = 0.0, 1.0
    scores[0, 1] = np.nan
    with np.errstate(invalid="ignore"):
        value = CASES[name](losses, scores, labels, None)
    if not name.startswith("windows"):  # windows look at the ends of sorted lists only
        assert np.isnan(value)


@few
@given(size=st.integers(1, 8), seed=seeds, temperature=st.sampled_from([0.001, 0.01, 0.1, 1.0, 100.0]))
def test_smooth_ranks_sum_to_those_of_a_list(size: int, seed: int, temperature: float) -> None:
    scores, _, where = drawn(size, seed)
    ranks = losses.smooth_ranks(scores, temperature=temperature, where=where)
    number = where.sum(axis=1)
    np.testing.assert_allclose(ranks.sum(axis=1), number * (number + 1) / 2, rtol=1e-9)
    assert (ranks[~where] == 0).all()
    for row, kept, found in zip(scores, where, ranks, strict=True):
        wanted = loss_oracles.smooth_ranks(row[kept].tolist(), temperature)
        np.testing.assert_allclose(found[kept], wanted, rtol=1e-9)


@few
@given(size=st.integers(1, 8), seed=seeds, temperature=st.floats(0.001, 1))
def test_triplets_are_ordered(size: int, seed: int, temperature: float) -> None:
    scores, _, where = drawn(size, seed)
    soft, hinge = (
        losses.triplet_soft_negative(scores, temperature=temperature, form=form, where=where)
        for form in ("softplus", "hinge")
    )
    hard = losses.triplet_hard_negative(scores, where=where)
    assert soft >= hinge - 1e-12
    assert hinge >= hard - 1e-12
    assert hard >= 0
    for form in ("softplus", "hinge"):
        sharp = losses.triplet_soft_negative(scores, temperature=1e-5, form=form, where=where)
        assert abs(sharp - hard) < 1e-4


@few
@given(size=st.integers(1, 7), seed=seeds, gap=st.sampled_from([0.0, 0.3, 0.6]))
def test_kendall_is_zero_exactly_without_a_discordant_pair(size: int, seed: int, gap: float) -> None:
    scores, labels, where = drawn(size, seed)
    scores = np.round(scores * 2) / 2  # ties of scores too
    discordant = [
        s[k] > s[j]
        for s, r, w in [*zip(scores, labels, where, strict=True), *zip(scores.T, labels.T, where.T, strict=True)]
        for j in np.flatnonzero(w)
        for k in np.flatnonzero(w)
        if r[j] - r[k] > gap
    ]
    assert (losses.kendall(scores, labels, gap=gap, where=where) > 0) == any(discordant)
    assert losses.kendall(labels, labels, gap=gap, where=where) == 0


@few
@given(size=st.integers(1, 8), seed=seeds)
def test_one_hot_labels_turn_csa_into_info_nce(size: int, seed: int) -> None:
    scores, labels, _ = drawn(size, seed)
    np.fill_diagonal(labels, 1.5)
    aligned = losses.csa(scores, labels, temperature=0.07, relevance_temperature=1e-3)
    np.testing.assert_allclose(aligned, losses.info_nce(scores, temperature=0.07), rtol=1e-9, atol=1e-12)


def test_learnt_temperatures_have_gradients_in_torch_and_jax() -> None:
    scores, labels, _ = drawn(5, 0)
    for loss in (
        lambda s, t: losses.info_nce(s, temperature=t),
        lambda s, t: losses.csa(s, labels, temperature=t),
        lambda s, t: losses.usa(s, s, labels, labels, temperature=t),
    ):
        temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t, loss=loss: loss(torch.tensor(scores), t), temperature)
        loss(torch.tensor(scores), temperature).backward()
        by_jax = jax.grad(lambda t, loss=loss: loss(jnp.asarray(scores), t))(0.5)
        np.testing.assert_allclose(temperature.grad, by_jax, rtol=1e-9)


@pytest.mark.parametrize("loss", [losses.kendall, losses.smooth_ndcg, losses.listnet, losses.csa])
def test_the_text_half_takes_the_transpose(loss) -> None:  # type: ignore[no-untyped-def]
    """Default: R^T. The literal form of two released codes, R in both halves, differs on asymmetric labels."""
    scores, labels, _ = drawn(6, 8)
    assert loss(scores, labels) == loss(scores, labels, relevance_t2i=labels.T)
    assert loss(scores, labels) != loss(scores, labels, relevance_t2i=labels)
    assert loss(scores, labels + labels.T) == loss(scores, labels + labels.T, relevance_t2i=labels + labels.T)


@pytest.mark.parametrize("loss", [losses.kendall, losses.smooth_ndcg])
def test_images_and_captions_need_not_be_as_many(loss) -> None:  # type: ignore[no-untyped-def]
    scores, labels, where = (array[:3] for array in drawn(7, 9))
    wanted = getattr(loss_oracles, loss.__name__)(scores, labels, where=where)
    for make in (np.asarray, torch.tensor, jnp.asarray):
        np.testing.assert_allclose(float(loss(make(scores), labels, where=where)), wanted, rtol=1e-9)
