"""Bounds on files of features: what a header declares is compared with the bytes that are there."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

#: Numbers of one item; the largest in use are grids of some 40,000.
MAX_WIDTH = 1 << 22
#: Features of real networks shrink a few times when they are packed; a bomb a thousand times.
_MAX_RATIO = 100
_FREE = 64 << 20


def refuse_bomb(unpacked: int, packed: int) -> None:
    """Refuse data that becomes much larger in memory than features can.

    Raises:
        ValueError: more than 64 MiB, and more than a hundred times the packed bytes.
    """
    if unpacked > _FREE and unpacked > _MAX_RATIO * max(1, packed):
        raise ValueError(f"{packed:,} bytes that would become {unpacked:,} in memory")


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an `.npy`; the file is left where the data starts.

    Raises:
        ValueError: not an `.npy`, or a shape that no array has.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {list(shape)}")
    return shape, fortran, dtype


def read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array inside a zip, whose header must fit the bytes that the archive declares for it.

    Raises:
        ValueError: it does not, or unpacking would fill the memory; objects instead of numbers or text.
    """
    refuse_bomb(entry.file_size, entry.compress_size)
    with archive.open(entry) as file:
        shape, _, dtype = npy_header(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("objects, not numbers")
    expected = math.prod(shape) * dtype.itemsize
    if expected != entry.file_size - start:
        raise ValueError(f"an array of shape {list(shape)} in {entry.file_size - start:,} bytes, not {expected:,}")
    with archive.open(entry) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
