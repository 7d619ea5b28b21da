"""Small stores that the tests of this folder read. Nothing may write into them: tests that damage a store copy it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from labelgen.store import layout
from labelgen.testing.stores import make_store

#: Captions of the images of `made_store`: none, one, two, seven ...
SIZES = (5, 2, 0, 1, 7, 3, 4, 2)


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images with uneven captions, three teachers (`clip` has both modalities), image 5 and captions 3, 7 missing."""
    return make_store(
        tmp_path_factory.mktemp("stores") / "made",
        n_images=len(SIZES),
        captions_per_image=SIZES,
        dims={"text": 16, "image": 8, "clip": 12},
        seed=3,
        missing_images=[5],
        missing_captions=[3, 7],
    )


@pytest.fixture
def broken(made_store: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(made_store, tmp_path / "broken")


@contextmanager
def _cut(shard_bytes: int, chunk_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_SHARD_BYTES", shard_bytes)
        patch.setattr(layout, "TARGET_CHUNK_BYTES", chunk_bytes)
        yield


@pytest.fixture(scope="session")
def small_cut() -> Callable[[int, int], AbstractContextManager[None]]:
    """`with small_cut(shard_bytes, chunk_bytes)`: arrays of a few rows get several shards and chunks."""
    return _cut
