"""numpy's files, written piece by piece: `.npy`, `.npz` and a pickled dict of arrays inside an `.npy`."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from labelgen.store.disk.atomic import FileFact, atomic_file


class Stream(NamedTuple):
    """An array that is written while its pieces are made."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Stream:
        return cls(array.shape, array.dtype, [array])


def write_npy(path: Path, stream: Stream) -> FileFact:
    """An `.npy` that `numpy.load` reads, mapped or not."""
    with atomic_file(path) as file:
        _write(cast(BinaryIO, file), stream)
    return file.fact


def write_npz(path: Path, arrays: Mapping[str, Stream]) -> FileFact:
    """An uncompressed `.npz`."""
    with atomic_file(path) as file, zipfile.ZipFile(cast(BinaryIO, file), "w", zipfile.ZIP_STORED) as archive:
        for name, stream in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # the fixed date of ZipInfo: equal arrays give equal bytes
            with archive.open(member, "w", force_zip64=True) as inside:
                _write(cast(BinaryIO, inside), stream)
    return file.fact


def write_pickled_dict(path: Path, items: Iterator[tuple[str, NDArray[Any]]]) -> FileFact:
    """The bytes that `numpy.save` makes of a dict of arrays, for readers that call `numpy.load` and `.item()`.

    The pickle is written item by item and remembers none, so the dict is never in memory.
    """
    with atomic_file(path) as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(cast(BinaryIO, file), header)
        pickler = pickle.Pickler(cast(BinaryIO, file), protocol=4)
        pickler.fast = True  # no memo: it would keep every array alive
        holder = np.empty((), object)
        holder[()] = _Lazy(items)
        pickler.dump(holder)
    return file.fact


class _Lazy:
    """Pickles as a dict whose items are made one by one."""

    def __init__(self, items: Iterator[tuple[str, NDArray[Any]]]) -> None:
        self.items = items

    def __reduce__(self) -> tuple[Any, ...]:
        from collections import OrderedDict

        return OrderedDict, (), None, None, self.items


def _write(file: BinaryIO, stream: Stream) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(stream.dtype), "fortran_order": False, "shape": stream.shape}
    np.lib.format.write_array_header_1_0(file, described)
    for piece in stream.pieces:
        file.write(np.ascontiguousarray(piece, stream.dtype).tobytes())  # memoryviews know no text and no empty arrays
