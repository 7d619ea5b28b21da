"""The lock of a folder, and the note of the unfinished work in it."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen.config import BuildConfig, DatasetConfig, changes
from labelgen.errors import CorruptStoreError, DiskError, StoreBusyError, StoreError, StoreMismatchError
from labelgen.fingerprint import canonical, fingerprint
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.disk.files import open_lock, read_below, refuse_links, status_below
from labelgen.store.manifest import Manifest
from labelgen.store.schema.conforms import conforms
from labelgen.teachers.identity import on_common_facts

#: Version of the note. 2: tasks have names, and no paths of modules.
FORMAT = 2


def work_identity(config: BuildConfig, append: DatasetConfig | None = None, drop: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe, the appended data set and the dropped names of some work: together they decide its result."""
    appended = {"append": canonical(append)} if append is not None else {}
    return config.identity() | appended | ({"drop": sorted(set(drop))} if drop else {})


def changed_fields(manifest: Manifest, config: BuildConfig) -> list[str]:
    """The fields in which a config differs from the recipe of a sealed store."""
    return configs.changes(configs.from_dict(manifest.recipe).identity(), config.identity())


#: Worker processes import the script that started them (`spawn`), and would begin its build again.
UNGUARDED = "worker processes import your script: put what it does below `if __name__ == '__main__':`"


