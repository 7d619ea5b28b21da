"""Soft labels of a batch, and a DataLoader with and without them; beside what people do without labelgen.

    python benchmarks/loader.py stores/bench/flickr30k stores/bench/flickr8k --data ../shared/data

The first store gives the text schemes (155,070 captions), the second one those with images and the photographs that
are decoded. The other ways get the same batches: rows read by zarr-python, by pyarrow from parquet, or from a pickled
dict in memory, then a float32 product with numpy. Results are compared before a time is printed. One BLAS thread;
medians.
"""

from __future__ import annotations

import argparse
import io
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from PIL import Image
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset, default_collate

import labelgen
from labelgen.loader import OnDevice, SoftLabelCollate, SoftLabeler

BATCH = 256
TEXT = ["bcls()", "rsc()", "language_margin()", "fine_grained()"]
BOTH = ["cusa()", "cusa(mode='add')", "cusa(mode='dot')"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="a store with texts")
    parser.add_argument("images", type=Path, help="a store with texts and images")
    parser.add_argument("--data", type=Path, help="shared data, for the photographs of flickr8k")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--photos", type=int, default=1536, help="photographs decoded an epoch")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with threadpool_limits(1):
        _schemes(options.texts, TEXT, options.repeats)
        _schemes(options.images, BOTH, options.repeats)
        _other_ways(options.texts, options.repeats)
    if options.data:
        _loader(options.images, options.data / "flickr8k" / "images", options.photos, options.rounds)


def _pairs(store: labelgen.Store, seed: int = 0) -> tuple[list[str], list[str]]:
    """Ids of a random batch of train pairs, all with embeddings."""
    draw = np.random.default_rng(seed)
    rows = store.splits["train"]
    images = draw.choice(np.asarray(rows), 2 * BATCH, replace=False)
    images = images[np.diff(store.offsets)[images] > 0]
    captions = store.offsets[images] + draw.integers(0, np.diff(store.offsets)[images])
    for entry in store.manifest.embeddings:
        own = images if entry.modality == "image" else captions
        alive = (store.embeddings(entry.alias, entry.modality).take(own) != 0).any(axis=1)
        images, captions = images[alive], captions[alive]
    return store.image_ids(images[:BATCH]), store.caption_ids(captions[:BATCH])


def _schemes(path: Path, schemes: list[str], repeats: int) -> None:
    store = labelgen.open(path)
    images, captions = _pairs(store)
    print(f"\n{path.name}: {store.offsets[-1]:,} captions, batch {BATCH}\n")
    print("| scheme | blocks | soft labels | target |\n|---|---|---|---|")
    for text in schemes:
        labeller = SoftLabeler(store, text)
        blocks = labeller.blocks(labeller.batch(images, captions))
        for need, block in blocks.similarities.items():
            sides: dict[str, Any] = {} if need.relation == "i2i" else {"caption_ids": captions}
            sides |= {} if need.relation == "t2t" else {"image_ids": images}
            np.testing.assert_allclose(block, store.block(need.relation, alias=need.alias, **sides), atol=1e-6, rtol=0)
        seconds = _median(lambda made=labeller: made(images, captions), repeats)
        needs = ", ".join(sorted(map(str, labeller.scheme.needs)))
        print(f"| `{text}` | {needs} | {_ms(seconds)} | 4 ms |")
    _on_devices(store, schemes[0], images, captions, repeats)
    for name, call in {
        "ids to rows": lambda: (store.image_rows(images), store.caption_rows(captions)),
        "block t2t": lambda: store.block("t2t", caption_ids=captions),
        "block i2t": lambda: store.block("i2t", images, captions),
        "block i2t, exact=False": lambda: store.block("i2t", images, captions, exact=False),
        "numpy float32 i2t": _numpy_i2t(store, images, captions),
    }.items():
        print(f"| ({name} alone) | | {_ms(_median(call, repeats))} | |")


def _on_devices(store: labelgen.Store, scheme: str, images: list[str], captions: list[str], repeats: int) -> None:
    """The same labels by `OnDevice`, on the CPU device and on CUDA where there is one."""
    expected = SoftLabeler(store, scheme, exact=True)(images, captions).relevance
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype, tolerance in {"float32": 1e-6, "float16": 1e-3}.items():
            labeler = OnDevice(store, scheme, device, dtype=dtype)
            relevance = labeler(images, captions).relevance.cpu().numpy()
            np.testing.assert_allclose(relevance, expected, atol=tolerance, rtol=0)

            def call(labeler: OnDevice = labeler) -> None:
                labeler(images, captions).relevance[0, 0].item()  # waits for the device

            print(f"| `{scheme}`, `OnDevice` {device} {dtype} | | {_ms(_median(call, repeats))} | |")


