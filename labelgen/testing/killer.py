"""Run the command line and kill it with SIGKILL at a chosen write, for tests of resumed builds.

`python -m labelgen.testing.killer WHEN PATTERN COUNT LOG -- build ...` kills this process `before` or `after` the file
whose path (relative to the store) matches the glob PATTERN for the COUNT-th time gets its name. `after` on a part is
exactly the moment between a rename and its receipt. One line in LOG says where it happened.
"""

from __future__ import annotations

import fnmatch
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, cast

from labelgen.store.disk import atomic

When: TypeAlias = Literal["before", "after"]


def kill_at(when: When, pattern: str, count: int, log: Path, store: Path) -> None:
    """Arrange for SIGKILL at the given rename in this process."""
    seen = 0
    rename: Callable[[Path, Path], object] = atomic.rename

    def watched(temporary: Path, target: Path) -> None:
        nonlocal seen
        path = os.path.relpath(target, store)
        hit = fnmatch.fnmatch(path, pattern)
        seen += hit
        if hit and seen == count and when == "before":
            _die(log, f"before {path}")
        rename(temporary, target)
        if hit and seen == count:
            _die(log, f"after {path}")

    atomic.rename = watched


def _die(log: Path, where: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(where + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)


def _main() -> None:
    when, pattern, count, log, dashes, *arguments = sys.argv[1:]
    if when not in ("before", "after") or dashes != "--" or "--out" not in arguments:
        raise SystemExit(
            "usage: python -m labelgen.testing.killer before|after PATTERN COUNT LOG -- build --out STORE ..."
        )
    store = Path(arguments[arguments.index("--out") + 1])
    kill_at(cast("When", when), pattern, int(count), Path(log), store)
    sys.argv = ["labelgen", *arguments]
    runpy.run_module("labelgen", run_name="__main__")


if __name__ == "__main__":
    _main()
