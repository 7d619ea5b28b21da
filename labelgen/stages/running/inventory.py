"""Files that labelgen wrote in a folder, and their removal.

A file is removed only if a manifest of this store or a receipt of this work lists it with its size (small files: also
their checksum), as a regular file below the folders of a store, with no link in its path. So no command removes files
of others, even if a manifest or a receipt from someone else lists them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from labelgen.errors import StoreError
from labelgen.fingerprint import digest
from labelgen.stages.running.task import Task, read_receipt, receipt_path
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import is_regular, read_below, status_below, unlink_below, walk
from labelgen.store.disk.recognize import array_of_shard, read_object
from labelgen.types import is_word_path

#: Folders at the top of a store, but for their numbers.
_HOMES = (layout.CORPUS, layout.EMBEDDINGS, layout.NEIGHBORS, layout.MODELS, layout.STATS, layout.RECEIPTS)
_CARDS = (layout.CARD, layout.CROISSANT, layout.ZARR_JSON)
#: Larger files are compared by their size alone.
_HASHED = 1 << 20
_STATS = re.compile(
    rf"{layout.STATS}(\.\d+)?/(t2t|i2i|i2t)\.[\w-]+(\.mean)?\.json|{layout.MODELS}/[\w-]+/[\w-]+\.safetensors"
)
#: Files of unfinished work that a killed task wrote and that no receipt names yet.
_PARTS = re.compile(rf"{re.escape(layout.PARTS)}/(embed|train|search)/[\w./-]+\.(npy|safetensors|faiss)")
#: Beats of ranks, and errors of those that failed.
_RANKS = re.compile(rf"{re.escape(layout.RANKS)}/([\w.~-]+/)*(beat|failed-[\w.-]+\.json)")
_SEALED = rf"({layout.CORPUS}(\.\d+)?(/[\w-]+)*/)?[\w-]+(\.json|\.parquet|/c/\d+)"
_SEALING = re.compile(f"{re.escape(layout.SEALING)}/{_SEALED}")


def named(root: Path, *, without: Collection[str] = ()) -> dict[str, FileFact]:
    """Every file that a manifest (the sealed one, the one it replaced, the one being sealed) or a receipt names.

    Receipts in `without` are not read.
    """
    found: dict[str, FileFact] = {}
    store_id = ""
    for place in (layout.MANIFEST, layout.REPLACED, layout.NEXT):
        document = read_object(root, place)
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
    """Files that a killed task or the planning process wrote without a receipt; their checksums are empty.

    These are shards that their own `zarr.json` describes to the byte, and statistics and networks by their names.
    """
    found = {}
    for home in sorted(path.name for path in root.iterdir() if _is_home(f"{path.name}/x") and path.name != layout.WORK):
        for path, status in walk(root, below=home):
            if path not in without and is_regular(status) and (_STATS.fullmatch(path) or array_of_shard(root, path)):
                found[path] = FileFact(status.st_size, "")
    return found


def is_ours(root: Path, path: str, fact: FileFact) -> bool:
    """Whether a path is a regular file in a folder of a store, of the named size and checksum."""
    if not (is_word_path(path.removeprefix(".")) and _is_home(path)):
        return False
    status = status_below(root, path)
    if not is_regular(status) or status is None or status.st_size != fact.bytes:
        return False
    return fact.bytes > _HASHED or not fact.blake3 or digest(read_below(root, path)) == fact.blake3


def remove(root: Path, files: Mapping[str, FileFact], *, keep: Collection[str]) -> list[str]:
    """Remove the files that are as they were named, then the folders and their metadata that are left empty.

    Receipts are removed last: after a kill, they still name the rest.
    """
    wanted = sorted(files.keys() - set(keep), key=lambda path: (path.startswith(f"{layout.RECEIPTS}/"), path))
    removed = [path for path in wanted if is_ours(root, path, files[path]) and unlink_below(root, path)]
    _sweep(root, removed, keep)
    return removed


def remove_work(root: Path) -> None:
    """Remove all work in progress but the lock."""
    remove_parts(root)
    for below, names in ((layout.SEALING, _SEALING), (layout.RANKS, _RANKS)):
        for path, _ in list(walk(root, below=below)):
            if names.fullmatch(path):
                unlink_below(root, path)
    tables = [f"{layout.INGEST}/{name}" for name in layout.TABLES]
    for path in (*tables, layout.NEXT, layout.REPLACED, layout.PENDING):
        unlink_below(root, path)
    for folder in (layout.SEALING, layout.INGEST, layout.RANKS):
        _remove_empty_below(root / folder)
    _remove_if_empty(root / layout.WORK)


def remove_parts(root: Path, stage: str = "") -> None:
    """Remove the parts of a stage, or of all stages, by the names that tasks give them."""
    top = f"{layout.PARTS}/{stage}" if stage else layout.PARTS
    for path, status in list(walk(root, below=top)):
        if is_regular(status) and _PARTS.fullmatch(path):
            unlink_below(root, path)
    _remove_empty_below(root / top)


def remove_receipts(folder: Path, tasks: Iterable[Task]) -> None:
    """Remove the receipts of tasks in a folder of the work, and the folders that are left empty."""
    for task in tasks if folder.is_dir() and not folder.is_symlink() else ():
        unlink_below(folder, receipt_path(task.key))
        for above in list(PurePosixPath(receipt_path(task.key)).parents)[:-1]:
            _remove_if_empty(folder / above)
    _remove_if_empty(folder)


def refuse_foreign(root: Path) -> None:
    """Refuse a folder, with no store or one that is to be removed, where other files have names that a seal writes.

    Raises:
        StoreError: names these files.
    """
    tables = [f"{layout.CORPUS}/{name}" for name in layout.TABLES]
    there = [path for path in (*_CARDS, *tables) if status_below(root, path) is not None]
    known = named(root) if there else {}
    ours = [path for path in there if path in known and is_ours(root, path, known[path])]
    foreign = [path for path in there if path not in ours and not _is_group(root, path)]
    if foreign:
        raise StoreError(
            f"{root} has files that labelgen did not write",
            found=", ".join(foreign),
            expected="a new or empty folder, a store, or an unfinished build",
            todo="choose another --out, or move these files, which a build would overwrite",
        )


def _is_home(path: str) -> bool:
    first, _, rest = path.partition("/")
    home, _, number = first.partition(".")
    if not rest:
        return path in _CARDS or path == layout.MANIFEST
    return first == layout.WORK or (home in _HOMES and (not number or number.isdigit()))


def _facts(document: Mapping[str, Any]) -> dict[str, FileFact]:
    """The well-formed entries of the files of a manifest."""
    files = document.get("files")
    return {
        path: FileFact(fact["bytes"], fact["blake3"])
        for path, fact in (files.items() if isinstance(files, dict) else ())
        if isinstance(fact, dict) and type(fact.get("bytes")) is int and isinstance(fact.get("blake3"), str)
    }


def _sweep(root: Path, removed: Iterable[str], keep: Collection[str]) -> None:
    """Remove `zarr.json` of arrays and groups that lost everything else, then empty folders, from the inside out."""
    folders = {folder.as_posix() for path in removed for folder in PurePosixPath(path).parents} - {"."}
    for folder in sorted(folders, key=lambda folder: folder.count("/"), reverse=True):
        metadata = f"{folder}/{layout.ZARR_JSON}"
        names = [path.name for path in (root / folder).iterdir()] if (root / folder).is_dir() else []
        if metadata not in keep and names == [layout.ZARR_JSON] and _is_group(root, metadata):
            unlink_below(root, metadata)
        _remove_if_empty(root / folder)


def _is_group(root: Path, path: str) -> bool:
    """Whether a file is metadata of a zarr array or group as this library writes it."""
    if path.rpartition("/")[2] != layout.ZARR_JSON:
        return False
    document = read_object(root, path)
    return document.get("zarr_format") == 3 and document.get("node_type") in ("group", "array")


def _remove_empty_below(folder: Path) -> None:
    """Remove a folder and all folders in it that hold no file."""
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(FileNotFoundError):  # removed by a rank that leaves
            for path in folder.iterdir():
                _remove_empty_below(path)
        _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    if not folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.rmdir()
