"""Threads of torch in this process, also where it is imported later: that takes seconds, and many builds need none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Threads that torch shall have; 0 for its own choice.
_wanted = 0
#: Torch's own choice, once it was changed here; 0 before.
_default = 0


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that torch has or, before it is imported, shall have: those that were set, else one a core."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    return _wanted or usable_cores()


def set_threads(count: int) -> int:
    """Give torch so many threads, now or when it is imported in `limiting`; 0 for its own choice.

    Returns what gives back the threads of before.
    """
    global _wanted  # noqa: PLW0603 - a process has one torch
    before = threads() if "torch" in sys.modules else _wanted
    _wanted = count
    _apply()
    return before


@contextmanager
def using(count: int) -> Iterator[None]:
    """Give torch so many threads in the block, and those of before behind it."""
    before = set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


@contextmanager
def limiting() -> Iterator[None]:
    """Give a torch that is imported in the block the threads that were set before."""
    late = "torch" not in sys.modules
    try:
        yield
    finally:
        if late and _wanted:
            _apply()


def _apply() -> None:
    global _default  # noqa: PLW0603 - a process has one torch
    torch = sys.modules.get("torch")
    if torch is not None:
        _default = _default or torch.get_num_threads()
        torch.set_num_threads(_wanted or _default)
