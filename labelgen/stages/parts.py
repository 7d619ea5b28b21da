"""Part files: small `.npy` arrays that live until their shard is assembled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.fingerprint import digest
from labelgen.stages.base import Output
from labelgen.store.atomic import write_atomic


def write_part(root: Path, path: str, array: NDArray[Any]) -> Output:
    """Write one array atomically. Parts are at most some tens of MB, so they are framed in memory."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_atomic(root / path, data)
    return Output(path, len(data), digest(data))


def read_part(root: Path, path: str) -> NDArray[Any]:
    """A part, mapped read-only; never unpickled."""
    mapped: NDArray[Any] = np.load(root / path, mmap_mode="r", allow_pickle=False)
    return mapped
