"""What a folder holds that this library wrote, and how it is removed: by inventory, never by looking.

A file goes only if a manifest of this store or a receipt of this work names it, with the size it has (small files: with
their checksum too), as a regular file below the folder's own folders, no link on the way. So files that someone else
put there survive every command, also where a manifest or a receipt that came from elsewhere names them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labelgen.errors import StoreError
from labelgen.fingerprint import digest
from labelgen.stages.running.task import Task, read_receipt, receipt_path
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import is_regular, read_below, status_below, unlink_below, walk
from labelgen.store.disk.mapped import map_shard
from labelgen.store.disk.shards import array_metadata
from labelgen.store.layout import ArraySpec
from labelgen.types import is_word_path

#: Folders at the top of a store, but for their numbers.
_HOMES = (layout.CORPUS, layout.EMBEDDINGS, layout.NEIGHBORS, layout.MODELS, layout.STATS, layout.RECEIPTS)
_CARDS = (layout.CARD, layout.CROISSANT, layout.ZARR_JSON)
#: Larger files are told by their size alone.
_HASHED = 1 << 20
_SHARD = re.compile(r"([\w./-]+)/c/(\d{1,9})(/0)*")
_STATS = re.compile(
    rf"{layout.STATS}(\.\d+)?/(t2t|i2i|i2t)\.[\w-]+(\.mean)?\.json|{layout.MODELS}/[\w-]+/towers\.safetensors"
)
#: Files of unfinished work that a killed task wrote and that no receipt names yet.
_PARTS = re.compile(rf"{re.escape(layout.PARTS)}/(embed|train|search)/[\w./-]+\.(npy|safetensors|faiss)")
_SEALED = rf"({layout.CORPUS}(\.\d+)?(/[\w-]+)*/)?[\w-]+(\.json|\.parquet|/c/\d+)"
_SEALING = re.compile(f"{re.escape(layout.SEALING)}/{_SEALED}")


def named(root: Path, *, without: Collection[str] = ()) -> dict[str, FileFact]:
    """Every file that a manifest (the sealed one, the one it replaced, the one being sealed) or a receipt names.

    Receipts in `without` are not read.
    """
    found: dict[str, FileFact] = {}
    store_id = ""
    for place in (layout.MANIFEST, layout.REPLACED, layout.NEXT):
        document = _document(root, place)
        if store_id and document.get("store_id") != store_id:
            continue
        store_id = str(document.get("store_id", ""))
        for path, fact in _facts(document).items():
            found.setdefault(path, fact)
    for key in receipt_keys(root):
        if receipt_path(key) in without:
            continue
        receipt = read_receipt(root, key)
        if receipt is None or receipt.task != key:
            continue
        found |= {output.path: FileFact(output.bytes, output.blake3) for output in receipt.outputs}
        data = read_below(root, receipt_path(key))
        found.setdefault(receipt_path(key), FileFact(len(data), digest(data)))
    return found


def receipt_keys(root: Path) -> list[str]:
    """Keys of everything in `receipts/` that could be a receipt by its name."""
    paths = [path for path, status in walk(root, below=layout.RECEIPTS) if is_regular(status)]
    inside = (path.removeprefix(f"{layout.RECEIPTS}/") for path in paths if is_word_path(path))
    return [path.removesuffix(".json") for path in inside if path.endswith(".json")]


def unnamed(root: Path, *, without: Collection[str]) -> dict[str, FileFact]:
    """Files that a killed task, or the process that plans, wrote without a receipt, told by what is in them.

    Shards that their own `zarr.json` describes to the byte, and statistics and networks by their names. The checksum is
    left empty.
    """
    found = {}
    for home in sorted(path.name for path in root.iterdir() if _is_home(f"{path.name}/x") and path.name != layout.WORK):
        for path, status in walk(root, below=home):
            if path not in without and is_regular(status) and (_STATS.fullmatch(path) or _is_shard(root, path)):
                found[path] = FileFact(status.st_size, "")
    return found


def _is_shard(root: Path, path: str) -> bool:
    place = _SHARD.fullmatch(path)
    if place is None:
        return False
    document = _document(root, f"{place[1]}/{layout.ZARR_JSON}")
    try:
        spec = ArraySpec(place[1], tuple(document["shape"]), document["data_type"], whole="/index/" in path)
        if document != array_metadata(spec):
            return False
        map_shard(root, spec, int(place[2]))
    except (KeyError, TypeError, ValueError, OSError, ZeroDivisionError):
        return False
    return True


def is_ours(root: Path, path: str, fact: FileFact) -> bool:
    """Whether a regular file of this library's own folders lies at a path and is the one that was named."""
    if not (is_word_path(path.removeprefix(".")) and _is_home(path)):
        return False
    status = status_below(root, path)
    if not is_regular(status) or status is None or status.st_size != fact.bytes:
        return False
    return fact.bytes > _HASHED or not fact.blake3 or digest(read_below(root, path)) == fact.blake3


