"""Verification of a store against its manifest. Everything is read once, with some tens of MB of memory.

In this order: the manifest against its schema and its own digest; every listed file against its size and checksum
(the checksums of chunks locate damage in a shard by row); files that are not listed; arrays and tables against each
other; a sample of every array as zarr-python reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from labelgen.errors import LabelgenError, StoreFormatError
from labelgen.progress import Event, Listener, silent
from labelgen.store import layout
from labelgen.store.describe import recall_text
from labelgen.store.disk.atomic import FileFact, is_temporary
from labelgen.store.disk.files import digest_below, is_regular, kind_of, open_below, read_below, walk
from labelgen.store.disk.folder import pulled
from labelgen.store.disk.shards import CRC_BYTES, is_sound, live_chunks, shard_bytes
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import Manifest, content_digest, digest_matches, manifest_problems, read_document
from labelgen.store.schema.contradictions import are_arrays_sound, contradictions
from labelgen.store.verify.arrays import check_embedding, check_neighbors, check_with_zarr
from labelgen.store.verify.corpus import check_corpus, missing_rows
from labelgen.store.verify.findings import ProblemList, Report
from labelgen.store.verify.unfinished import Unfinished

_Found: TypeAlias = Mapping[str, os.stat_result]
#: A file of so many bytes with less than one part in `_PACKED` on the disk is not read to its end.
_LARGE, _PACKED, _TRIED = 16 << 20, 64, 4


def verify(path: str | Path, *, progress: Listener = silent) -> Report:
    """Look through a whole store.

    Args:
        path: folder of the store.
        progress: called with an `Event` of the stage `verify` for every file; `done` and `total` are bytes.

    Raises:
        StoreNotFoundError: no sealed store there.
        StoreFormatError: a store of another format. (A damaged manifest is a problem in the report.)
    """
    root, started = Path(path).expanduser().absolute(), time.perf_counter()
    found = ProblemList()
    manifest = _checked_manifest(root, found)
    if manifest is None:
        return Report(root, tuple(found.problems), tuple(found.notes), "", 0, 0, time.perf_counter() - started)
    there = dict(walk(root))
    for name, status in there.items():
        if not is_regular(status):
            found.add(name, f"is {kind_of(status.st_mode)}: nothing in a store is anything but a file or a folder")
    for sentence in contradictions(manifest):
        found.add(layout.MANIFEST, f"contradicts itself: {sentence}")
    absent = _not_pulled(root, manifest, there, found)
    unfinished = Unfinished(root, manifest, pending=_note_pending(root, found))
    listed = replace(manifest, files={path: fact for path, fact in manifest.files.items() if path not in absent})
    read = _check_files(root, listed, there, unfinished, found, progress)
    _check_unlisted(manifest, there, unfinished, found)
    if content_digest(manifest.files) != manifest.content_digest:
        found.add(layout.MANIFEST, "the content digest is not that of the listed files")
    if are_arrays_sound(manifest):
        _check_content(root, manifest, absent, found)
    found.notes += [f"{entry.path}: {recall_text(entry)}" for entry in manifest.neighbors if entry.approximate]
    seconds = round(time.perf_counter() - started, 3)
    digest = content_digest(manifest.files)
    return Report(root, tuple(found.problems), tuple(found.notes), digest, len(listed.files), read, seconds)


def damaged_rows(root: Path, spec: ArraySpec, shard: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of a shard whose chunks fail their checksum or are cut off, neighbouring ones joined.

    Empty where all chunks are sound: then the damage is in the index.
    """
    first, last = spec.shard_range(shard)
    bad: list[tuple[int, int]] = []
    with open_below(root, spec.shard_path(shard)) as file:
        for number in range(live_chunks(spec, shard)):
            raw = file.read(spec.chunk_bytes + CRC_BYTES)
            if len(raw) == spec.chunk_bytes + CRC_BYTES and is_sound(raw):
                continue
            start = first + number * spec.chunk_rows
            stop = min(start + spec.chunk_rows, last)
            bad[-1:] = [(bad[-1][0], stop)] if bad and bad[-1][1] == start else [*bad[-1:], (start, stop)]
    return bad


def _checked_manifest(root: Path, found: ProblemList) -> Manifest | None:
    try:
        document = read_document(root)
    except StoreFormatError as error:
        if "is not JSON" not in error.what:
            raise
        found.add(layout.MANIFEST, error.found)
        return None
    misshapen = manifest_problems(document)
    for problem in misshapen:
        found.add(layout.MANIFEST, f"does not follow its schema: {problem}")
    if misshapen:
        return None
    if not digest_matches(document):
        found.add(layout.MANIFEST, "was edited after it was sealed: its digest does not match")
    try:
        return Manifest.from_json(document)
    except StoreFormatError as error:
        found.add(layout.MANIFEST, f"{error.what}: {error.found}")
        return None


def _check_files(
    root: Path, manifest: Manifest, there: _Found, unfinished: Unfinished, found: ProblemList, progress: Listener
) -> int:
    """Sizes and checksums of all listed files; returns the bytes that were read."""
    specs = [spec for spec in manifest.arrays() if spec.n_shards <= len(manifest.files)]
    shards = {spec.shard_path(n): (spec, n) for spec in specs for n in range(spec.n_shards)}
    total, done = manifest.total_bytes, 0
    progress(Event("start", "verify", 0, total))
    for path, fact in sorted(manifest.files.items()):
        before = len(found.problems)
        try:
            _check_file(root, path, fact, there.get(path), shards.get(path), found)
        except OSError as error:
            found.add(path, f"cannot be read: {error.strerror or error}")
        if path in (layout.CARD, layout.CROISSANT) and found.problems[before:] and unfinished.is_next_card(path):
            del found.problems[before:]
            found.notes.append(f"{path} is that of a change which is not finished")
        done += fact.bytes
        progress(Event("task", "verify", done, total, text=path))
    progress(Event("end", "verify", done, total))
    return done


