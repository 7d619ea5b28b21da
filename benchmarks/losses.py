"""Kendall and smooth NDCG beside the code that one writes first, which keeps all B^3 terms: time and memory in torch.

    python benchmarks/losses.py --sizes 64 128 256 512 --rounds 3

Values and gradients are compared before a time is printed. Every measurement is one forward and backward pass in a
fresh process; memory is what its peak grows by, after a warm-up on 32 pairs. `-` stands for sizes that the naive code
cannot hold in `--limit`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from labelgen import losses

OURS = {"kendall": losses.kendall, "smooth_ndcg": losses.smooth_ndcg}


def naive_kendall(scores: torch.Tensor, labels: torch.Tensor, gap: float = 0.3) -> torch.Tensor:
    """All triples (query, higher, lower) at once."""
    halves = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        pairs = r[:, :, None] - r[:, None, :] > gap
        violations = (s[:, None, :] - s[:, :, None]).clamp(min=0) * pairs
        halves.append(violations.sum() / pairs.sum().clamp(min=1))
    return (halves[0] + halves[1]) / 2


def naive_smooth_ndcg(scores: torch.Tensor, labels: torch.Tensor, temperature: float = 0.01) -> torch.Tensor:
    """All differences of all queries at once."""
    halves = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        ranks = 0.5 + torch.sigmoid((s[:, None, :] - s[:, :, None]) / temperature).sum(dim=2)
        gains = 2**r - 1
        places = torch.arange(1, s.shape[1] + 1, dtype=s.dtype, device=s.device)
        ideal = (gains.sort(dim=1, descending=True).values / torch.log2(1 + places)).sum(dim=1)
        halves.append((1 - (gains / torch.log2(1 + ranks)).sum(dim=1) / ideal).mean())
    return (halves[0] + halves[1]) / 2


NAIVE = {"kendall": naive_kendall, "smooth_ndcg": naive_smooth_ndcg}
#: [B, B, B] of float32 that the naive code holds at its peak, seen on small sizes.
NAIVE_COPIES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is printed")
    parser.add_argument("--limit", type=float, default=4, help="GiB that the naive code may take")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=3, metavar=("WHO", "LOSS", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], int(options.one[2]))))
        return
    compare()
    print(f"torch {torch.__version__}, {options.threads} threads, float32, one forward and backward pass\n")
    print("| loss | B | ours ms | naive ms | naive / ours | ours MB | naive MB |\n|---|---|---|---|---|---|---|")
    for loss in OURS:
        for size in options.sizes:
            print(row(loss, size, options), flush=True)


def compare(size: int = 48) -> None:
    """Stop where the two do not give the same value and gradient."""
    for loss, ours in OURS.items():
        scores, labels = problem(size, torch.float64)
        mine, theirs = ours(scores, labels), NAIVE[loss](scores, labels)
        gradients = [torch.autograd.grad(value, scores)[0] for value in (mine, theirs)]
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


def row(loss: str, size: int, options: argparse.Namespace) -> str:
    ours = several("ours", loss, size, options)
    if NAIVE_COPIES * 4 * size**3 > options.limit * 2**30:
        return f"| {loss} | {size:,} | {ours[0]:,.0f} | - | - | {ours[1]:,.0f} | - |"
    naive = several("naive", loss, size, options)
    times = f"{ours[0]:,.0f} | {naive[0]:,.0f} | {naive[0] / ours[0]:.1f}"
    return f"| {loss} | {size:,} | {times} | {ours[1]:,.0f} | {naive[1]:,.0f} |"


def several(who: str, loss: str, size: int, options: argparse.Namespace) -> tuple[float, float]:
    """Median milliseconds and megabytes."""
    command = [sys.executable, __file__, "--threads", str(options.threads), "--one", who, loss, str(size)]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(options.rounds)
    ]
    return statistics.median(run[0] for run in runs) * 1e3, statistics.median(run[1] for run in runs) / 1e6


def measure(who: str, loss: str, size: int) -> tuple[float, float]:
    """Seconds of the second of two passes, bytes that the first one needs at its peak."""
    function = (OURS if who == "ours" else NAIVE)[loss]
    step(function, 32)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = peak()
    step(function, size)
    grown = peak() - before
    return step(function, size), grown


def step(function: object, size: int) -> float:
    """Seconds of one forward and backward pass."""
    scores, labels = problem(size, torch.float32)
    start = time.perf_counter()
    function(scores, labels).backward()  # type: ignore[operator]
    return time.perf_counter() - start


def problem(size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    scores = torch.rand(size, size, dtype=dtype) * 2 - 1
    return scores.requires_grad_(), torch.rand(size, size, dtype=dtype)


def peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
