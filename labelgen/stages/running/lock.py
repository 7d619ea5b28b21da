"""One build at a time in a folder: the lock, and the note of what is being built."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelgen import config as configs
from labelgen.config import BuildConfig, DatasetConfig, changes
from labelgen.errors import CorruptStoreError, DiskError, StoreBusyError, StoreError, StoreMismatchError
from labelgen.fingerprint import canonical, fingerprint
from labelgen.stages.running import inventory
from labelgen.store import layout
from labelgen.store.disk.atomic import clean_temporaries, write_atomic
from labelgen.store.disk.files import open_lock, read_below, refuse_links, status_below, unlink_below
from labelgen.store.manifest import Manifest
from labelgen.store.readme.readme import write_card
from labelgen.store.schema.conforms import conforms
from labelgen.teachers.identity import on_common_facts

#: Of the note of unfinished work. Version 2: tasks have names, and no paths of modules.
FORMAT = 2


def work_identity(config: BuildConfig, append: DatasetConfig | None = None, drop: Sequence[str] = ()) -> dict[str, Any]:
    """What decides the result of the work in a folder: a recipe, what is appended, and what is dropped."""
    appended = {"append": canonical(append)} if append is not None else {}
    return config.identity() | appended | ({"drop": sorted(set(drop))} if drop else {})


def changed_fields(manifest: Manifest, config: BuildConfig) -> list[str]:
    """What a config changes of the recipe that a store was sealed with."""
    return configs.changes(configs.from_dict(manifest.recipe).identity(), config.identity())


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the folder; the system lets go when this process ends, however it ends.

    Raises:
        StoreBusyError: another live build holds it.
        CorruptStoreError: something in the folder is a link, a pipe or a device; nothing was written.
        DiskError: the folder cannot be made or written.
    """
    handle = _held(root)
    try:
        refuse_links(root)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


def _held(root: Path) -> int:
    """A descriptor of the lock, held. A build that failed early removes its lock: then the next one counts."""
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            handle = open_lock(root)
        except StoreError:
            raise
        except OSError as error:
            raise DiskError(f"cannot write in {root}", found=str(error), todo="choose another --out") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace") or "unknown process"
            os.close(handle)
            raise StoreBusyError(
                f"another build is at work in {root}", found=holder, todo="wait for it, or end it first"
            ) from error
        status = status_below(root, layout.LOCK)
        if status is not None and status.st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)


def read_pending(root: Path) -> dict[str, Any] | None:
    """What an unfinished build or change of this folder is about, None when there is none.

    Raises:
        CorruptStoreError: the note is not as it was written, or a link is in its place.
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
            f"the unfinished work in {root} was begun by another version of labelgen",
            todo="finish it with that version, or start again with --discard: it keeps what is sealed",
        )
    if not whole:
        raise CorruptStoreError(
            f"the note of the unfinished work in {root} is damaged",
            found=layout.PENDING,
            expected="the note as it was written, or parts of different work could be mixed",
            todo="start again with --discard: it drops the unfinished work and keeps what is sealed",
        )
    found: dict[str, Any] = pending
    return found


def _is_note(pending: Any) -> bool:
    """Whether a note has the fields that a resume reads, as it wrote them."""
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
    """Write the note; `digest` is the fingerprint of all the rest."""
    write_atomic(root / layout.PENDING, json.dumps({**pending, "digest": fingerprint(pending)}, indent=1).encode())


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


def remove_store(root: Path) -> None:
    """Throw away everything that was built here, sealed or not; the manifest goes first.

    Files that no build wrote stay; see `labelgen.stages.running.inventory`.
    """
    files = inventory.named(root) | inventory.unnamed(root, without=())
    unlink_below(root, layout.MANIFEST)
    inventory.remove(root, files, keep=())
    inventory.remove_work(root)
    clean_temporaries(root)


def remove_all_but(root: Path, manifest: Manifest) -> None:
    """Remove what earlier manifests and receipts of a sealed store name and its own does not, and the work in progress.

    The inventory of a change goes last: killed in between, the same call ends it.
    """
    keep = set(manifest.files)
    files = inventory.named(root, without=keep)
    if status_below(root, layout.PENDING) is not None:  # also a damaged note: it is given up here
        files = inventory.unnamed(root, without=keep) | files
    inventory.remove(root, files, keep=keep)
    if status_below(root, layout.NEXT) is not None and not all(_is_as_sealed(root, manifest, path) for path in _CARDS):
        write_card(root, manifest)  # a change that came to its seal and was given up had written its own
    clean_temporaries(root)  # a killed writer of the manifest or the card leaves them in the store's own folder
    inventory.remove_work(root)


_CARDS = (layout.CARD, layout.CROISSANT)


def _is_as_sealed(root: Path, manifest: Manifest, path: str) -> bool:
    fact = manifest.files.get(path)
    return fact is None or inventory.is_ours(root, path, fact)
