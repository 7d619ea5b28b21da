"""Atomic writing of files: a temporary file in the same folder, flush, fsync, rename.

The folder is not synced, which halves the time spent waiting for the disk. If a power failure undoes a rename, the file
is missing, and every reader and every resume detects that.

Ranks that share a folder make their temporary files in the folder of a lease (`fence`). Whoever takes the lease away
takes that folder, too, so the rename of a rank that wakes up later fails: nothing lies between the check and the write.

Every file of a store is written with `atomic_file`, which also counts its bytes and computes their checksum during the
write, so that no file is read a second time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from blake3 import blake3

from labelgen.errors import DiskError
from labelgen.fingerprint import digest_file

_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{1,16}\.tmp", re.DOTALL)
#: The moment at which a file gets its name; a seam for the tests that kill a build right before or after it.
rename: Callable[[Path, Path], object] = Path.replace
#: What a path gives that another host took away.
GONE = (errno.ENOENT, errno.ESTALE)
#: Errors of a disk; other errors of the operating system are not about the disk and pass unchanged.
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
    errno.EFBIG: "the file is too large for this file system",
    errno.EIO: "the disk reports an error",
}


#: The store of this rank, and the folder of its lease: files below the store get their names only while that is there.
fence: tuple[Path, Path] | None = None


class LostLeaseError(Exception):
    """The lease under which a rank works was taken away, or the store was sealed: nothing was written."""


class FileFact(NamedTuple):
    """Size and BLAKE3 (32 hexadecimal digits) of a file, as the manifest lists them."""

    bytes: int
    blake3: str


class HashedFile:
    """The writable file of `atomic_file`; has the methods that pyarrow calls as well."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = blake3()
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hasher.update(view)
        self._bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    @property
    def fact(self) -> FileFact:
        """Size and checksum of what was written so far."""
        return FileFact(self._bytes, self._hasher.hexdigest(length=16))


@contextmanager
def atomic_file(path: Path) -> Iterator[HashedFile]:
    """A file that gets its name when the block ends without an error; folders are made as needed.

    Raises:
        DiskError: the disk is full or read-only, or the folder may not be written to. Nothing is left behind.
        LostLeaseError: the folder of the lease in `fence` is gone.
    """
    lease = _lease_for(path)
    temporary = (lease or path.parent) / f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
    try:
        if lease is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            hashed = HashedFile(file)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        if lease is None:
            rename(temporary, path)
        else:
            _rename_out(temporary, path, hashed.fact)
    except OSError as error:
        _remove(temporary)
        if lease is not None and error.errno in GONE:
            raise LostLeaseError(str(path)) from error
        if error.errno in _DISK_ERRORS and not isinstance(error, DiskError):
            raise disk_error(path, error) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def write_atomic(path: Path, data: bytes) -> FileFact:
    """Write a whole file; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)
    return file.fact


def move(source: Path, target: Path) -> None:
    """Rename a finished file of a store; raises LostLeaseError where the folder of the lease in `fence` is gone."""
    lease = _lease_for(target)
    try:
        if lease is None or lease.is_dir():
            rename(source, target)
            return
    except FileNotFoundError:
        if lease is None or lease.is_dir():
            raise
    raise LostLeaseError(str(target))


def _lease_for(path: Path) -> Path | None:
    return fence[1] if fence is not None and path.is_relative_to(fence[0]) else None


def _rename_out(temporary: Path, path: Path, fact: FileFact) -> None:
    """Rename a file out of the folder of a lease. A file of the same bytes stays: other hosts may have it open."""
    if path.is_file() and path.stat().st_size == fact.bytes and digest_file(path) == fact.blake3:
        _remove(temporary)
        return
    made = [folder for folder in path.parents if temporary.exists() and not folder.exists()]
    for folder in reversed(made):
        folder.mkdir(exist_ok=True)
    try:
        rename(temporary, path)
    except FileNotFoundError:
        for folder in made:
            with contextlib.suppress(OSError):  # another rank writes there
                folder.rmdir()
        raise


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `atomic_file` gives to a file which is not finished."""
    return _TEMPORARY.fullmatch(name) is not None


def clean_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left below a folder (nobody may be writing there), by the names that they give.

    Returns what was removed.
    """
    listed = [Path(above) / name for above, _, names in os.walk(folder) for name in names if is_temporary(name)]
    found = [path for path in sorted(listed) if path.is_file() and not path.is_symlink()]
    for path in found:
        _remove(path)
    return found


def disk_error(path: Path, error: OSError) -> DiskError:
    """The error for a file that could not be written."""
    return DiskError(
        f"cannot write {path}",
        found=f"{_DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))}; {_free_space(path)}",
        todo="free space or choose a folder on another disk, then run the same command again; finished work is reused",
    )


def _free_space(path: Path) -> str:
    for folder in path.parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB are free on its disk"
    return "its disk does not tell how much is free"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
