"""Files of an unfinished change, proven by their bytes in a receipt or the next manifest.

A note of what a change may write proves nothing. These do: the manifest that a seal was about to commit and the
receipts of its tasks name files with size and checksum; a new array describes its own shards to the byte; and a card is
what the next manifest makes of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from labelgen.errors import LabelgenError
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import digest_below, is_regular, open_below, read_below, status_below, walk
from labelgen.store.disk.recognize import array_at, array_of_shard, parse_object, read_object
from labelgen.store.disk.shards import group_metadata
from labelgen.store.manifest import Manifest, digest_matches
from labelgen.store.readme.readme import rendered
from labelgen.store.schema.conforms import conforms
from labelgen.store.schema.contradictions import contradictions

#: Bytes of the header of a network, which has a few tensors.
_HEADER = 1 << 20
_STATS = re.compile(rf"{layout.STATS}(\.\d+)?/[\w.-]+\.json")
_MODEL = re.compile(rf"{layout.MODELS}/[\w-]+/[\w-]+\.safetensors")


class Unfinished:
    """The evidence in one store; nothing where no change is under way."""

    def __init__(self, root: Path, sealed: Manifest, *, pending: bool) -> None:
        self._root, self._pending = root, pending
        self._arrays = {spec.path for spec in sealed.arrays()}
        self._next = _other_manifest(root, layout.NEXT, sealed) if pending else None
        replaced = _other_manifest(root, layout.REPLACED, sealed) if pending else None
        self._named = {path: fact for other in (replaced, self._next) if other for path, fact in other.files.items()}
        self._receipts: set[str] = set()
        for path, document in _receipts(root, sealed) if pending else ():
            self._receipts.add(path)
            self._named |= {item["path"]: FileFact(item["bytes"], item["blake3"]) for item in document["outputs"]}

    def explains(self, path: str, size: int) -> bool:
        """Whether a file of `size` bytes that the sealed manifest does not list belongs to the change."""
        if not self._pending:
            return False
        fact = self._named.get(path)
        if fact is not None and fact.bytes == size and digest_below(self._root, path) == fact.blake3:
            return True
        if path in self._receipts or self._is_metadata(path) or self._is_shard(path):
            return True
        # Between the rename of a file and its receipt nothing but the file itself can tell.
        if _STATS.fullmatch(path):
            return conforms("stats.v1")(read_object(self._root, path))
        return _MODEL.fullmatch(path) is not None and self._is_network(path, size)

    def is_next_card(self, path: str) -> bool:
        """Whether a file in the place of a card is what the next manifest renders."""
        if self._next is None:
            return False
        folders = (self._root, self._root / layout.SEALING)
        try:
            tables = next(folder for folder in folders if is_regular(status_below(folder, self._next.quarantine.path)))
            return rendered(self._next, tables)[path] == read_below(self._root, path)
        except (LabelgenError, OSError, StopIteration):
            return False

    def _is_metadata(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return (
            bool(folder)
            and name == layout.ZARR_JSON
            and (read_object(self._root, path) == group_metadata() or array_at(self._root, folder) is not None)
        )

    def _is_network(self, path: str, size: int) -> bool:
        """Whether a file is safetensors whose header accounts for every byte."""
        with open_below(self._root, path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_object(file.read(length)) if length < min(size, _HEADER) else {}
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        try:
            return bool(tensors) and 8 + length + max(entry["data_offsets"][1] for entry in tensors) == size
        except (TypeError, KeyError, IndexError):
            return False

    def _is_shard(self, path: str) -> bool:
        """Whether a file is a shard of an array that the sealed manifest does not have."""
        spec = array_of_shard(self._root, path)
        return spec is not None and spec.path not in self._arrays


def _other_manifest(root: Path, path: str, sealed: Manifest) -> Manifest | None:
    """A manifest of the same store beside the sealed one: the next one, or the one before."""
    document = read_object(root, path)
    try:
        manifest = Manifest.from_json(document) if digest_matches(document) else None
    except LabelgenError:
        return None
    if manifest is None or manifest.store_id != sealed.store_id or not conforms("manifest.v1")(document):
        return None
    return None if contradictions(manifest) else manifest


def _receipts(root: Path, sealed: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """Receipts that the sealed manifest does not list, each at the place that its own task has."""
    found = []
    for path, status in walk(root, below=layout.RECEIPTS):
        if path in sealed.files or not is_regular(status) or not path.endswith(".json"):
            continue
        document = read_object(root, path)
        outputs = document.get("outputs")
        if document.get("task") == path.removeprefix(f"{layout.RECEIPTS}/").removesuffix(".json") and (
            isinstance(outputs, list) and all(_is_output(item) for item in outputs)
        ):
            found.append((path, document))
    return found


def _is_output(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("path"), str) and {"bytes", "blake3"} <= item.keys()