def _check_file(
    root: Path,
    path: str,
    fact: FileFact,
    status: os.stat_result | None,
    shard: tuple[ArraySpec, int] | None,
    found: ProblemList,
) -> None:
    if status is None:
        found.add(path, "is missing", shard[0].shard_range(shard[1]) if shard else None)
        return
    if not is_regular(status):
        return  # named already
    if status.st_size != fact.bytes:
        what = f"has {status.st_size} bytes instead of {fact.bytes}"
    elif _is_hollow(root, path, status, shard):
        what = f"has holes: {512 * status.st_blocks:,} of its {status.st_size:,} bytes are on the disk"
    elif digest_below(root, path) == fact.blake3:
        return
    else:
        what = "has other content than was sealed"
    if shard is None or "holes" in what or status.st_size > shard_bytes(*shard):
        found.add(path, what)
        return
    damaged = damaged_rows(root, *shard)
    for rows in damaged:
        found.add(path, what, rows)
    if not damaged:
        found.add(path, f"{what}; {_outside_rows(root, path, *shard)}")


def _is_hollow(root: Path, path: str, status: os.stat_result, shard: tuple[ArraySpec, int] | None) -> bool:
    """Whether next to nothing of a large file is on the disk: to read it would take its declared size in time.

    A file system that compresses may hold a shard of fillers so; a shard whose first checksums are right is read.
    """
    if status.st_size < _LARGE or 512 * status.st_blocks * _PACKED > status.st_size:
        return False
    if shard is None:
        return True
    spec, number = shard
    with open_below(root, path) as file:
        for _ in range(min(live_chunks(spec, number), _TRIED)):
            raw = file.read(spec.chunk_bytes + CRC_BYTES)
            if not is_sound(raw):
                return True
    return False


def _outside_rows(root: Path, path: str, spec: ArraySpec, shard: int) -> str:
    """Faults of a shard whose chunks are all sound."""
    entries = spec.shard_rows // spec.chunk_rows
    with open_below(root, path) as file:
        file.seek(live_chunks(spec, shard) * (spec.chunk_bytes + CRC_BYTES))
        tail = file.read(16 * entries + CRC_BYTES + 1)
    if len(tail) != 16 * entries + CRC_BYTES or not is_sound(tail):
        return "its rows are sound, the index after them is damaged"
    start, stop = spec.shard_range(shard)
    return f"its inner checksums agree: rows {start} to {stop - 1} were written again"


def _check_unlisted(manifest: Manifest, there: _Found, unfinished: Unfinished, found: ProblemList) -> None:
    for path, status in there.items():
        if path == layout.MANIFEST or path in manifest.files or path.startswith(f"{layout.WORK}/"):
            continue
        if not is_regular(status):
            continue
        if is_temporary(path.rpartition("/")[2]):
            found.notes.append(f"{path} was left behind by a writer that was killed")
        elif unfinished.explains(path, status.st_size):
            found.notes.append(f"{path} belongs to a change that is not finished")
        else:
            found.add(path, "is not listed in the manifest")


def _note_pending(root: Path, found: ProblemList) -> bool:
    """Whether there is a note of an unfinished change; it is reported; its content excuses nothing."""
    try:
        json.loads(read_below(root, layout.PENDING))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, RecursionError):
        found.notes.append(f"{layout.PENDING} cannot be read")
        return False
    found.notes.append(f"a change of this store is not finished, or its note was planted: see {layout.PENDING}")
    return True


def _not_pulled(root: Path, manifest: Manifest, there: _Found, found: ProblemList) -> frozenset[str]:
    """Files that a partial store says it lacks, and does lack; they are counted in a note."""
    lacks = [f"{item}/" for item in pulled(root)[1]]
    absent = frozenset(path for path in manifest.files if path not in there and path.startswith(tuple(lacks)))
    if absent:
        arrays = ", ".join(item.rstrip("/") for item in lacks)
        found.notes.append(f"a partial store: {len(absent)} files were not pulled, of {arrays}")
    return absent


def _check_content(root: Path, manifest: Manifest, absent: frozenset[str], found: ProblemList) -> None:
    """Contradictions between files; only of arrays whose files are sound and there."""
    for path, check in _content_checks(root, manifest, found):
        if found.concerns(path) or any(name.startswith(f"{path}/") for name in absent):
            continue
        try:
            check()
        except (LabelgenError, OSError, ValueError, IndexError) as error:
            found.add(path, f"cannot be read: {error}")
        found.settle()


def _content_checks(root: Path, manifest: Manifest, found: ProblemList) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (path, check). Embeddings and lists are read with the corpus, so that must be sound."""
    corpus = manifest.corpus.path
    yield corpus, partial(check_corpus, root, manifest, found)
    if not found.concerns(corpus) and not found.concerns(manifest.quarantine.path):
        missing = missing_rows(root, manifest, found)
        for embedding in manifest.embeddings:
            yield embedding.array.path, partial(check_embedding, root, manifest, embedding, missing, found)
        for entry in manifest.neighbors:
            yield entry.path, partial(check_neighbors, root, manifest, entry, found)
    for spec in manifest.arrays():
        yield spec.path, partial(check_with_zarr, root, spec, found)
