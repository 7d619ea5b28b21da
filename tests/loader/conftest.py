"""Stores that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

import labelgen
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

#: Captions of the images of `store`: none, one, two, seven ...
SIZES = (5, 2, 0, 1, 7, 3, 4, 2)
DEAD_IMAGE, DEAD_CAPTION = 5, 3


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images with uneven captions, image 5 and caption 3 without rows."""
    return make_store(
        tmp_path_factory.mktemp("loader") / "uneven",
        n_images=len(SIZES), captions_per_image=SIZES, seed=3,
        missing_images=[DEAD_IMAGE], missing_captions=[DEAD_CAPTION],
    )  # fmt: skip


@pytest.fixture(scope="session")
def store(store_path: Path) -> Store:
    return labelgen.open(store_path)


@pytest.fixture(scope="session")
def even_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images with five captions each, lists of 12."""
    return make_store(tmp_path_factory.mktemp("loader") / "even", n_images=64, k=12, seed=1)


@pytest.fixture(scope="session")
def even(even_path: Path) -> Store:
    return labelgen.open(even_path)
