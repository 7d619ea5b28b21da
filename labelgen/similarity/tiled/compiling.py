"""How long compiled loops take to compile: once a machine, for numba keeps what it has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compile_meter() -> Iterator[list[float]]:
    """Seconds, one number a loop, that compiling takes meanwhile; none where numba is not installed."""
    seconds: list[float] = []
    try:
        from numba.core import event
    except ImportError:
        yield seconds
        return
    with event.install_timer("numba:compile", seconds.append):
        yield seconds
