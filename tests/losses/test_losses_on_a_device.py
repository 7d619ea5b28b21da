"""Losses on accelerators: the same numbers, and no waiting for the device in a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import CASES, drawn
from torch.utils._python_dispatch import TorchDispatchMode

from labelgen import losses

every = pytest.mark.parametrize("name", CASES)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

#: Operations whose result, or its shape, must be known to the CPU: a queue of work on a device stops there.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_dim", "equal", "is_nonzero"}


class Waits(TorchDispatchMode):
    """Collects the operations that would make the CPU wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in {"index", "index_put_", "index_put"} and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if name in WAITING or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    """CUDA raises an error where the CPU waits for it."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def tensors(size: int, device: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    scores, labels, where = (torch.tensor(part, device=device) for part in drawn(size, seed=3))
    return scores.to(dtype).requires_grad_(), labels.to(dtype), where


def test_a_wait_is_seen() -> None:
    scores, labels, where = tensors(5, "cpu")
    with Waits() as waits:
        _ = labels[where]
        _ = scores.sum().item()
    assert len(waits.found) == 2


@every
@pytest.mark.parametrize("size", [1, 7, 80])
def test_no_step_waits_for_the_device(name: str, size: int) -> None:
    scores, labels, where = tensors(size, "cpu", torch.float32)
    with Waits() as waits:
        CASES[name](losses, scores, labels, where).backward()
    assert waits.found == []


@every
@needs_cuda
def test_values_and_gradients_on_cuda_are_those_of_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        scores, labels, where = tensors(80, device)
        loss = CASES[name](losses, scores, labels, where)
        loss.backward()
        assert loss.device.type == device
        assert scores.grad is not None
        found.append((loss.item(), scores.grad.cpu().numpy()))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-7, atol=1e-12)


@every
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_step_waits_for_cuda(name: str, dtype: torch.dtype) -> None:
    if name == "info_nce_images":
        pytest.skip("gets rows of images as a numpy array, which is copied to the device")
    scores, labels, where = tensors(80, "cuda", dtype)
    CASES[name](losses, scores, labels, where).backward()  # kernels are loaded
    torch.cuda.synchronize()
    with no_waiting():
        CASES[name](losses, scores, labels, where).backward()


@needs_cuda
def test_large_batches_are_cut_on_cuda() -> None:
    """Several blocks of queries there, many here."""
    size = 1024
    for loss in (losses.kendall, losses.smooth_ndcg):
        found = []
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            scores = (torch.rand(size, size, dtype=torch.float64) * 2 - 1).to(device).requires_grad_()
            value = loss(scores, torch.rand(size, size, dtype=torch.float64).to(device))
            value.backward()
            assert scores.grad is not None
            found.append((value.item(), scores.grad.cpu().numpy()))
        np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9)
        np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-6, atol=1e-12)
