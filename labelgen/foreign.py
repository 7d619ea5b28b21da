"""Read whole files that users name: regular files of bounded size.

Other files raise an `OSError` with a sentence as its `strerror`, so that it is reported like a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

#: A data set's text may be large; a patch, a recipe or judgements have a line for every decision of a person.
MAX_TEXT, MAX_DECISIONS = 16 << 30, 1 << 30

#: A file of more than `_SMALL` bytes with less than one of `_HOLLOW` of them on the disk is refused as sparse.
_HOLLOW, _SMALL = 1000, 1 << 20


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: as `opened`; or the bytes do not fit into memory.
    """
    with opened(path, limit) as file:
        try:
            return file.read()
        except MemoryError as error:
            raise OSError(errno.ENOMEM, "its bytes do not fit into memory", str(path)) from error


def opened(path: Path, limit: int = MAX_TEXT) -> BufferedReader:
    """A regular file (a link to one is fine), open for reading.

    Raises:
        OSError: it cannot be read; it is a pipe, a device or a folder; it has more than `limit` bytes, or hardly any of
            its bytes are on the disk.
    """
    # Non-blocking: opening a pipe without a writer would wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    refusal = ""
    if not stat.S_ISREG(status.st_mode):
        refusal = "no regular file, but a folder, a pipe or a device"
    elif status.st_size > limit:
        refusal = f"{status.st_size:,} bytes, of at most {limit:,}"
    elif status.st_size > _SMALL and status.st_blocks * 512 * _HOLLOW < status.st_size:
        refusal = f"{status.st_size:,} bytes, nearly none of which are on the disk"
    if refusal:
        os.close(handle)
        raise OSError(errno.EINVAL, refusal, str(path))
    return os.fdopen(handle, "rb")
