"""Damaged files beside a data set and a store: features, patches, judgements, photographs, pairs."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fuzz_harness import check, fuzz, mutated_bytes, mutated_tree, rounds, run
from PIL import Image

_IDS = [f"a{n}.jpg#0" for n in range(8)]


def _rows(dim: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((8, dim)).astype(np.float32)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    data = io.BytesIO()
    save(data)
    return data.getvalue()


def _safetensors() -> bytes:
    from safetensors.numpy import save

    return save(_by_id())


def _by_id() -> dict[str, Any]:
    return dict(zip(_IDS, _rows(), strict=True))


FEATURES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "array": ("f.npy", lambda: _saved(lambda file: np.save(file, _rows()))),
    "archive": ("f.npz", lambda: _saved(lambda file: np.savez(file, **_by_id()))),
    "compressed": ("f.npz", lambda: _saved(lambda file: np.savez_compressed(file, **_by_id()))),
    "ids": ("f.npz", lambda: _saved(lambda file: np.savez(file, ids=np.array(_IDS), features=_rows()))),
    "parquet": ("f.parquet", lambda: _saved(pl.DataFrame({"id": _IDS, "features": _rows().tolist()}).write_parquet)),
    "pickle": ("f.pkl", lambda: pickle.dumps(_by_id())),
    "pickled array": ("f.npy", lambda: _saved(lambda file: np.save(file, np.array(_by_id(), object)))),
    "safetensors": ("f.safetensors", _safetensors),
}  # fmt: skip


@rounds(3, 500)
@pytest.mark.parametrize("kind", FEATURES)
def test_features(examples: int, kind: str, table: Path) -> None:
    """Half of the runs describe the teacher only, the others look every row up."""
    name, make = FEATURES[kind]
    data = make()

    def body(draw: random.Random, count: int, folder: Path) -> None:
        file = folder / name
        file.write_bytes(mutated_bytes(data, draw, count))
        options = [
            *(["ids='ids.txt'"] if draw.random() < 0.1 else []),
            *(["flatten=True"] if draw.random() < 0.2 else []),
        ]
        spec = f"precomputed({', '.join([f'path={str(file)!r}', *options])}, modality='text')"
        shared = ["--dataset", "table", "--root", table, "--teacher", f"text={spec}", "--progress", "none"]
        if draw.random() < 0.5:
            check(run("plan", *shared, "--no-calibrate"), folder)
        else:
            check(run("build", *shared, "--out", folder / "store", "--engine", "numpy", "--k", 2), folder)

    fuzz(examples, body)


PATCH = {
    "format": 1,
    "store_id": "",
    "decisions": [
        {"decision": "add_positive", "image_id": "img-0", "caption_id": "cap-20", "score": 0.5, "reason": "seen"},
        {"decision": "mask_pair", "image_id": "img-1", "caption_id": "cap-30"},
        {"decision": "drop_caption", "caption_id": "cap-40", "author": "me"},
        {"decision": "drop_image", "image_id": "img-7"},
        {"decision": "merge_duplicates", "image_id": "img-9", "into": "img-10"},
    ],
}


def _as_table(kind: str, decisions: Any, store_id: str) -> bytes:
    frame = pl.DataFrame(decisions, strict=False, infer_schema_length=None).with_columns(store_id=pl.lit(store_id))
    return _saved(frame.write_csv if kind == "csv" else frame.write_parquet)


@rounds(20, 2_000)
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_patches(examples: int, kind: str, small_store: Path) -> None:
    store_id = json.loads((small_store / "manifest.json").read_bytes())["store_id"]

    def body(draw: random.Random, count: int, folder: Path) -> None:
        whole = {**PATCH, "store_id": store_id}
        tree = mutated_tree(whole, draw, count) if draw.random() < 0.6 else whole
        if kind == "json":
            data = json.dumps(tree).encode()
        else:
            try:
                data = _as_table(kind, tree["decisions"], store_id)
            except (TypeError, ValueError, KeyError, OverflowError, AttributeError, pl.exceptions.PolarsError):
                return
            except pl.exceptions.PanicException:  # of odd values, while the input is made
                return
        file = folder / f"patch.{kind}"
        file.write_bytes(mutated_bytes(data, draw, count) if tree is whole else data)
        check(run("audit", small_store, "--check", file), folder)

    fuzz(examples, body)


_PAIRS = [(f"img-{n % 12}", f"cap-{(7 * n) % 60}", n % 5) for n in range(20)]
JUDGEMENTS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "table": ("ratings.csv", lambda: _lines(",", [("image_id", "caption_id", "rating"), *_PAIRS])),
    "parquet": ("ratings.parquet", lambda: _saved(
        pl.DataFrame(_PAIRS, schema=["image_id", "caption_id", "rating"], orient="row").write_parquet)),
    "cxc": ("sits_val.csv", lambda: _lines(",", [("caption", "image", "agg_score", "how"), *(
        (f"COCO_val2014:sentid:{c[4:]}", f"COCO_val2014_{i[4:]:>012}.jpg", r, "x") for i, c, r in _PAIRS)])),
    "eccv": ("eccv_image_to_caption.json", lambda: json.dumps(
        {f"img-{n}": [f"cap-{5 * n}", f"cap-{5 * n + 1}"] for n in range(12)}).encode()),
    "experts": ("ExpertAnnotations.txt", lambda: _lines(
        "\t", [(f"img-{n}.jpg", f"img-{n}.jpg#2", 1, 2, 4) for n in range(9)])),
    "sts": ("sts.tsv", lambda: _lines("\t", [("sentence1", "sentence2", "score"), ("text 1", "text 2", 3)])),
}  # fmt: skip


def _lines(separator: str, rows: list[Any]) -> bytes:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


@rounds(8, 1_000)
@pytest.mark.parametrize("kind", JUDGEMENTS)
def test_judgements(examples: int, kind: str, small_store: Path) -> None:
    name, make = JUDGEMENTS[kind]
    data = make()

    def body(draw: random.Random, count: int, folder: Path) -> None:
        file = folder / name
        file.write_bytes(mutated_bytes(data, draw, count))
        check(run("card", small_store, "--against", file, "--bootstrap", 2), folder)

    fuzz(examples, body)


@rounds(15, 1_000)
def test_listed_pairs(examples: int, small_store: Path) -> None:
    data = _lines(
        ",",
        [("caption_id", "image_id", "y"), *((caption, image, n % 2) for n, (image, caption, _) in enumerate(_PAIRS))],
    )

    def body(draw: random.Random, count: int, folder: Path) -> None:
        file = folder / "pairs.csv"
        file.write_bytes(mutated_bytes(data, draw, count))
        check(run("export", small_store, "--for", "fine-grained", "--pairs", file, "--out", folder / "out"), folder)

    fuzz(examples, body)


@rounds(30, 3_000)
def test_photographs(examples: int) -> None:
    """Any bytes are a photograph or have a reason not to be one; the size that was probed is the decoded one's."""
    from labelgen.corpus.photos.photos import PhotoError, decode_photo, probe_photo

    kinds = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
    images = [
        _saved(lambda file, kind=kind: Image.new("RGB", (20, 14), (9, 99, 200)).save(file, kind)) for kind in kinds
    ]

    def body(draw: random.Random, count: int, folder: Path) -> None:
        data = mutated_bytes(draw.choice(images), draw, count)
        (folder / "a.jpg").write_bytes(data)
        reasons: list[str] = []
        for work in (lambda: probe_photo(folder, "a.jpg"), lambda: decode_photo(data)):
            try:
                work()
            except PhotoError as error:
                reasons.append(error.reason)
        assert all(0 < len(reason) < 200 for reason in reasons)

    fuzz(examples, body)


@rounds(10, 500)
def test_a_zip_of_features_that_is_no_archive_of_numpy(examples: int, table: Path) -> None:
    """Members with odd names and contents."""

    def body(draw: random.Random, count: int, folder: Path) -> None:
        file = folder / "f.npz"
        with zipfile.ZipFile(file, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name in _IDS:
                content = _saved(lambda data: np.save(data, _rows()[0]))
                content = mutated_bytes(content, draw, count) if draw.random() < 0.4 else content
                archive.writestr(draw.choice((name, f"{name}.npy", f"../{name}.npy", f".{name}", f"{name}/")), content)
        spec = f"text=precomputed(path={str(file)!r}, modality='text')"
        check(
            run(
                "plan", "--dataset", "table", "--root", table, "--teacher", spec, "--progress", "none", "--no-calibrate"
            ),
            folder,
        )

    fuzz(examples, body)
