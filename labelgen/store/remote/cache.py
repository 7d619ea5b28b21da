"""The cache of remote stores: a folder of this user with a size limit, which any number of processes share.

Whole files are written under another name and renamed. Shards that are read by ranges are files with holes, see
`labelgen.store.remote.parts`. What was not used for the longest time is removed when the limit is passed; a process
that has a removed file open reads on in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from labelgen.errors import ConfigError
from labelgen.resources import user_cache
from labelgen.store import layout

#: Name of the environment variables for the folder and its limit.
FOLDER, LIMIT = "LABELGEN_CACHE", "LABELGEN_CACHE_SIZE"
_DEFAULT_LIMIT = 20 * 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
#: A file that was used in the last seconds stays.
_RECENT_SECONDS = 60.0
_STORE = "[0-9a-f]" * 32
#: Bytes that a process adds before it looks at the size of the cache again.
_STEP = 64 << 20
_added = {"bytes": _STEP}


def cache_folder() -> Path:
    """`$LABELGEN_CACHE`, or `labelgen/stores` in `$XDG_CACHE_HOME` or `~/.cache`; only its user may look into it."""
    chosen = os.environ.get(FOLDER)
    folder = Path(chosen).expanduser().absolute() if chosen else user_cache() / "stores"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def limit() -> int:
    """Bytes that the cache may have: `LABELGEN_CACHE_SIZE`, such as `5G`; 20 GB by default.

    Raises:
        ConfigError: the variable is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return _DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{LIMIT} is not a size", found=repr(text[:40]), expected="such as 500M or 20G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def added(size: int) -> None:
    """Call this when a process has written so many bytes into the cache: now and then it makes room."""
    most = limit()
    _added["bytes"] += size
    if _added["bytes"] >= min(_STEP, most // 8):
        _added["bytes"] = 0
        make_room(cache_folder(), most)


def make_room(folder: Path, most: int) -> list[Path]:
    """Remove the files that were not used for the longest time until at most `most` bytes are left.

    Manifests stay: they are small, and open stores compare with them. Returns what was removed.
    """
    files: list[tuple[float, int, Path]] = []
    for path in folder.glob(f"{_STORE}/**/*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if path.is_file() and not path.is_symlink() and path.name != layout.MANIFEST:
                files.append((status.st_mtime, 512 * status.st_blocks, path))
    total, removed, young = sum(size for _, size, _ in files), [], time.time() - _RECENT_SECONDS
    for used, size, path in sorted(files):
        if total <= most or used > young:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
        total -= size
    return removed


def touch(path: Path) -> None:
    """Note that a file is in use."""
    with contextlib.suppress(OSError):
        os.utime(path)
