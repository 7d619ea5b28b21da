"""Part files: small `.npy` arrays that live until their shard is assembled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.stages.base import Output
from labelgen.store.atomic import atomic_file


def write_part(root: Path, path: str, array: NDArray[Any]) -> Output:
    """Write one array atomically."""
    with atomic_file(root / path) as file:
        np.save(file, array, allow_pickle=False)
    return Output(path, *file.fact)


def read_part(root: Path, path: str) -> NDArray[Any]:
    """A part, mapped read-only; never unpickled."""
    mapped: NDArray[Any] = np.load(root / path, mmap_mode="r", allow_pickle=False)
    return mapped
