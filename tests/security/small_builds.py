"""Builds of a table of sixteen captions with precomputed features: a second each, no network, no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from labelgen import pipeline
from labelgen.config import BuildConfig

CAPTIONS = [(f"{image}.jpg", f"caption {number} of image {image}") for image in range(8) for number in range(2)]


def table(folder: Path, extra: int = 0) -> Path:
    """A data set of 8 images, and `extra` more."""
    folder.mkdir(parents=True, exist_ok=True)
    more = [(f"new{number}.jpg", f"something new {number}") for number in range(extra)]
    rows = [f"{image},{text},{'train' if image < '5' else 'val'}" for image, text in [*CAPTIONS, *more]]
    (folder / "captions.csv").write_text("\n".join(["image_id,caption,split", *rows]) + "\n")
    if not (folder / "features.npy").exists():
        ids = [f"{number}.jpg" for number in range(8)] + [f"new{number}.jpg" for number in range(9)]
        features = np.random.default_rng(0).standard_normal((len(ids), 8)).astype(np.float32)
        np.save(folder / "features.npy", features)
        (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return folder


def config(root: Path, k: int = 3) -> BuildConfig:
    """A build of `table(root)` with one teacher, whose features lie beside it."""
    spec = f"precomputed(path='{root / 'features.npy'}', modality='image', ids='{root / 'ids.txt'}')"
    overrides = [
        f'dataset.root="{root}"', 'dataset.options.file="captions.csv"', f"teachers.image={spec}",
        'search.engine="numpy"', f"search.k={k}",
    ]  # fmt: skip
    made = pipeline.resolve(dataset="table", overrides=overrides)
    return dataclasses.replace(made, teachers={"image": made.teachers["image"]})
