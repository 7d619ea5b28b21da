"""Recognizes arrays that this library wrote by their content, where neither a manifest nor a receipt names them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from labelgen.errors import LabelgenError
from labelgen.store.disk.files import read_below
from labelgen.store.disk.mapped import map_shard
from labelgen.store.disk.shards import array_metadata
from labelgen.store.layout import ZARR_JSON, ArraySpec

_SHARD = re.compile(r"([\w./-]+)/c/(\d{1,9})(/0)*")


def read_object(root: Path, path: str) -> dict[str, Any]:
    """The JSON object in a file of a store, empty where there is none."""
    try:
        return parse_object(read_below(root, path))
    except OSError:
        return {}


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in some bytes, empty where there is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def array_at(root: Path, path: str) -> ArraySpec | None:
    """The array that the `zarr.json` in a folder describes, None where our writer did not make it."""
    document = read_object(root, f"{path}/{ZARR_JSON}")
    try:
        spec = ArraySpec(path, tuple(document["shape"]), document["data_type"], whole="/index/" in f"{path}/")
        return spec if document == array_metadata(spec) else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def array_of_shard(root: Path, path: str) -> ArraySpec | None:
    """The array whose shard a file is, None where its `zarr.json` does not describe the file to the byte."""
    place = _SHARD.fullmatch(path)
    spec = array_at(root, place[1]) if place is not None else None
    try:
        if place is not None and spec is not None:
            map_shard(root, spec, int(place[2]))
        return spec
    except (LabelgenError, OSError, ValueError):
        return None
