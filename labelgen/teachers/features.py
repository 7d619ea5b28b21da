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
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import TeacherError
from labelgen.teachers.pickled import read_mapping

FORMATS = (".npy", ".npz", ".safetensors", ".parquet", ".pkl", ".pickle")


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
    """One array per key, each opened when it is asked for."""

    keys: Sequence[str]
    load: Callable[[str], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def arrays(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        return (self.load(self.keys[position]) for position in positions)


def open_features(path: Path) -> Source:
    """The features of a file.

    Raises:
        TeacherError: no such file, a format that is not read, or a damaged file.
    """
    readers: Mapping[str, Callable[[Path], Source]] = {
        ".npy": _npy,
        ".npz": _npz,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
        ".pkl": _pickle,
        ".pickle": _pickle,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise TeacherError(
            f"no features at {str(path)!r}",
            found="no such file" if reader else f"a name that ends in {path.suffix!r}",
            expected=f"a file of one of the formats {', '.join(FORMATS)}",
        )
    with reading(path.name):
        return reader(path)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns what the readers of a damaged file raise into a `TeacherError` that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TeacherError(
            f"cannot read the features of {name!r}",
            found=next(iter(str(error).splitlines()), repr(error)),
            expected="a whole file, as it was written",
            todo="save the file anew",
        ) from error


def read_ids(path: Path) -> list[str]:
    """Ids in a file of their own: one per line, a JSON list, or an `.npy` of text or whole numbers.

    Raises:
        TeacherError: no such file, or not ids.
    """
    try:
        if path.suffix == ".npy":
            return _as_ids(np.load(path, allow_pickle=False))
        text = path.read_text(encoding="utf-8")
        return _as_ids(json.loads(text)) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, TypeError) as error:
        raise TeacherError(
            f"cannot read ids from {str(path)!r}",
            found=str(error).splitlines()[0],
            expected="one id per line, a .json list, or an .npy of text or whole numbers",
        ) from error


def _as_ids(values: Any) -> list[str]:
    listed = np.asarray(values).tolist()
    if not isinstance(listed, list) or not all(type(value) in (str, int) for value in listed):
        raise TypeError("ids that are not text or whole numbers")
    return [str(value) for value in listed]


def _npy(path: Path) -> Source:
    with path.open("rb") as file:
        _, _, dtype = _header(file)
        start = file.tell()
    if dtype.hasobject:
        return _pickle(path, start)
    return Matrix(None, np.load(path, mmap_mode="r", allow_pickle=False))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of an `.npy`; the file is left where the data starts."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _pickle(path: Path, start: int = 0) -> Source:
    stored = read_mapping(path, start)
    return Entries(list(stored), lambda key: stored[key].numpy())


def _npz(path: Path) -> Source:
    archive = zipfile.ZipFile(path)

    def member(name: str) -> NDArray[Any]:
        with archive.open(f"{name}.npy") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array

    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if "features" not in names:
        return Entries(names, member)
    ids = _as_ids(member("ids")) if "ids" in names else None
    entry = archive.getinfo("features.npy")
    stored = entry.compress_type == zipfile.ZIP_STORED
    return Matrix(ids, _mapped(path, entry) if stored else member("features"))


def _mapped(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array inside a zip, mapped where it lies: behind its local header, which ends in a name and a field."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(entry.header_offset + 30 + int(lengths.sum()))
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError("features that are objects, not numbers")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}


def _safetensors(path: Path) -> Source:
    """The format is a length, a JSON header and bytes: read here, so that bfloat16 and mapping work alike."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError("not a safetensors file")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    data = np.memmap(path, np.uint8, "r", 8 + length)

    def tensor(name: str) -> NDArray[Any]:
        begin, end = header[name]["data_offsets"]
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"the tensor {name!r} lies outside the file")
        return data[begin:end].view(_SAFETENSORS[header[name]["dtype"]]).reshape(header[name]["shape"])

    def decode(name: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
        return _bfloat16 if header[name]["dtype"] == "BF16" else np.asarray

    if "features" not in header:
        return Entries(list(header), lambda key: decode(key)(tensor(key)))
    ids = _as_ids(json.loads(metadata["ids"])) if "ids" in metadata else None
    ids = _as_ids(tensor("ids")) if "ids" in header else ids
    return Matrix(ids, tensor("features"), decode("features"))


def _bfloat16(halves: NDArray[Any]) -> NDArray[Any]:
    """bfloat16 is the upper half of a float32."""
    wide: NDArray[Any] = (halves.astype(np.uint32) << 16).view(np.float32)
    return wide


def _parquet(path: Path) -> Source:
    from labelgen.teachers.parquet_features import ParquetRows

    return ParquetRows(path)
