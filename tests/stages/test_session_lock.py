"""The lock of a folder, where a build that failed early removed the one that it held."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labelgen.errors import StoreBusyError
from labelgen.stages.running import lock
from labelgen.store import layout


def test_a_lock_that_was_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock and holding it, its holder ends, removes it, and a third build makes a new one."""
    opened: list[int] = []
    open_lock = lock.open_lock

    def removed_once(root: Path) -> int:
        handle = open_lock(root)
        if not opened:
            (root / layout.LOCK).unlink()
            (root / layout.LOCK).write_text("")
        opened.append(os.fstat(handle).st_ino)
        return handle

    monkeypatch.setattr(lock, "open_lock", removed_once)
    with lock.locked(tmp_path / "store"):
        assert len(opened) == 2
        assert opened[-1] == (tmp_path / "store" / layout.LOCK).stat().st_ino
        monkeypatch.setattr(lock, "open_lock", open_lock)
        with pytest.raises(StoreBusyError), lock.locked(tmp_path / "store"):
            pass
