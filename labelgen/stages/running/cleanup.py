"""A command that fails before any work was done leaves the folder as it found it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelgen.stages.running import inventory, lock
from labelgen.stages.running.task import read_receipt, receipt_path
from labelgen.store import layout
from labelgen.store.manifest import Manifest

#: Says what teachers are: written again by every run, so it is no work that a later one could take over.
DESCRIBE = "describe"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """`lock.locked`, without a trace where the block fails and neither it nor anybody before did any work here.

    Raises:
        StoreBusyError, DiskError: see `lock.locked`.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    with lock.locked(root):
        begun = (root / layout.PENDING).exists() or (root / layout.MANIFEST).exists()
        try:
            yield
        except BaseException:
            if not begun and not _has_work(root):
                _forget(root, made)
            raise


def forget_change(root: Path, sealed: Manifest) -> None:
    """Remove the note of a change of a sealed store that failed before any of its work was done."""
    if not _has_work(root, set(sealed.files)):
        _forget_described(root, set(sealed.files))
        inventory.remove_work(root)


def _has_work(root: Path, sealed: set[str] = frozenset()) -> bool:  # type: ignore[assignment]  # only read
    """Whether a task of this folder is done that no manifest names: one of more than describing teachers."""
    for path in (root / layout.RECEIPTS).rglob("*.json"):
        relative = path.relative_to(root).as_posix()
        if relative not in sealed and not relative.startswith(f"{layout.RECEIPTS}/{DESCRIBE}/"):
            return True
    return (root / layout.MANIFEST).exists() and not sealed


def _forget(root: Path, made: list[Path]) -> None:
    """Remove what this run wrote, the lock it holds included, and the folders it made."""
    _forget_described(root, set())
    inventory.remove_work(root)
    (root / layout.LOCK).unlink(missing_ok=True)
    for folder in (root / layout.WORK, *made):
        with contextlib.suppress(OSError):  # somebody else put something there
            folder.rmdir()


def _forget_described(root: Path, sealed: set[str]) -> None:
    folder = root / layout.RECEIPTS / DESCRIBE
    for path in folder.glob("*.json"):
        key = f"{DESCRIBE}/{path.stem}"
        if receipt_path(key) not in sealed and read_receipt(root, key) is not None:
            path.unlink()
    for empty in (folder, folder.parent):
        with contextlib.suppress(OSError):
            empty.rmdir()
