"""A table with features by id, and its store as `labelgen build` makes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labelgen import pipeline

SIAMESE = "siamese(of='text', hidden=8, dim=4, batch=32, steps=12, patience=3, rate=0.01)"


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a build of 120 captions with a teacher of texts, one of images, and a trained one."""
    folder = tmp_path_factory.mktemp("ranks")
    draw = np.random.default_rng(3)
    (folder / "data").mkdir()
    lines = [
        {"image_id": f"i{row // 3}", "caption_id": f"c{row}", "caption": f"text {row % 110}", "split": split}
        for row, split in enumerate(["train"] * 90 + ["val"] * 30)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "data" / "captions.jsonl").write_text(text, encoding="utf-8")
    for name, ids in (("text", [f"c{row}" for row in range(120)]), ("image", [f"i{row}" for row in range(40)])):
        rows = draw.standard_normal((len(ids), 8)).astype(np.float32)
        np.savez(folder / f"{name}.npz", **dict(zip(ids, rows, strict=True)))
    features = f"precomputed(path={str(folder / 'text.npz')!r}, modality='text')"
    return [
        f"dataset.root={json.dumps(str(folder / 'data'))}", "search.k=5", "search.cross_k=2", "search.engine=numpy",
        f"teachers.text={features}", f"teachers.image=precomputed(path={str(folder / 'image.npz')!r})",
        f"teachers.siamese={SIAMESE}",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def built(recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `labelgen build`."""
    out = tmp_path_factory.mktemp("built") / "store"
    pipeline.build(pipeline.resolve(dataset="table", overrides=recipe), out)
    return out
