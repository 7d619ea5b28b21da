"""Reading stores: import, help, open, blocks, neighbour rows; beside zarr's own indexing of the same arrays.

    python benchmarks/reading.py stores/bench/flickr30k stores/bench/flickr8k

The first store gives the text relations (155,070 captions), the second one the image relation (1,280-d); both are made
by benchmarks/builds.py. Values are compared before a time is printed. One BLAS thread; medians of warm calls.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import labelgen

Row: TypeAlias = "tuple[str, float, float | None, str]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a store with t2t lists")
    parser.add_argument("images", type=Path, help="a store with image rows")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    rows = _commands()
    with threadpool_limits(1):
        rows += _texts(options.texts, options.repeats) + _images(options.images, options.repeats)
    print(f"| what | labelgen | zarr {zarr.__version__} | target |\n|---|---|---|---|")
    for what, ours, theirs, target in rows:
        print(f"| {what} | {_ms(ours)} | {_ms(theirs)} | {target} |")


def _commands() -> list[Row]:
    """Whole processes: the start of the interpreter is included, and shown beside."""
    python = _median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 7)
    imported = _median(lambda: subprocess.run([sys.executable, "-c", "import labelgen"], check=True), 7)
    script = Path(sys.executable).with_name("labelgen")
    helped = _median(lambda: subprocess.run([script, "--help"], check=True, stdout=subprocess.DEVNULL), 7)
    return [
        ("interpreter start", python, None, ""),
        ("`import labelgen` (with the interpreter)", imported, None, "250 ms"),
        ("`labelgen --help`", helped, None, "400 ms"),
    ]


def _texts(path: Path, repeats: int) -> list[Row]:
    store = labelgen.open(path)
    draw = np.random.default_rng(0)
    text = store.embeddings("text", "text")
    images = draw.choice(len(store.offsets) - 1, 256, replace=False)
    captions = store.offsets[images] + draw.integers(0, 5, 256) % np.diff(store.offsets)[images]
    sets = np.concatenate([np.arange(store.offsets[v], store.offsets[v + 1]) for v in images])
    rows = draw.choice(text.shape[0], 256, replace=False)
    group = zarr.open_group(path, mode="r")
    z_text = group["embeddings/text/text"]
    listed = next(entry.path for entry in store.manifest.neighbors if entry.path.startswith("neighbors/t2t"))
    z_ids, z_scores = group[f"{listed}/ids"], group[f"{listed}/scores"]
    found = store.neighbors("t2t", rows=rows)
    np.testing.assert_array_equal(found.rows, z_ids.oindex[rows])
    np.testing.assert_array_equal(found.scores, z_scores.oindex[rows])
    theirs = _zarr_block(z_text, captions, captions)
    np.testing.assert_allclose(store.block("t2t", caption_rows=captions), theirs, atol=2e-3)
    few = max(5, repeats // 20)
    expected = store.block("i2t", image_rows=images, caption_rows=captions)
    single = store.block("i2t", image_rows=images, caption_rows=captions, exact=False)
    np.testing.assert_allclose(single, expected, atol=1e-6, rtol=0)
    return [
        (
            f"open a store of {text.shape[0]:,} captions",
            _median(lambda: labelgen.open(path), 20),
            _median(lambda: zarr.open_group(path, mode="r"), 20),
            "100 ms",
        ),
        (
            f"block t2t 256 x 256, {text.shape[1]}-d",
            _median(lambda: store.block("t2t", caption_rows=captions), repeats),
            _median(lambda: _zarr_block(z_text, captions, captions), few),
            "1 ms",
        ),
        (
            f"block i2t 256 x 256, {text.shape[1]}-d, {len(sets)} captions of the images",
            _median(lambda: store.block("i2t", image_rows=images, caption_rows=captions), repeats),
            _median(lambda: _zarr_block(z_text, sets, captions), few),
            "",
        ),
        (
            "the same with `exact=False`, as in training batches",
            _median(lambda: store.block("i2t", image_rows=images, caption_rows=captions, exact=False), repeats),
            _median(lambda: _zarr_block(z_text, sets, captions), few),
            "3 ms",
        ),
        (
            "256 neighbour rows of 64",
            _median(lambda: store.neighbors("t2t", rows=rows), repeats),
            _median(lambda: (z_ids.oindex[rows], z_scores.oindex[rows]), few),
            "0.2 ms",
        ),
    ]


def _images(path: Path, repeats: int) -> list[Row]:
    store = labelgen.open(path)
    image = store.embeddings("image", "image")
    images = np.random.default_rng(0).choice(image.shape[0], 256, replace=False)
    z_image = zarr.open_group(path, mode="r")["embeddings/image/image"]
    theirs = _zarr_block(z_image, images, images)
    live = np.diagonal(theirs) > 0
    ours = store.block("i2i", image_rows=images[live])
    np.testing.assert_allclose(ours, theirs[np.ix_(live, live)], atol=2e-3)
    return [
        (
            f"block i2i 256 x 256, {image.shape[1]}-d",
            _median(lambda: store.block("i2i", image_rows=images, missing="mask"), repeats),
            _median(lambda: _zarr_block(z_image, images, images), max(5, repeats // 20)),
            "3 ms",
        )
    ]


def _zarr_block(array: zarr.Array, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a user of plain zarr writes: read the rows, multiply in float32 (not exact)."""
    a = np.asarray(array.oindex[left], np.float32)
    return a @ (a if right is left else np.asarray(array.oindex[right], np.float32)).T


def _median(call: Callable[[], object], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    main()
