"""Identity of inputs: canonical JSON -> BLAKE3.

A fingerprint covers everything that can change the result. Fields of a dataclass that cannot (workers, memory, device)
are marked with `metadata={"transient": True}` in their declaration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from labelgen.specs import Spec

TRANSIENT: Mapping[str, bool] = {"transient": True}
#: Of a field that was added after stores had been made: it counts only where it is set, so old identities are equal.
ADDED: Mapping[str, bool] = {"added": True}

_PIECE = 1 << 20


def canonical(value: Any) -> Any:
    """Plain JSON data of a value: dataclasses lose their transient fields, specs and paths become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Spec)):
        return {
            field.name: canonical(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (
                field.metadata.get("transient")
                or (field.metadata.get("added") and getattr(value, field.name) == field.default)
            )
        }
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (Spec, Path)):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"cannot fingerprint a {type(value).__name__}: {value!r}")


def fingerprint(value: Any) -> str:
    """32 hexadecimal digits that identify `value`; equal for equal canonical JSON on every machine."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return digest(text.encode())


def digest(data: bytes) -> str:
    """BLAKE3 of bytes, 128 bits, as hexadecimal digits."""
    return blake3(data).hexdigest(length=16)


def digest_many(parts: Iterable[bytes]) -> str:
    """BLAKE3 of a sequence of byte strings, each preceded by its length so that borders count."""
    hasher = blake3()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest(length=16)


def digest_file(path: Path, offset: int = 0, size: int | None = None) -> str:
    """BLAKE3 of a file, or of `size` bytes of it from `offset` on, as hexadecimal digits."""
    with path.open("rb") as file:
        file.seek(offset)
        return digest_stream(file, size)


def digest_stream(file: BinaryIO, size: int | None = None) -> str:
    """BLAKE3 of the rest of an open file, or of its next `size` bytes.

    Read in pieces of 1 MiB: mapping it would count as memory of the process on some systems.
    """
    hasher = blake3()
    left = size
    while left != 0 and (piece := file.read(_PIECE if left is None else min(_PIECE, left))):
        hasher.update(piece)
        left = None if left is None else left - len(piece)
    return hasher.hexdigest(length=16)
