"""`labelgen pull`: copy a store from a distance into a folder, whole or without some of its arrays."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from labelgen.errors import ConfigError, StoreFormatError, StoreMismatchError, shown
from labelgen.fingerprint import digest_stream, fingerprint
from labelgen.progress import Event, Listener, silent
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, write_atomic
from labelgen.store.disk.files import digest_below, is_regular, refuse_links, status_below
from labelgen.store.disk.folder import pulled
from labelgen.store.disk.recognize import read_object
from labelgen.store.manifest import Manifest, load_manifest
from labelgen.store.remote import client
from labelgen.store.remote.answers import Source, Wanted
from labelgen.store.remote.storage import damaged, remote_manifest

#: Files on their way at once.
_FILES = 8
#: Parts of files.
_PARTS = f"{layout.WORK}/pull"
_FOLDERS = ("corpus", "embeddings", "neighbors", "stats", "receipts", "models")
_TOP_FILES = (layout.CARD, layout.CROISSANT, layout.ZARR_JSON)


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes:
        source, target: address without secrets, with the commit on the hub; folder.
        content_digest: of the store.
        files, bytes: how many files were copied, and their bytes; others were there already.
        lacks: arrays that a partial store lacks.
    """

    source: str
    target: str
    content_digest: str
    files: int
    bytes: int
    lacks: tuple[str, ...] = ()


def pull(
    source: str, out: str | Path | None = None, *, only: Iterable[str] = (), progress: Listener = silent
) -> Transfer:
    """Copy a store into a folder. Every file is compared with the manifest; an interrupted call resumes.

    Args:
        source: `https://...`, `s3://bucket/...` or `hf://datasets/owner/name@revision`.
        out: a new or empty folder, or one of an earlier pull of the same store; the last part of the address, in the
            current folder, where it is None.
        only: arrays to copy beside corpus, index and statistics: relations (`i2t`), names of lists, and aliases of
            teachers for their embeddings. All by default. A partial store names what it lacks when it is needed, with
            the line that adds it.

    Raises:
        ConfigError: no address, or nothing of this name in the store.
        StoreMismatchError: the folder holds something else.
        CorruptStoreError: other bytes than were sealed.
        StoreNotFoundError, StoreError: no store there, or no answer.
    """
    there, manifest, raw = remote_manifest(source)
    refuse_foreign_paths(manifest)
    name = there.name("").rstrip("/")
    root = Path(out if out is not None else _name_of(name)).expanduser().absolute()
    lacks = _lacking(manifest, tuple(only), _refuse_others(root, manifest))
    wanted = {
        path: fact for path, fact in manifest.files.items() if not any(path.startswith(f"{item}/") for item in lacks)
    }
    if not (root / layout.MANIFEST).exists() or lacks:
        record = {"source": name, "store_id": manifest.store_id, "lacks": list(lacks)}
        write_atomic(root / layout.PULLED, json.dumps(record).encode())
    count, size = copy_all("pull", wanted, partial(_bring, there, root), progress)
    write_atomic(root / layout.MANIFEST, raw)
    with contextlib.suppress(OSError):
        (root / _PARTS).rmdir()
    if not lacks:
        (root / layout.PULLED).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (root / layout.WORK).rmdir()
    return Transfer(name, str(root), manifest.content_digest, count, size, lacks)


def copy_all(
    stage: str, files: dict[str, FileFact], copy: Callable[[str, FileFact], bool], progress: Listener
) -> tuple[int, int]:
    """Call `copy` for every file, several at once; it says whether there was something to do. Returns how many were
    copied, and their bytes."""
    total, done, count, size = sum(fact.bytes for fact in files.values()), 0, 0, 0
    progress(Event("start", stage, 0, total))
    with ThreadPoolExecutor(_FILES, f"labelgen-{stage}") as threads:
        running = {threads.submit(copy, path, fact): path for path, fact in sorted(files.items())}
        try:
            for ended in as_completed(running):
                path = running[ended]
                done += files[path].bytes
                if ended.result():
                    count, size = count + 1, size + files[path].bytes
                progress(Event("task", stage, done, total, text=path))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    progress(Event("end", stage, done, total))
    return count, size


def refuse_foreign_paths(manifest: Manifest) -> None:
    """Refuse a manifest that lists files which no store of ours has.

    Raises:
        StoreFormatError: with the first of them.
    """
    for path in manifest.files:
        top, _, rest = path.partition("/")
        known = top.partition(".")[0] in _FOLDERS if rest else path in _TOP_FILES
        if not known or any(part.startswith(".") for part in path.split("/")):
            raise StoreFormatError("the manifest lists a file that no store has", found=shown(path))


def _bring(source: Source, root: Path, path: str, fact: FileFact) -> bool:
    status = status_below(root, path)
    same_size = is_regular(status) and status is not None and status.st_size == fact.bytes
    if same_size and digest_below(root, path) == fact.blake3:
        return False
    part = root / _PARTS / fingerprint([path, fact.blake3])
    part.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.exists() and 0 < part.stat().st_size <= fact.bytes
    with part.open("ab" if resumed else "wb") as file:
        client.stream(Wanted(source, path, fact.bytes, file.tell()), file.write)
    with part.open("rb") as file:
        sound = digest_stream(file) == fact.blake3
    if not sound:
        part.unlink()
        if resumed:  # its beginning may have been that of another object
            return _bring(source, root, path, fact)
        raise damaged(source.name(path))
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    part.replace(root / path)
    return True


def _name_of(name: str) -> str:
    last = name.rpartition("/")[2].partition("@")[0]
    if not last or last.startswith(".") or name.count("/") < 3:
        raise ConfigError("the address has no name for a folder", found=name, todo="name one with --out")
    return last


def _refuse_others(root: Path, manifest: Manifest) -> tuple[str, ...] | None:
    """What the store in a folder lacks; None where none is there yet.

    Raises:
        StoreMismatchError: it is another store, or something else.
    """
    if not root.is_dir() or not any(root.iterdir()):
        return None
    refuse_links(root)
    there = load_manifest(root) if (root / layout.MANIFEST).exists() else None
    if there is not None and there.content_digest == manifest.content_digest:
        return tuple(pulled(root)[1])
    unfinished = there is None and (root / layout.PULLED).exists()
    if unfinished and read_object(root, layout.PULLED).get("store_id") == manifest.store_id:
        return None
    raise StoreMismatchError(
        f"{root} holds something else",
        found="another store, or another state of it" if there or unfinished else "files",
        expected="a new or empty folder, or a pull of the same store",
        todo="choose another folder with --out",
    )


def _lacking(manifest: Manifest, only: Sequence[str], lacked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The folders of arrays that are not copied: of a new store those that `only` does not name."""
    names: dict[str, set[str]] = {}
    for embedding in manifest.embeddings:
        names.setdefault(embedding.alias, set()).add(embedding.array.path)
    for entry in manifest.neighbors:
        for name in (entry.relation.value, entry.path.partition("/")[2], f"{entry.relation}.{entry.alias}"):
            names.setdefault(name, set()).add(entry.path)
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ConfigError(
            f"the store has no array {shown(unknown[0])}", found="--only", expected=f"some of {', '.join(names)}"
        )
    chosen = set().union(*(names[name] for name in only))
    every = {path for paths in names.values() for path in paths}
    if lacked is None:
        return tuple(sorted(every - chosen)) if only else ()
    return tuple(sorted(set(lacked) & every - chosen)) if only else ()