@contextmanager
def locked(root: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold the lock of a folder; the system releases it when this process ends, however it ends. Yields its descriptor.

    A `shared` lock is that of the ranks of one build: it admits other ranks, and nobody else.

    Raises:
        SystemExit: this is a new process that is still importing the script of its parent.
        StoreBusyError: another live build holds it, or ranks of one do.
        CorruptStoreError: something in the folder is a link, a pipe or a device; nothing was written.
        DiskError: the folder cannot be made or written.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # set while a new process imports the script
        sys.exit(f"labelgen: {UNGUARDED}")
    handle = _held(root, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        refuse_links(root)
        _refuse_partial(root)
        os.ftruncate(handle, 0)
        here = f"process {os.getpid()} on {socket.gethostname()}"
        os.write(handle, (f"ranks of `labelgen work`, one of them {here}" if shared else here).encode())
        yield handle
    finally:
        os.close(handle)


def is_alone(handle: int) -> bool:
    """Whether no other rank holds a shared lock, which becomes an exclusive one."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _refuse_partial(root: Path) -> None:
    if (root / layout.PULLED).exists():
        raise StoreError(
            f"the store at {root} is a partial one, or its pull is not finished: it cannot be built or changed",
            found=layout.PULLED,
            todo="pull all of it: `labelgen pull SOURCE --out FOLDER` without --only",
        )


def _held(root: Path, kind: int) -> int:
    """A descriptor of the held lock. A build that failed early removes its lock file: then try the next one."""
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            handle = open_lock(root)
        except StoreError:
            raise
        except OSError as error:
            raise DiskError(f"cannot write in {root}", found=str(error), todo="choose another --out") from error
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace") or "unknown process"
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                todo = "build in another file system, or mount this one with locks (flock)"
                raise DiskError(f"the file system of {root} has no locks", found=str(error), todo=todo) from error
            raise StoreBusyError(
                f"another build is running in {root}", found=holder, todo="wait for it, or end it first"
            ) from error
        status = status_below(root, layout.LOCK)
        if status is not None and status.st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)


def read_pending(root: Path) -> dict[str, Any] | None:
    """The note of the unfinished build or change in a folder, None where there is none.

    Raises:
        CorruptStoreError: the note is damaged or of another version, or a link is in its place.
    """
    try:
        pending = json.loads(read_below(root, layout.PENDING))
        digest = pending.pop("digest")
        whole = digest == fingerprint(pending) and _is_note(pending)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if whole and pending.get("format") != FORMAT:
        raise CorruptStoreError(
            f"the unfinished work in {root} was started by another version of labelgen",
            todo="finish it with that version, or start again with --discard: sealed files are kept",
        )
    if not whole:
        raise CorruptStoreError(
            f"the note of the unfinished work in {root} is damaged",
            found=layout.PENDING,
            expected="the note as it was written: without it, parts of different work could be mixed",
            todo="start again with --discard: this removes the unfinished work and keeps the sealed store",
        )
    found: dict[str, Any] = pending
    return found


def _is_note(pending: Any) -> bool:
    """Whether a note has the fields that a resume reads."""
    if not isinstance(pending, dict) or not isinstance(pending.get("identity"), dict):
        return False
    machines = pending.get("machines")
    tables = (pending.get("totals", {}), pending.get("teachers", {}))
    return (
        isinstance(machines, list)
        and bool(machines)
        and all(isinstance(value, dict) for value in (*machines, *tables))
        and all(type(total) is int for total in tables[0].values())
        and ("recipe" not in pending or conforms("recipe.v1")(pending["recipe"]))
    )


def write_pending(root: Path, pending: Mapping[str, Any]) -> None:
    """Write the note; `digest` is the fingerprint of its other fields."""
    write_atomic(root / layout.PENDING, json.dumps({**pending, "digest": fingerprint(pending)}, indent=1).encode())


def note(root: Path, pending: dict[str, Any], **facts: Any) -> None:
    """Add facts to the note, and write it where they change it."""
    if {**pending, **facts} != pending:
        pending.update(facts)
        write_pending(root, pending)


def refuse_other_work(root: Path, identity: Mapping[str, Any], *, changing: bool) -> dict[str, Any] | None:
    """Return the note of the unfinished work in a folder, if any; refuse work of another identity.

    Raises:
        StoreMismatchError: names the fields that differ.
        CorruptStoreError: see `read_pending`.
    """
    pending = read_pending(root)
    discard = "--discard (keeps the sealed store)" if changing else "--fresh"
    _refuse(
        f"{root} holds an unfinished {'change of the store' if changing else 'build'} with another recipe",
        changes(pending["identity"], identity) if pending is not None else [],
        expected="the recipe and options of the command that began it",
        todo=f"finish it with that command, or drop it with {discard}",
    )
    return pending


def refuse_other_machine(root: Path, pending: Mapping[str, Any], here: Mapping[str, str], *, allowed: bool) -> bool:
    """Whether the work was begun on another machine class; raises StoreMismatchError unless that is allowed."""
    moved = changes(pending["machines"][-1], here)
    if not allowed:
        _refuse(
            f"the unfinished work in {root} was begun on another machine class or with other libraries",
            moved,
            expected="the same, or rows would differ in their last bits",
            todo="resume it where it was begun, accept the mixture with --allow-other-machine, or start with --fresh",
        )
    return bool(moved)


def refuse_other_cut(root: Path, recipe: Mapping[str, Any]) -> None:
    """Raises StoreMismatchError where the work in a folder is cut into other tasks than this recipe would be."""
    there, here = (
        {"run.memory": found["run"]["memory"], "search.engine": found["search"]["engine"]}
        for found in ((read_pending(root) or {}).get("recipe", recipe), recipe)
    )
    _refuse(
        "the ranks of a build search with the same memory and engine",
        changes(there, here),
        todo="give every rank the same --memory and --engine",
    )


def refuse_other_teachers(root: Path, pending: Mapping[str, Any], teachers: Mapping[str, Any]) -> None:
    """Raises StoreMismatchError where a teacher of the same spec has other weights than when the work was begun."""
    before = pending.get("teachers", teachers)
    now = {
        alias: {**facts, "identity": on_common_facts(before.get(alias, {}).get("identity", {}), facts["identity"])[0]}
        for alias, facts in teachers.items()
    }
    _refuse(
        f"a teacher is not the one that the unfinished work in {root} was begun with",
        changes(before, now),
        todo="restore its weights, or start again with --fresh",
    )


def refuse_changed_teachers(root: Path, sealed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Raises StoreMismatchError where a teacher is not the one that made the sealed rows; returns notes on all of them.

    Features that are looked up by id are no network: their file may have grown, so only the dimension is compared.
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
    _refuse(
        f"a teacher is not the one that the store at {root} was made with",
        differing,
        expected="the same weights and settings: rows of two networks cannot be compared",
        todo="restore its weights, or build another store",
    )
    return list(dict.fromkeys(notes))


def refuse_other_corpus(
    root: Path, found: str, expected: str, *, what: str = "data set is", changing: bool = False
) -> None:
    """Raises StoreMismatchError where a data set changed since the store, or the unfinished work, was begun."""
    again = "drop an unfinished change with --discard, or build another store"
    _refuse(
        f"the {what} not what the store at {root} was begun with",
        [f"fingerprint {found}"] if found != expected else [],
        expected=f"fingerprint {expected}",
        todo=f"restore the data set, or {again if changing else 'start again with --fresh'}",
    )


def _refuse(what: str, differing: Sequence[str], *, expected: str = "", todo: str) -> None:
    if differing:
        raise StoreMismatchError(what, found="; ".join(differing), expected=expected, todo=todo)
