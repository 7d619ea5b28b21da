"""Files of features made elsewhere, as `Source`s: keys, and one array per key, mapped where the format allows it.

=====================  ==========================================================  =====================================
file                   what it holds                                               memory
=====================  ==========================================================  =====================================
`.npy`                 numbers [n, ...]: row i is corpus row i, or line i of `ids`  mapped
`.npy`, `.pkl`         a pickled dict {id: array}; nothing in it is executed        mapped (see `pickled`)
`.npz`                 `ids` and `features`; `features` alone; or one array per id  mapped, unless compressed
`.safetensors`         `features` (and ids as a JSON list in the metadata `ids`,    mapped
                       or a tensor `ids` of whole numbers); or a tensor per id
`.parquet`             one column of lists, and one of ids                          a batch of rows at a time
=====================  ==========================================================  =====================================

Names that say ids (`ids`, `image_ids`, `caption_id`, `key` ..., see `feature_ids`) are ids, which always count before
the order of the rows.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import LabelgenError, TeacherError, shown, some
from labelgen.teachers.failures import first_line
from labelgen.teachers.precomputed.feature_ids import as_ids, id_name_for, refuse_unnamed
from labelgen.teachers.precomputed.feature_limits import npy_header, read_member
from labelgen.teachers.precomputed.pickled import read_mapping
from labelgen.teachers.precomputed.safetensors_features import Tensors
from labelgen.types import Modality


class Source(Protocol):
    """Arrays of features in the order of their file."""

    @property
    def keys(self) -> Sequence[str] | None:
        """One key per array; None where the file has no ids, and array i belongs to corpus row i."""
        ...

    def __len__(self) -> int: ...

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """The arrays at these positions, one by one, in this order."""
        ...


@dataclass(frozen=True)
class Matrix:
    """One array [n, ...], usually mapped; `decode` turns rows into numbers where the dtype is not numpy's."""

    keys: Sequence[str] | None
    array: NDArray[Any]
    decode: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray

    def __len__(self) -> int:
        return len(self.array)

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        return (self.decode(self.array[position]) for position in positions)


@dataclass(frozen=True)
class Entries:
    """One array per key, each opened when it is needed."""

    keys: Sequence[str]
    load: Callable[[str], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        return (self.load(self.keys[position]) for position in positions)


def open_features(path: Path, modality: Modality = "image") -> Source:
    """The features of a file, of items of one modality.

    Raises:
        TeacherError: no such file, a format that is not read, a damaged file, or ids that cannot be used.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises on overlong names
        raise TeacherError(
            f"no features at {shown(str(path))}",
            found="no such file" if reader else f"a name that ends in {shown(path.suffix)}",
            expected=f"a file of one of the formats {', '.join(_READERS)}",
        )
    with reading(path.name):
        return reader(path, modality)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever the readers of a damaged file raise into a `TeacherError` that names the file."""
    try:
        yield
    except LabelgenError:
        raise
    except Exception as error:  # numpy, zipfile, json and arrow raise two dozen kinds between them
        raise TeacherError(
            f"cannot read the features of {shown(name)}",
            found=first_line(error),
            expected="a whole file, as it was written",
            todo="save the file again",
        ) from error


def _npy(path: Path, modality: Modality) -> Source:
    with path.open("rb") as file:
        shape, _, dtype = npy_header(file)
        start = file.tell()
    if dtype.hasobject:
        return _pickle(path, modality, start)
    if not shape or dtype.names:
        raise ValueError(f"an array of shape {list(shape)} and dtype {dtype}; expected rows of numbers")
    return Matrix(None, np.load(path, mmap_mode="r", allow_pickle=False))


def _pickle(path: Path, modality: Modality, start: int = 0) -> Source:
    del modality  # keys of a dict are ids of whatever it was made for
    stored = read_mapping(path, start)
    return Entries(list(stored), lambda key: stored[key].numpy())


def _npz(path: Path, modality: Modality) -> Source:
    archive = zipfile.ZipFile(path)
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise ValueError("two arrays of one name")

    def load(name: str) -> NDArray[Any]:
        entry = entries[name]
        mapped = name == "features" and entry.compress_type == zipfile.ZIP_STORED
        return _mapped(path, entry) if mapped else read_member(archive, entry)

    return _named(list(entries), load, modality)


def _safetensors(path: Path, modality: Modality) -> Source:
    tensors = Tensors(path)
    return _named(tensors.names, tensors.load, modality, tensors.decode, tensors.metadata)


def _named(
    names: Sequence[str],
    load: Callable[[str], NDArray[Any]],
    modality: Modality,
    decode: Callable[[str, NDArray[Any]], NDArray[Any]] = lambda name, values: values,
    lists: Mapping[str, str] = MappingProxyType({}),
) -> Source:
    """The arrays of a file by name: `features` and ids, or one array per id.

    Args:
        names: of the arrays.
        load: an array as it is stored.
        modality: of the items.
        decode: (name, values as they are stored) to numbers.
        lists: JSON lists in the metadata, which may be ids, by name.
    """
    if "features" not in names:
        refuse_unnamed(names)
        return Entries(names, lambda name: decode(name, load(name)))
    found = id_name_for([*lists, *(name for name in names if name not in lists and name != "features")], modality)
    if len(found) > 1 or any(name in lists and name in names for name in found):
        raise ValueError(f"several lists of ids: {some(found)}; expected one")
    ids = as_ids(json.loads(lists[found[0]]) if found[0] in lists else load(found[0])) if found else None
    features = load("features")
    if not features.ndim:
        raise ValueError("`features` is a single number; expected one row per id")
    return Matrix(ids, features, lambda row: decode("features", row))


def _mapped(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array inside a zip, mapped: it begins behind its local header, which ends in a name and a field."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        begin = entry.header_offset + 30 + int(lengths.sum())
        file.seek(begin)
        shape, fortran, dtype = npy_header(file)
        if dtype.hasobject:
            raise ValueError("features that are objects, not numbers")
        if file.tell() - begin + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise ValueError(
                f"an array of shape {list(shape)} that does not fit the {entry.file_size:,} bytes of its member"
            )
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _parquet(path: Path, modality: Modality) -> Source:
    from labelgen.teachers.precomputed.parquet_features import ParquetRows

    return ParquetRows(path, modality)


_READERS: Mapping[str, Callable[[Path, Modality], Source]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".pkl": _pickle,
    ".pickle": _pickle,
}
