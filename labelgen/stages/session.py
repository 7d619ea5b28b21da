"""One build at a time in a folder: the lock, and the note of what is being built."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen.config import BuildConfig, DatasetConfig, changes
from labelgen.errors import DiskError, StoreBusyError, StoreMismatchError
from labelgen.fingerprint import canonical
from labelgen.store import layout
from labelgen.store.atomic import write_atomic
from labelgen.store.manifest import Manifest
from labelgen.teachers.identity import on_common_facts


def work_identity(config: BuildConfig, append: DatasetConfig | None = None) -> dict[str, Any]:
    """What decides the result of the work in a folder, as its note has it: a recipe, and what is appended."""
    return config.identity() | ({"append": canonical(append)} if append is not None else {})


def changed_fields(manifest: Manifest, config: BuildConfig) -> list[str]:
    """What a config changes of the recipe that a store was sealed with."""
    return configs.changes(configs.from_dict(manifest.recipe).identity(), config.identity())


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the folder; the system lets go when this process ends, however it ends.

    Raises:
        StoreBusyError: another live build holds it.
        DiskError: the folder cannot be made or written.
    """
    path = root / layout.LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DiskError(f"cannot write in {root}", found=str(error), todo="choose another --out") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace") or "unknown process"
            raise StoreBusyError(
                f"another build is at work in {root}", found=holder, todo="wait for it, or end it first"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


def read_pending(root: Path) -> dict[str, Any] | None:
    """What an unfinished build or change of this folder is about, None when there is none."""
    try:
        pending: dict[str, Any] = json.loads((root / layout.PENDING).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return pending


def write_pending(root: Path, pending: Mapping[str, Any]) -> None:
    write_atomic(root / layout.PENDING, json.dumps(pending, indent=1).encode())


def note(root: Path, pending: dict[str, Any], **facts: Any) -> None:
    """Add facts to the note of the unfinished work."""
    pending.update(facts)
    write_pending(root, pending)


def refuse_other_recipe(root: Path, pending: Mapping[str, Any], identity: Mapping[str, Any], *, changing: bool) -> None:
    """Raises StoreMismatchError where unfinished work was begun with another recipe; names the changed fields."""
    differing = changes(pending["identity"], identity)
    if differing:
        flag = "--discard (keeps the sealed store)" if changing else "--fresh"
        raise StoreMismatchError(
            f"an unfinished {'change of the store' if changing else 'build'} lies in {root}, made with another recipe",
            found="; ".join(differing),
            expected="the recipe it was begun with",
            todo=f"give that recipe to finish it, or start anew with {flag}",
        )


def refuse_other_machine(root: Path, pending: Mapping[str, Any], here: Mapping[str, str], *, allowed: bool) -> bool:
    """Whether the work was begun on another machine class; raises StoreMismatchError unless that is allowed."""
    moved = changes(pending["machines"][-1], here)
    if moved and not allowed:
        raise StoreMismatchError(
            f"the unfinished work in {root} was begun on another machine class or with other libraries",
            found="; ".join(moved),
            expected="the same, or rows would differ in their last bits",
            todo="go on where it was begun, accept the mixture with --allow-other-machine, or start with --fresh",
        )
    return bool(moved)


def refuse_other_teachers(root: Path, pending: Mapping[str, Any], teachers: Mapping[str, Any]) -> None:
    """Raises StoreMismatchError where a teacher of the same spec has other weights than when the work was begun."""
    before = pending.get("teachers", teachers)
    now = {
        alias: {**facts, "identity": on_common_facts(before.get(alias, {}).get("identity", {}), facts["identity"])[0]}
        for alias, facts in teachers.items()
    }
    differing = changes(before, now)
    if differing:
        raise StoreMismatchError(
            f"a teacher is not the one that the unfinished work in {root} was begun with",
            found="; ".join(differing),
            todo="restore its weights, or start anew with --fresh",
        )


def refuse_changed_teachers(root: Path, sealed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Raises StoreMismatchError where a teacher is not the one that made the sealed rows; returns notes on all of them.

    Features that are looked up by id are no network: their file may have grown, so there the dimension counts alone.
    Facts that the sealed identity does not have are not compared, and a note says so.
    """
    differing, notes = [], [note for teacher in found.values() for note in teacher.notes]
    for alias, old in sealed.items():
        if (teacher := found.get(alias)) is None:
            continue
        if teacher.kind == "keyed" == old.kind:
            differing += changes({"dim": old.dim}, {"dim": teacher.dim}, alias)
        else:
            identity, absent = on_common_facts(old.identity, teacher.identity)
            before = {"identity": old.identity, "dim": old.dim, "modalities": sorted(old.modalities)}
            now = {"identity": identity, "dim": teacher.dim, "modalities": sorted(teacher.modalities)}
            differing += changes(before, now, alias)
            if absent:
                notes.append(f"{alias}: the store does not record {', '.join(absent)} of its teacher: not compared")
    if differing:
        raise StoreMismatchError(
            f"a teacher is not the one that the store at {root} was made with",
            found="; ".join(differing),
            expected="the same weights and settings: rows of two networks cannot be compared",
            todo="restore its weights, or build another store",
        )
    return list(dict.fromkeys(notes))


def refuse_other_corpus(root: Path, found: str, expected: str, *, changing: bool = False) -> None:
    """Raises StoreMismatchError where the data set changed since the work, or the store, was begun."""
    if found != expected:
        drop = "drop the unfinished change with --discard" if changing else "start anew with --fresh"
        raise StoreMismatchError(
            f"the data set is not the one that {root} was begun with",
            found=f"fingerprint {found}",
            expected=f"fingerprint {expected}",
            todo=f"restore the data set, or {drop}",
        )


def remove_work(root: Path) -> None:
    """Remove all work in progress but the lock, which its holder still holds."""
    for path in (root / layout.WORK).glob("*"):
        if path != root / layout.LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def start_anew(root: Path) -> None:
    """Throw away everything that was built here, sealed or not; the manifest goes first."""
    for name in (layout.MANIFEST, layout.CARD, layout.CROISSANT, layout.ZARR_JSON):
        (root / name).unlink(missing_ok=True)
    remove_unlisted(root, set())
    remove_work(root)


def remove_unlisted(root: Path, keep: set[str]) -> list[str]:
    """Remove the files of our own folders that no manifest names any more, and folders left empty; returns them."""
    removed = []
    for name in sorted(path.name for path in root.iterdir() if path.is_dir() and _ours(path.name)):
        for path in sorted((root / name).rglob("*"), reverse=True):
            relative = path.relative_to(root).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif relative not in keep:
                path.unlink()
                removed.append(relative)
        if not any((root / name).iterdir()):
            (root / name).rmdir()
    return removed


def _ours(name: str) -> bool:
    homes = (layout.EMBEDDINGS, layout.NEIGHBORS, layout.MODELS, layout.STATS, layout.RECEIPTS)
    return name.partition(".")[0] in (layout.CORPUS, *homes)
