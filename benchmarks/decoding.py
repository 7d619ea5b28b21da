"""Reduced decoding of large photographs: rate of the embed tasks and what it does to rows, at several sizes.

    python benchmarks/decoding.py --data ../shared/data --images 64 --rounds 3

Photographs of Flickr8k are enlarged to JPEGs of each size (quality 90), then read, decoded and encoded by the embed
stage's code, in turn. The similarities compared are those between the photographs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from labelgen.stages.running import worker
from labelgen.stages.work.embed import _encoded_batches
from labelgen.teachers.adapters.bundled import efficientnet_lite

SIDES = (500, 2000, 4000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    worker.configure(worker.WorkerSettings(threads=len(os.sched_getaffinity(0))))
    teachers = {way: efficientnet_lite(size=2, runtime="auto", decode=way) for way in ("full", "reduced")}
    files = sorted((options.data / "flickr8k" / "images").iterdir())[: options.images]
    print("| longer side | full, images/s | reduced, images/s | ratio | smallest cosine | similarities move by up to |")
    print("|---|---|---|---|---|---|")
    for side in SIDES:
        with tempfile.TemporaryDirectory() as folder:
            names = [_enlarged(file, Path(folder), side) for file in files]
            rows, rates = {}, {way: [] for way in teachers}
            for _ in range(options.rounds):
                for way, teacher in teachers.items():
                    started = time.perf_counter()
                    rows[way] = np.concatenate([b.rows for b in _encoded_batches(teacher, Path(folder), names)])
                    rates[way].append(len(names) / (time.perf_counter() - started))
        full, reduced = (rows[way].astype(np.float64) for way in teachers)
        ratio = statistics.median(new / old for old, new in zip(*rates.values(), strict=True))
        found = [statistics.median(found) for found in rates.values()]
        moved = np.abs(full @ full.T - reduced @ reduced.T).max()
        print(f"| {side:,} | {found[0]:.1f} | {found[1]:.1f} | {ratio:.2f} | ", end="")
        print(f"{(full * reduced).sum(1).min():.5f} | {moved:.4f} |", flush=True)


def _enlarged(file: Path, folder: Path, side: int) -> str:
    with Image.open(file) as image:
        scale = side / max(image.size)
        image.resize((round(image.width * scale), round(image.height * scale))).save(folder / file.name, quality=90)
    return file.name


if __name__ == "__main__":
    main()
