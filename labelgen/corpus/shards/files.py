"""Tar shards of a folder, and an account of every other file in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from labelgen.corpus.ledger import Ledger
from labelgen.corpus.shards.keys import looks_used
from labelgen.corpus.text.names import INSIDE
from labelgen.errors import DatasetError, some

#: The unit in which files are counted.
FILES = "files"

#: End of the name of a shard.
TAR = re.compile(r"\.tar$", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(?:tar\.\w+|tgz|tbz2?|txz|tlz|tzst|taz)$", re.IGNORECASE)
# Names of unfinished shards, as writers and browsers give them, and of files that accompany shards.
_UNFINISHED = re.compile(r"\.tar\.(?:part|partial|tmp|temp|incomplete|crdownload|download|aria2)$", re.IGNORECASE)
_COMPANION = re.compile(r"\.tar\.(?:idx|index|json|md5|sha1|sha256)$", re.IGNORECASE)
_OTHER_ARCHIVE = re.compile(r"\.(?:zip|7z|rar|gz|bz2|xz|zst|lz4)$", re.IGNORECASE)


def shards_of(folder: Path, ledger: Ledger) -> list[Path]:
    """The shards below a folder in order of their paths; every file that is none is booked.

    Raises:
        DatasetError: compressed shards, or a folder that cannot be read.
    """
    shards, packed = [], []
    for path, linked in _files(folder):
        name = path.relative_to(folder).as_posix()
        if _COMPRESSED.search(name) and not _UNFINISHED.search(name) and not _COMPANION.search(name):
            packed.append(name)
            continue
        ledger.seen(FILES)
        if linked:
            ledger.skipped(FILES, "linked folders, which are not followed", name, loud=True)
        elif TAR.search(name) and path.is_dir():
            ledger.skipped(FILES, "folders with the name of a shard", name, loud=True)
        elif TAR.search(name):
            shards.append(path)
        else:
            kind, loud = _other_file(name)
            ledger.skipped(FILES, kind, name, loud=loud)
    if packed:
        raise DatasetError(
            f"{len(packed)} compressed shards in {folder}",
            found=some(packed),
            expected="uncompressed shards: photographs are read from their places in them",
            todo="uncompress them (gzip -d, zstd -d, ...), or move them out of this folder",
        )
    unusual = [path for path in shards if INSIDE in path.relative_to(folder).as_posix()]
    if unusual:
        raise DatasetError(f"the path of a shard has {INSIDE!r} in it", found=str(unusual[0]), todo="rename it")
    return sorted(shards)


def _files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Files below a folder, and folders that are links or named like shards; and whether it is a linked folder."""

    def refuse(error: OSError) -> None:
        raise DatasetError(f"cannot read the folder {error.filename}", found=error.strerror or str(error)) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for name in sorted(names):
            yield Path(parent, name), False
        for name in sorted(folders):
            path = Path(parent, name)
            if path.is_symlink() or TAR.search(name):
                yield path, path.is_symlink()


def _other_file(name: str) -> tuple[str, bool]:
    """Kind of a file that is no shard, and whether users would miss it."""
    if _UNFINISHED.search(name):
        return "unfinished shards", True
    if _OTHER_ARCHIVE.search(name):
        return "archives that are no tar shards", True
    suffix = Path(name).suffix.lower()
    known = re.fullmatch(r"\.[a-z0-9_-]{1,12}", suffix) is not None
    return f"files that are no shards ({'*' + suffix if known else 'other names'})", looks_used(name)
