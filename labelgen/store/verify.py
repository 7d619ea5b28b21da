"""Is a store what was sealed? Everything is read once; memory stays at some tens of MB.

In this order: the manifest against its schema and its own digest; every listed file against its size and checksum
(damage inside a shard is narrowed down to rows by the checksums of its chunks); files that nobody listed; what the
arrays and tables say against each other; a sample of every array as zarr-python reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from labelgen.errors import LabelgenError, StoreFormatError
from labelgen.fingerprint import digest_file
from labelgen.progress import Event, Listener, silent
from labelgen.store import layout
from labelgen.store.atomic import FileFact, is_temporary
from labelgen.store.describe import recall_text
from labelgen.store.findings import Findings, Problem, Report
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import Manifest, content_digest, digest_matches, manifest_problems, read_document
from labelgen.store.shards import CRC_BYTES, crc32c, live_chunks
from labelgen.store.verify_arrays import check_embedding, check_neighbors, check_with_zarr
from labelgen.store.verify_corpus import check_corpus, missing_rows

__all__ = ["Problem", "Report", "verify"]


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
    found = Findings()
    manifest = _checked_manifest(root, found)
    if manifest is None:
        return Report(root, tuple(found.problems), tuple(found.notes), "", 0, 0, time.perf_counter() - started)
    unfinished = _pending_paths(root, found)
    read = _check_files(root, manifest, found, progress)
    if unfinished is not None:
        _excuse_card(found)
    _check_unlisted(root, manifest, unfinished or [], found)
    if content_digest(manifest.files) != manifest.content_digest:
        found.add(layout.MANIFEST, "the content digest is not that of the listed files")
    _check_content(root, manifest, found)
    found.notes += [f"{entry.path}: {recall_text(entry)}" for entry in manifest.neighbors if entry.approximate]
    seconds = round(time.perf_counter() - started, 3)
    digest = content_digest(manifest.files)
    return Report(root, tuple(found.problems), tuple(found.notes), digest, len(manifest.files), read, seconds)


def damaged_rows(root: Path, spec: ArraySpec, shard: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of a shard whose chunks fail their checksum or are cut off, neighbouring ones joined.

    Empty where all chunks are sound: then the damage is in the index.
    """
    first, last = spec.shard_range(shard)
    bad: list[tuple[int, int]] = []
    with (root / spec.shard_path(shard)).open("rb") as file:
        for number in range(live_chunks(spec, shard)):
            raw = file.read(spec.chunk_bytes + CRC_BYTES)
            if len(raw) == spec.chunk_bytes + CRC_BYTES and crc32c(raw[:-CRC_BYTES]) == raw[-CRC_BYTES:]:
                continue
            start = first + number * spec.chunk_rows
            stop = min(start + spec.chunk_rows, last)
            bad[-1:] = [(bad[-1][0], stop)] if bad and bad[-1][1] == start else [*bad[-1:], (start, stop)]
    return bad


def _checked_manifest(root: Path, found: Findings) -> Manifest | None:
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


def _check_files(root: Path, manifest: Manifest, found: Findings, progress: Listener) -> int:
    """Sizes and checksums of all listed files; returns the bytes that were read."""
    shards = {spec.shard_path(n): (spec, n) for spec in manifest.arrays() for n in range(spec.n_shards)}
    needed = {spec.metadata_path for spec in manifest.arrays()} | set(shards)
    for path in sorted(needed - set(manifest.files)):
        found.add(path, "belongs to an array of the store, but the manifest lists no such file")
    total, done = manifest.total_bytes, 0
    progress(Event("start", "verify", 0, total))
    for path, fact in sorted(manifest.files.items()):
        try:
            _check_file(root, path, fact, shards.get(path), found)
        except OSError as error:
            found.add(path, f"cannot be read: {error.strerror or error}")
        done += fact.bytes
        progress(Event("task", "verify", done, total, text=path))
    progress(Event("end", "verify", done, total))
    return done


def _check_file(root: Path, path: str, fact: FileFact, shard: tuple[ArraySpec, int] | None, found: Findings) -> None:
    if not (root / path).is_file():
        found.add(path, "is missing", shard[0].shard_range(shard[1]) if shard else None)
        return
    size = (root / path).stat().st_size
    if size == fact.bytes and digest_file(root / path) == fact.blake3:
        return
    what = f"has {size} bytes instead of {fact.bytes}" if size != fact.bytes else "has other content than was sealed"
    if shard is None:
        found.add(path, what)
        return
    damaged = damaged_rows(root, *shard)
    for rows in damaged:
        found.add(path, what, rows)
    if not damaged:
        found.add(path, f"{what}; {_outside_rows(root / path, *shard)}")


def _outside_rows(path: Path, spec: ArraySpec, shard: int) -> str:
    """What is wrong with a shard whose chunks are all sound."""
    entries = spec.shard_rows // spec.chunk_rows
    with path.open("rb") as file:
        file.seek(live_chunks(spec, shard) * (spec.chunk_bytes + CRC_BYTES))
        tail = file.read()
    index = tail[: 16 * entries]
    if len(tail) != len(index) + CRC_BYTES or crc32c(index) != tail[-CRC_BYTES:]:
        return "its rows are sound, the index after them is damaged"
    start, stop = spec.shard_range(shard)
    return f"its inner checksums agree: rows {start} to {stop - 1} were written anew"


def _excuse_card(found: Findings) -> None:
    """The card is written before the manifest is swapped: beside an unfinished change it may already be the new one."""
    card = [problem for problem in found.problems if problem.file in (layout.CARD, layout.CROISSANT)]
    found.problems = [problem for problem in found.problems if problem not in card]
    found.notes += [f"{problem}; an unfinished change may have written it" for problem in card]


def _check_unlisted(root: Path, manifest: Manifest, unfinished: list[str], found: Findings) -> None:
    for path in _all_files(root):
        if path == layout.MANIFEST or path in manifest.files:
            continue
        if is_temporary(path.rpartition("/")[2]):
            found.notes.append(f"{path} was left behind by a writer that was killed")
        elif path.startswith(tuple(unfinished)):
            found.notes.append(f"{path} belongs to an unfinished change")
        else:
            found.add(path, "is not listed in the manifest")


def _all_files(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        if Path(folder) == root and layout.WORK in names:
            names.remove(layout.WORK)
        names.sort()
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(root).as_posix()


def _pending_paths(root: Path, found: Findings) -> list[str] | None:
    """How the paths begin that an unfinished change writes to, from its note; None where nothing is unfinished."""
    try:
        pending = json.loads((root / layout.PENDING).read_bytes())
        paths = [path for path in pending["paths"] if isinstance(path, str) and path]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        found.notes.append(f"{layout.PENDING} cannot be read")
        return []
    found.notes.append(f"a change of this store is not finished; {layout.PENDING} says which")
    return paths


def _check_content(root: Path, manifest: Manifest, found: Findings) -> None:
    """What the files say against each other; only of arrays whose files are sound."""
    for path, check in _content_checks(root, manifest, found):
        if found.concerns(path):
            continue
        try:
            check()
        except (LabelgenError, OSError, ValueError, IndexError) as error:
            found.add(path, f"cannot be read: {error}")
        found.settle()


def _content_checks(root: Path, manifest: Manifest, found: Findings) -> Iterator[tuple[str, Callable[[], None]]]:
    """What to check, below which folder. Embeddings and lists are read with the corpus, so that must be sound."""
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