def remove(root: Path, files: Mapping[str, FileFact], *, keep: Collection[str]) -> list[str]:
    """Remove the named files that are there as they were named, and the folders and their metadata that are left empty.

    Receipts go last: killed in between, the rest is still named.
    """
    wanted = sorted(files.keys() - set(keep), key=lambda path: (path.startswith(f"{layout.RECEIPTS}/"), path))
    gone = [path for path in wanted if is_ours(root, path, files[path]) and unlink_below(root, path)]
    _sweep(root, gone, keep)
    return gone


def remove_work(root: Path) -> None:
    """Remove all work in progress but the lock, which its holder still holds."""
    remove_parts(root)
    for path, _ in list(walk(root, below=layout.SEALING)):
        if _SEALING.fullmatch(path):
            unlink_below(root, path)
    tables = [f"{layout.INGEST}/{name}" for name in layout.TABLES]
    for path in (*tables, layout.NEXT, layout.REPLACED, layout.PENDING):
        unlink_below(root, path)
    _remove_empty(root, f"{layout.WORK}/x")
    for folder in (layout.SEALING, layout.INGEST):
        _remove_empty_below(root, folder)


def remove_parts(root: Path, stage: str = "") -> None:
    """Remove the parts of a stage, of all when empty, by the names that tasks give them."""
    top = f"{layout.PARTS}/{stage}" if stage else layout.PARTS
    for path, status in list(walk(root, below=top)):
        if is_regular(status) and _PARTS.fullmatch(path):
            unlink_below(root, path)
    _remove_empty_below(root, top)


def remove_receipts(folder: Path, tasks: Iterable[Task]) -> None:
    """Remove the receipts of tasks below a folder of the work, and the folders that are left empty."""
    for task in tasks if folder.is_dir() and not folder.is_symlink() else ():
        unlink_below(folder, receipt_path(task.key))
        _remove_empty(folder, receipt_path(task.key))
    with contextlib.suppress(OSError):
        folder.rmdir()


def refuse_foreign(root: Path) -> None:
    """Refuse to build where files of someone else have the names that a seal writes.

    Args:
        root: a folder without a sealed store, or with one that is about to be thrown away.

    Raises:
        StoreError: names them.
    """
    tables = [f"{layout.CORPUS}/{name}" for name in layout.TABLES]
    there = [path for path in (*_CARDS, *tables) if status_below(root, path) is not None]
    known = named(root) if there else {}
    ours = [path for path in there if path in known and is_ours(root, path, known[path])]
    foreign = [path for path in there if path not in ours and not _is_group(root, path)]
    if foreign:
        raise StoreError(
            f"{root} holds files that no build of labelgen wrote",
            found=", ".join(foreign),
            expected="a new or empty folder, a store, or a build that was begun",
            todo="give another --out, or move these files: a build would write over them",
        )


def _is_home(path: str) -> bool:
    first, _, rest = path.partition("/")
    home, _, number = first.partition(".")
    if not rest:
        return path in _CARDS or path == layout.MANIFEST
    return first == layout.WORK or (home in _HOMES and (not number or number.isdigit()))


def _document(root: Path, path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(read_below(root, path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _facts(document: Mapping[str, Any]) -> dict[str, FileFact]:
    """The files of a manifest, those that are put down as a manifest puts them down."""
    files = document.get("files")
    return {
        path: FileFact(fact["bytes"], fact["blake3"])
        for path, fact in (files.items() if isinstance(files, dict) else ())
        if isinstance(fact, dict) and type(fact.get("bytes")) is int and isinstance(fact.get("blake3"), str)
    }


def _sweep(root: Path, gone: Iterable[str], keep: Collection[str]) -> None:
    """Remove `zarr.json` of arrays and groups that lost everything else, then empty folders, from the inside out."""
    folders = {"/".join(parts[:depth]) for path in gone if (parts := path.split("/")) for depth in range(1, len(parts))}
    for folder in sorted(folders, key=lambda folder: folder.count("/"), reverse=True):
        metadata = f"{folder}/{layout.ZARR_JSON}"
        if metadata not in keep and _names(root, folder) == {layout.ZARR_JSON} and _is_group(root, metadata):
            unlink_below(root, metadata)
        _remove_empty(root, metadata)


def _is_group(root: Path, path: str) -> bool:
    """Whether a file is metadata of a zarr array or group as this library writes it."""
    if path.rpartition("/")[2] != layout.ZARR_JSON:
        return False
    document = _document(root, path)
    return document.get("zarr_format") == 3 and document.get("node_type") in ("group", "array")


def _names(root: Path, folder: str) -> set[str]:
    try:
        return {entry.name for entry in (root / folder).iterdir()}
    except OSError:
        return set()


def _remove_empty(root: Path, path: str) -> None:
    """Remove the folders above a path that are empty, but not the store's own."""
    parts = path.split("/")[:-1]
    while parts:
        with contextlib.suppress(OSError):
            if not (root / "/".join(parts)).is_symlink():
                (root / "/".join(parts)).rmdir()
        parts.pop()


def _remove_empty_below(root: Path, top: str) -> None:
    for folder in sorted(_folders(root, top), reverse=True):
        with contextlib.suppress(OSError):
            (root / folder).rmdir()


def _folders(root: Path, top: str) -> Iterator[str]:
    place = root / top
    if place.is_dir() and not place.is_symlink():
        yield top
        for entry in place.iterdir():
            yield from _folders(root, f"{top}/{entry.name}")
