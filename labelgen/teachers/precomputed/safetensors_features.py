"""Features in a safetensors file: a length, a JSON header and bytes, read here so that bfloat16 and mapping work."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import shown

#: As the format has it.
_MAX_HEADER = 100 << 20
_DTYPES = {
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


class Tensors:
    """The tensors of a file by name, mapped; `metadata` is what the header says beside them.

    Raises:
        ValueError: not such a file, damaged, or a name twice.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(_MAX_HEADER, path.stat().st_size - 8):
                raise ValueError("not a safetensors file")
            header = json.loads(file.read(length), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("not a safetensors file")
        metadata = header.pop("__metadata__", {})
        self.metadata = metadata if isinstance(metadata, dict) else {}
        self._header: dict[str, Any] = header
        self._data = np.memmap(path, np.uint8, "r", 8 + length) if path.stat().st_size > 8 + length else b""

    @property
    def names(self) -> list[str]:
        return list(self._header)

    def load(self, name: str) -> NDArray[Any]:
        """One tensor, as a view of the file; bfloat16 as the 16-bit halves that `decode` takes."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        shape, dtype = entry["shape"], np.dtype(_DTYPES[entry["dtype"]])
        if not 0 <= begin <= end <= len(self._data):
            raise ValueError(f"the tensor {shown(name)} is outside the file")
        if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(f"the tensor {shown(name)} has a shape that does not fit its bytes")
        if begin == end:
            return np.empty(shape, dtype)
        return np.frombuffer(self._data, dtype, math.prod(shape), begin).reshape(shape)

    def decode(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Numbers of numpy: bfloat16 is the upper half of a float32."""
        if self._header[name]["dtype"] != "BF16":
            return values
        wide: NDArray[Any] = (values.astype(np.uint32) << 16).view(np.float32)
        return wide


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names appear once: json would silently keep the last of two."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {shown(twice)} appears twice")
    return made
