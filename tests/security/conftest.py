"""A store as it comes from someone else: changed at will, with every digest made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from small_builds import config, table

from labelgen import pipeline
from labelgen.fingerprint import fingerprint
from labelgen.testing.stores import make_store

Forge: TypeAlias = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture(scope="session")
def sound_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images with uneven captions, a text, an image and a cross-modal teacher; nothing may write into it."""
    return make_store(
        tmp_path_factory.mktemp("stores") / "sound",
        n_images=8,
        captions_per_image=(5, 2, 0, 1, 7, 3, 4, 2),
        dims={"text": 16, "image": 8, "clip": 12},
    )


@pytest.fixture
def received(sound_store: Path, tmp_path: Path) -> Path:
    """A copy to attack with."""
    return shutil.copytree(sound_store, tmp_path / "received")


@pytest.fixture
def forge(received: Path) -> Forge:
    """Change the manifest of `received`, and give it the digest that goes with the change."""

    def changed(change: Callable[[dict[str, Any]], object]) -> Path:
        path = received / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        del document["manifest_digest"]
        document["manifest_digest"] = fingerprint(document)
        path.write_text(json.dumps(document))
        return received

    return changed


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the reader outside of the store."""
    path = tmp_path / "home" / "precious.txt"
    path.parent.mkdir()
    path.write_text("mine")
    return path


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Path]:
    """A data set and the store that was built of it."""
    root = table(tmp_path / "data")
    pipeline.build(config(root), tmp_path / "out")
    return root, tmp_path / "out"
