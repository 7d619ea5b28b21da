"""Measured anonymous memory: bytes that a process allocated, without the pages of mapped files."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import TracebackType

_INTERVAL_SECONDS = 0.05


def anonymous_bytes(pid: int | None = None) -> int:
    """Resident anonymous bytes of a process (`RssAnon`), 0 where they are not known."""
    try:
        status = Path(f"/proc/{pid or os.getpid()}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def release_freed(limit: int) -> None:
    """Give freed blocks back to the system where this process holds more than `limit` anonymous bytes.

    glibc keeps them for each thread that freed them: embedding took 1.9 GB instead of 1.4. Other systems do nothing.
    """
    if anonymous_bytes() > limit:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def tree_pids(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids, queue = [], [pid]
    while queue:
        current = queue.pop()
        pids.append(current)
        for task in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                queue += [int(child) for child in task.read_text(encoding="ascii").split()]
            except OSError:
                continue
    return pids


def tree_bytes(pid: int) -> int:
    """Anonymous bytes of a process and all its descendants together."""
    return sum(anonymous_bytes(member) for member in tree_pids(pid))


class PeakMeter:
    """Context manager that samples anonymous bytes of this process, or of its whole tree, and holds the highest."""

    def __init__(self, *, tree: bool = False, seconds: float = _INTERVAL_SECONDS) -> None:
        self._tree, self._seconds = tree, seconds
        self._stop = threading.Event()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._sample, name="labelgen-meter", daemon=True)

    def __enter__(self) -> PeakMeter:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def reset(self) -> None:
        """Start the next stage from the memory that is in use now."""
        self.peak_bytes = 0
        self._read()

    def _read(self) -> None:
        now = tree_bytes(os.getpid()) if self._tree else anonymous_bytes()
        self.peak_bytes = max(self.peak_bytes, now)

    def _sample(self) -> None:
        while not self._stop.wait(self._seconds if not self._tree else 4 * self._seconds):
            self._read()
