"""`labelgen verify` of a store at a distance: it is copied as it is, and the copy is looked through."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from labelgen.errors import StoreMismatchError, StoreNotFoundError
from labelgen.progress import Listener, silent
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, write_atomic
from labelgen.store.remote import cache, client
from labelgen.store.remote.answers import Source, Wanted
from labelgen.store.remote.pull import copy_all, refuse_foreign_paths
from labelgen.store.remote.storage import remote_manifest
from labelgen.store.verify.findings import Problem, Report
from labelgen.store.verify.store import verify


def verify_remote(address: str, *, progress: Listener = silent) -> Report:
    """Look through a whole store; files that nothing lists cannot be seen from a distance.

    Needs room for the store in the cache folder, in a folder that is deleted again.

    Raises:
        StoreNotFoundError, StoreFormatError, CorruptStoreError: see `labelgen.open`.
        StoreError: no answer.
    """
    source, manifest, raw = remote_manifest(address)
    refuse_foreign_paths(manifest)
    name, resized = source.name("").rstrip("/"), list[Problem]()
    with tempfile.TemporaryDirectory(prefix="verify-", dir=cache.cache_folder()) as folder:
        root = Path(folder)
        copy_all("pull", dict(manifest.files), partial(_copy, source, root, resized), progress)
        write_atomic(root / layout.MANIFEST, raw)
        report = verify(root, progress=progress)
    named = {problem.file for problem in resized}
    problems = (*resized, *(problem for problem in report.problems if problem.file not in named))
    return replace(report, path=name, problems=problems)


def _copy(source: Source, root: Path, resized: list[Problem], path: str, fact: FileFact) -> bool:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("wb") as file:
            client.stream(Wanted(source, path, fact.bytes), file.write)
    except StoreNotFoundError:
        target.unlink()
    except StoreMismatchError:
        resized.append(Problem(path, f"has another size than {fact.bytes} bytes"))
    return True
