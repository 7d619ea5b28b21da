"""The search and the losses on an accelerator, beside the code that people write there, in one run.

    python benchmarks/gpu.py --device cuda --sizes 50000 155070 600000

Search: all neighbours of n made rows (`labelgen.testing.engines.clustered_rows`, float16), k = 64. The peer is what one
writes in torch: float16 products on the device and `topk`, in pieces of queries, which proves nothing. Before a time is
printed the lists of 100 queries of every relation are compared with brute force in float64: ours must be the same bits,
the recall of the peer is shown. Times include the way of the rows to the device and of the lists back.

Losses: one forward and backward pass of a B x B batch, beside code that keeps all B^3 terms, after values and gradients
were compared; memory is what the allocator of the device counts at its peak.

It prints tables. `--device cpu` with small sizes tries the script.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

DIM, K, PIECE = 384, 64, 8192
SEARCHES = {"labelgen `t2t`": "t2t", "labelgen `t2t`, `i2t`, `t2i`": "t2t+i2t+t2i"}
PEER = "torch float16 + topk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="*", default=[50_000, 155_070, 600_000])
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is printed")
    options = parser.parse_args()
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else platform.processor()
    cores = len(os.sched_getaffinity(0))
    print(f"{name}, {cores} cores, torch {torch.__version__}\n")
    if options.sizes:
        print("| rows | search | median s | beside the first | recall | memory of the device, GB |")
        print("|---|---|---|---|---|---|", flush=True)
    for size in options.sizes:
        _search(size, options)
    if options.batches:
        print("\n| loss | B | ours ms | naive ms | ours MB | naive MB |\n|---|---|---|---|---|---|", flush=True)
        _losses(options)


# ------------------------------------------------------------------------------------------------------------- search


def _search(size: int, options: argparse.Namespace) -> None:
    import search

    from labelgen.testing.engines import clustered_rows

    rows = clustered_rows(size, DIM, seed=1, spread=1.2, clusters=1000)
    offsets = np.append(np.arange(0, size, 5), size).astype(np.int64)
    first = 0.0
    for name, relations in SEARCHES.items():
        ours = lambda rows, offsets, relations=relations: _fused(rows, offsets, relations, options.device)  # noqa: E731
        found, seconds, memory = _timed(ours, rows, offsets, options)
        search._check_ours(found, rows, offsets, K)
        first = first or seconds
        print(f"| {size:,} | {name} | {seconds:.2f} | {seconds / first:.2f} | same bits | {memory:.1f} |", flush=True)
    found, seconds, memory = _timed(lambda rows, _: _topk(rows, options.device), rows, offsets, options)
    recall = search._recall(found, rows, K)
    print(f"| {size:,} | {PEER} | {seconds:.2f} | {seconds / first:.2f} | {recall:.4f} | {memory:.1f} |", flush=True)


def _timed(
    search: Callable[..., Any], rows: Any, offsets: Any, options: argparse.Namespace
) -> tuple[Any, float, float]:
    """What is found, median seconds, and GB of the device at the peak."""
    few = min(len(rows), 10_000)
    search(rows[:few], np.append(np.arange(0, few, 5), few).astype(np.int64))  # loops compile, libraries load
    seconds, found = [], None
    _reset(options.device)
    for _ in range(options.rounds):
        started = time.perf_counter()
        found = search(rows, offsets)
        seconds.append(time.perf_counter() - started)
    return found, statistics.median(seconds), _peak(options.device) / 1e9


def _fused(rows: Any, offsets: Any, relations: str, device: str) -> Any:
    import search

    from labelgen.similarity.base import n_queries
    from labelgen.similarity.sort_keys import PAD_KEY, merge
    from labelgen.similarity.tiled.engine import TiledEngine

    plan = search._plan(rows, offsets, K, relations, memory=32 * 10**9)
    engine = TiledEngine(device, least_rows=1)
    keys: dict[Any, Any] = {}
    for strip in engine.schedule(plan):
        for found in engine.search(plan, strip):
            if found.request not in keys:
                keys[found.request] = np.full((n_queries(plan, found.request), K + 1), PAD_KEY)
            held = keys[found.request][found.first_row : found.first_row + len(found.keys)]
            held[:] = merge([held, found.keys], K + 1)
    return keys


def _topk(rows: Any, device: str) -> Any:
    import search

    unit = torch.from_numpy(search._unit(rows)).to(device).half()
    return torch.cat([(part @ unit.t()).topk(K + 1, dim=1).indices for part in unit.split(PIECE)]).cpu().numpy()


# ------------------------------------------------------------------------------------------------------------- losses


def _losses(options: argparse.Namespace) -> None:
    import losses as naive

    from labelgen import losses

    naive.compare()
    for name, function in (("kendall", losses.kendall), ("smooth_ndcg", losses.smooth_ndcg)):
        for size in options.batches:
            ours = _step(function, size, options)
            theirs = None
            with suppress(torch.OutOfMemoryError):
                theirs = _step(naive.NAIVE[name], size, options)
            times, memories = ([f"{found[i]:,.1f}" if found else "-" for found in (ours, theirs)] for i in (0, 1))
            print(f"| {name} | {size:,} | {' | '.join(times)} | {' | '.join(memories)} |", flush=True)


def _step(function: Callable[..., torch.Tensor], size: int, options: argparse.Namespace) -> tuple[float, float]:
    """Median milliseconds of one pass, and MB that it needs at its peak."""
    torch.manual_seed(0)
    scores = (torch.rand(size, size, device=options.device) * 2 - 1).requires_grad_()
    labels = torch.rand(size, size, device=options.device)
    seconds = []
    for _ in range(options.rounds + 1):
        scores.grad = None
        before = _reset(options.device)
        started = time.perf_counter()
        function(scores, labels).backward()
        memory = _peak(options.device) - before
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * 1e3, memory / 1e6


def _reset(device: str) -> int:
    if device == "cpu":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: str) -> int:
    if device == "cpu":
        return 0
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
