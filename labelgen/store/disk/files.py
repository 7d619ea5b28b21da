"""Open the files of a store: regular files below its folder, with no link in their path.

A store may come from someone else. A link in it could point to any file of the reader, reading a pipe might never end,
and opening a device can have effects. So the folders of a path are opened one by one without following links, and only
regular files are opened. The folder of the store may be a link, because the user named it. A hard link cannot be
distinguished from a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from labelgen.errors import CorruptStoreError
from labelgen.fingerprint import digest_stream
from labelgen.store import layout

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Larger JSON is none of ours: a manifest has about 120 bytes a file and file names for every 256 MiB.
MAX_JSON_BYTES = 64 << 20
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_below(root: Path, path: str) -> BufferedReader:
    """A file of a store, open for reading.

    Args:
        root: folder of the store.
        path: relative to it, forward slashes.

    Raises:
        FileNotFoundError: nothing there.
        CorruptStoreError: the path leaves the store, or a link or something else that is no regular file is in its way.
    """
    held, name = _folder_of(root, path)
    try:
        status = os.stat(name, dir_fd=held, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise not_regular(root / path, status.st_mode)
        return os.fdopen(os.open(name, _FILE, dir_fd=held), "rb")
    finally:
        os.close(held)


def read_below(root: Path, path: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """All bytes of a small file of a store.

    Raises:
        CorruptStoreError: see `open_below`; or it has more than `limit` bytes.
    """
    with open_below(root, path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        size = (root / path).lstat().st_size
        raise CorruptStoreError(f"{root / path} is too large", found=f"{size:,} bytes", expected=f"at most {limit:,}")
    return data


def digest_below(root: Path, path: str) -> str:
    """BLAKE3 of a file of a store; raises as `open_below` does."""
    with open_below(root, path) as file:
        return digest_stream(file)


def status_below(root: Path, path: str) -> os.stat_result | None:
    """Status of what is at a path of a store, a link not followed; None where there is nothing, or a link before it."""
    try:
        held, name = _folder_of(root, path)
    except (OSError, CorruptStoreError):
        return None
    try:
        return os.stat(name, dir_fd=held, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(held)


def is_regular(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISREG(status.st_mode)


def unlink_below(root: Path, path: str) -> bool:
    """Remove a regular file of a store; False, and nothing is done, where there is none or a link is on the way."""
    try:
        held, name = _folder_of(root, path)
    except (OSError, CorruptStoreError):
        return False
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=held, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=held)
    except FileNotFoundError:
        return False
    finally:
        os.close(held)
    return True


def open_lock(root: Path, *, create: bool = True) -> int:
    """A descriptor of the lock of a folder, made where it is not there and `create` is set.

    Raises:
        FileNotFoundError: no lock, and none is made.
        CorruptStoreError: a link, or a file that has a second name elsewhere, in its place.
    """
    folder, name = layout.LOCK.split("/")
    if create:
        with contextlib.suppress(FileExistsError):
            (root / folder).mkdir()
    held, _ = _folder_of(root, layout.LOCK)
    try:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        handle = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=held)
    except OSError as error:
        status = status_below(root, layout.LOCK)
        if status is not None and not is_regular(status):
            raise not_regular(root / layout.LOCK, status.st_mode) from error
        raise
    finally:
        os.close(held)
    status = os.fstat(handle)
    if not is_regular(status) or status.st_nlink > 1:
        os.close(handle)
        raise not_regular(root / layout.LOCK, status.st_mode)
    return handle


def kind_of(mode: int) -> str:
    """`a symbolic link`, `a named pipe` ... of the mode of a status."""
    return _KINDS.get(stat.S_IFMT(mode), "something that is no file")


def walk(root: Path, *, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder of a store but folders, as path and status; no link is followed.

    Folders that cannot be read are left out.
    """
    for path, status in _entries(root, below):
        if stat.S_ISDIR(status.st_mode):
            yield from walk(root, below=path)
        else:
            yield path, status


def refuse_links(root: Path) -> None:
    """Refuse a folder with links, pipes, sockets or devices in it before anything is written there.

    Raises:
        CorruptStoreError: names the first of them.
    """
    for path, status in walk(root):
        if not stat.S_ISREG(status.st_mode):
            raise not_regular(root / path, status.st_mode)


def not_regular(path: Path, mode: int) -> CorruptStoreError:
    """The error for something in a store that is no regular file."""
    return CorruptStoreError(
        f"{path} is {kind_of(mode)}",
        expected="regular files and folders: nothing in a store is a link, a pipe or a device",
        todo="do not trust this folder; remove it, or copy the store again",
    )


def _entries(root: Path, below: str) -> list[tuple[str, os.stat_result]]:
    try:
        with os.scandir(root / below) as entries:
            found = [
                (f"{below}/{entry.name}" if below else entry.name, entry.stat(follow_symlinks=False))
                for entry in entries
            ]
    except OSError:
        return []
    return sorted(found, key=lambda item: item[0])


def _folder_of(root: Path, path: str) -> tuple[int, str]:
    """The open folder that holds a path, reached without a link, and the name in it."""
    *folders, name = path.split("/")
    if any(part in ("", ".", "..") for part in (*folders, name)):
        raise CorruptStoreError(f"{path!r} is not a path of a store", expected="a relative path without '..'")
    held = os.open(root, _FOLDER)
    try:
        for depth, folder in enumerate(folders, 1):
            held = _entered(root, "/".join(folders[:depth]), held, folder)
    except BaseException:
        os.close(held)
        raise
    return held, name


def _entered(root: Path, path: str, held: int, folder: str) -> int:
    """The folder below an open one, which is closed."""
    try:
        below = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=held)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise not_regular(root / path, os.stat(folder, dir_fd=held, follow_symlinks=False).st_mode) from error
        raise
    os.close(held)
    return below