def _numpy_i2t(store: labelgen.Store, images: list[str], captions: list[str]) -> Callable[[], Any]:
    """The same block in plain numpy, with the conversion, lengths and grouping that it needs."""
    (text,) = [entry.array for entry in store.manifest.embeddings if entry.modality == "text"]
    stored, rows = store.array(text), store.caption_rows(captions)
    owners = store.image_rows(images)
    starts, sizes = store.offsets[owners], np.diff(store.offsets)[owners]
    members = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])
    firsts = np.cumsum(sizes) - sizes

    def call() -> Any:
        x, y = stored.take(members).astype(np.float32), stored.take(rows).astype(np.float32)
        products = x @ y.T
        products /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        products /= np.sqrt(np.einsum("ij,ij->i", y, y))
        return np.maximum.reduceat(products, firsts, axis=0)

    exact = store.block("i2t", images, captions)
    np.testing.assert_allclose(call(), exact, atol=2e-6, rtol=0)  # not ours, which keep 1e-6
    np.testing.assert_allclose(store.block("i2t", images, captions, exact=False), exact, atol=1e-6, rtol=0)
    return call


def _other_ways(path: Path, repeats: int) -> None:
    """t2t of one batch: labelgen, zarr-python, parquet, a pickled dict."""
    store = labelgen.open(path)
    _, captions = _pairs(store)
    rows = store.caption_rows(captions)
    text = store.embeddings("text", "text")
    everything = np.asarray(text)
    array = zarr.open_group(path, mode="r")["embeddings/text/text"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        flat = pa.array(everything.astype(np.float32).ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, everything.shape[1])
        pq.write_table(pa.table({"row": lists}), file, row_group_size=1024, compression="none")
        ids = store.caption_ids(range(len(text)))
        kept = io.BytesIO()
        pickle.dump({name: row[None] for name, row in zip(ids, everything.astype(np.float32), strict=True)}, kept)
        started = time.perf_counter()
        pickled = pickle.loads(kept.getvalue())  # noqa: S301 - made two lines above
        loading = time.perf_counter() - started
        ways: dict[str, Callable[[], Any]] = {
            "labelgen (exact)": lambda: store.block("t2t", caption_ids=captions),
            "zarr-python": lambda: _product(np.asarray(array.oindex[rows], np.float32)),
            "parquet": lambda: _product(_parquet_rows(file, rows, everything.shape[1])),
            "pickled dict in memory": lambda: _product(np.concatenate([pickled[name] for name in captions])),
        }
        ours = ways["labelgen (exact)"]()
        for way in ways.values():
            np.testing.assert_allclose(way(), ours, atol=2e-3)
        print(f"\nt2t of one batch, {len(text):,} x {everything.shape[1]} rows\n")
        print("| way | time | memory a process |\n|---|---|---|")
        for name, way in ways.items():
            few = repeats if "labelgen" in name or "dict" in name else max(3, repeats // 20)
            size = f"{len(kept.getvalue()) / 1e6:.0f} MB, {loading:.1f} s to load" if "dict" in name else "shared pages"
            print(f"| {name} | {_ms(_median(way, few))} | {size} |")


def _product(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rows @ rows.T


def _parquet_rows(file: Path, rows: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Reads the row groups that hold the rows."""
    with pq.ParquetFile(file) as table:
        taken = np.empty((len(rows), width), np.float32)
        for group in np.unique(rows // 1024):
            column = table.read_row_group(int(group))["row"].combine_chunks()
            values = column.flatten().to_numpy().reshape(-1, width)
            here = rows // 1024 == group
            taken[here] = values[rows[here] % 1024]
    return taken


class Photos(Dataset[Any]):
    """Decoded photographs with their ids."""

    def __init__(self, files: list[Path], image_ids: list[str], caption_ids: list[str]) -> None:
        self.files, self.image_ids, self.caption_ids = files, image_ids, caption_ids

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> dict[str, Any]:
        with Image.open(self.files[at]) as image:
            pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
        return {"image": pixels, "image_id": self.image_ids[at], "caption_id": self.caption_ids[at]}


def _loader(path: Path, folder: Path, count: int, rounds: int) -> None:
    store = labelgen.open(path)
    frame = store.images.filter((store.images["status"] == "ok") & (store.images["n_captions"] > 0)).head(count)
    rows = frame["image_row"].to_numpy().astype(np.int64)
    data = Photos(
        [folder / name for name in frame["file"]], frame["image_id"].to_list(), store.caption_ids(store.offsets[rows])
    )
    ways = {
        "without": default_collate,
        "bcls()": SoftLabelCollate(store),
        "cusa()": SoftLabelCollate(store, scheme="cusa()"),
    }
    loaders = {
        name: DataLoader(
            data, BATCH, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True, collate_fn=way
        )
        for name, way in ways.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    order = list(loaders)
    for _ in range(rounds + 1):  # in turn, each of them first in a third of the rounds; round one starts the workers
        order.append(order.pop(0))
        for name in order:
            started = time.perf_counter()
            seen = sum(len(batch["image"]) for batch in loaders[name])
            rates[name].append(seen / (time.perf_counter() - started))
    print(f"\nDataLoader, 2 workers, {len(data)} photographs, batch {BATCH}\n")
    print("| labels | photographs/s | share, median of rounds (95 %, bootstrap) | target |\n|---|---|---|---|")
    for name, found in rates.items():
        shares = [ours / plain for ours, plain in zip(found[1:], rates["without"][1:], strict=True)]
        target = "" if name == "without" else "0.95"
        draws = np.random.default_rng(0).choice(shares, (2000, len(shares)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
        share = f"{statistics.median(shares):.3f} ({low:.3f}-{high:.3f})"
        print(f"| {name} | {statistics.median(found[1:]):,.0f} | {share} | {target} |")


def _median(call: Callable[[], Any], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    main()
