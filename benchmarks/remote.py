"""A first batch and warm batches of a store at a distance, against a server of this machine that answers late.

    python benchmarks/remote.py --latency 0.05 --batches 200

Prints requests, round trips (sets of requests of which each began when all of the one before had ended), bytes and
seconds of opening and a first batch of `rsc()` labels, of a second batch, and the time of warm batches beside those of
the same store in a folder, in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import labelgen
from labelgen.loader.blocks import SoftLabeler
from labelgen.testing.servers import FolderServer
from labelgen.testing.stores import make_store

IMAGES, CAPTIONS, BATCH = 31_014, 5, 256


def serve(folder: Path, latency: float, pipe: Any) -> None:
    """A server in a process of its own; sends its address, then its counts whenever it is asked for them."""
    with FolderServer(folder, latency=latency) as server:
        pipe.send(server.url)
        while pipe.recv():
            time.sleep(0.2)
            rows = [request for request in server.requests if "/embeddings/" in request.path]
            read = sum(request.bytes for request in rows)
            pipe.send((len(server.requests), server.round_trips(), server.bytes_sent(), read))
            server.requests.clear()


def batch(draw: np.random.Generator) -> tuple[list[str], list[str]]:
    """Random images, each with one of its captions."""
    rows = draw.choice(IMAGES, BATCH, replace=False)
    return [f"img-{row}" for row in rows], [f"cap-{CAPTIONS * row + draw.integers(CAPTIONS)}" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before every answer")
    parser.add_argument("--batches", type=int, default=200, help="warm batches of each store, in turn")
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LABELGEN_CACHE"] = str(folder / "cache")
        make_store(folder / "store", n_images=IMAGES, dims={"text": options.dim, "image": 64}, lists=False)
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=serve, args=(folder, options.latency, theirs), daemon=True)
        server.start()
        measure(folder / "store", ours.recv() + "/store", ours, options)
        ours.send(False)
        server.join()


def measure(near: Path, url: str, pipe: Any, options: argparse.Namespace) -> None:
    draw = np.random.default_rng(0)
    needed = BATCH * CAPTIONS * 2 * options.dim
    print(
        f"{IMAGES * CAPTIONS:,} captions, batch {BATCH}, rsc(), {1000 * options.latency:.0f} ms added to every answer"
    )
    print(f"{'':24}{'seconds':>9}{'requests':>10}{'trips':>7}{'MB':>8}{'rows MB':>9}{'needed':>8}")
    labeler = None
    for label in ("opening, first batch", "second batch"):
        images, captions = batch(draw)
        began = time.perf_counter()
        labeler = labeler or SoftLabeler(labelgen.open(url), "rsc()")
        labeler(images, captions)
        seconds = time.perf_counter() - began
        pipe.send(True)
        requests, trips, size, rows = pipe.recv()
        row = f"{label:24}{seconds:9.2f}{requests:10}{trips:7}{size / 1e6:8.2f}{rows / 1e6:9.2f}"
        print(f"{row}{rows / needed:7.2f}x")
    assert labeler is not None
    readers = {"folder": SoftLabeler(labelgen.open(near), "rsc()"), "warm cache": labeler}
    batches = [batch(draw) for _ in range(max(1, options.batches // 5))]
    for images, captions in batches:  # into the cache
        labeler(images, captions)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(options.batches):
        for name in sorted(readers, key=lambda item: (item == "folder") == bool(number % 2)):
            began = time.perf_counter()
            readers[name](*batches[number % len(batches)])
            times[name].append(time.perf_counter() - began)
    for name, taken in times.items():
        print(f"{name:24}{1000 * statistics.median(taken):9.2f} ms a batch (median of {len(taken)})")
    ratio = statistics.median(b / a for a, b in zip(times["folder"], times["warm cache"], strict=True))
    print(f"{'ratio':24}{ratio:9.3f}")


if __name__ == "__main__":
    main()
