"""Kendall and smooth NDCG keep no pairs of candidates: peak memory of forward and backward, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 1 << 20

CODE = """
import re, sys
import torch
from labelgen import losses

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def step(size):
    torch.manual_seed(0)
    scores = torch.rand(size, size).requires_grad_()
    labels = torch.rand(size, size)
    getattr(losses, sys.argv[1])(scores, labels).backward()
    assert torch.isfinite(scores.grad).all()

torch.set_num_threads(2)
step(64)  # threads and libraries are there
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = peak()
step(int(sys.argv[2]))
print(peak() - before)
"""


def extra_bytes(loss: str, size: int) -> int:
    ran = subprocess.run([sys.executable, "-c", CODE, loss, str(size)], capture_output=True, text=True, check=False)
    if "clear_refs" in ran.stderr:
        pytest.skip("this system does not say how much memory a process used at most")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.mark.parametrize("loss", ["kendall", "smooth_ndcg"])
def test_a_batch_of_1024_takes_less_than_200_mb(loss: str) -> None:
    """One [B, B, B] of float32 would be 4 GiB."""
    assert extra_bytes(loss, 1024) < 200 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kendall", "smooth_ndcg"])
def test_a_batch_of_4096_takes_less_than_a_gigabyte(loss: str) -> None:
    assert extra_bytes(loss, 4096) < 10**9
