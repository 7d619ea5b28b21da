"""Removal of finished and unfinished work; a command that fails before any work leaves the folder as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from labelgen.stages.running import inventory, lock
from labelgen.stages.running.task import read_receipt, receipt_path
from labelgen.store import layout
from labelgen.store.disk.atomic import clean_temporaries
from labelgen.store.disk.files import status_below, unlink_below
from labelgen.store.manifest import Manifest
from labelgen.store.readme.readme import write_card

#: Stage that describes teachers: it is repeated by every run, so its receipts are not work that can be resumed.
DESCRIBE = "describe"


@contextmanager
def locked(root: Path, *, shared: bool = False) -> Iterator[None]:
    """`lock.locked`; removes every trace of it where the block fails and nobody did, or does, any work in the folder.

    Raises:
        StoreBusyError, DiskError: see `lock.locked`.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    with lock.locked(root, shared=shared) as handle:
        begun = (root / layout.PENDING).exists() or (root / layout.MANIFEST).exists()
        try:
            yield
        except BaseException:
            alone = not shared or lock.is_alone(handle)
            if alone and not (begun or (root / layout.MANIFEST).exists() or _has_work(root, set())):
                _forget(root, set())
                (root / layout.LOCK).unlink(missing_ok=True)
                for folder in (root / layout.WORK, *made):
                    with contextlib.suppress(OSError):  # it holds files of others
                        folder.rmdir()
            raise


def forget_change(root: Path, sealed: Manifest) -> None:
    """Remove the note of a change of a sealed store that failed before any of its work was done."""
    if not _has_work(root, sealed.files.keys()):
        _forget(root, sealed.files.keys())


def remove_store(root: Path) -> None:
    """Remove everything that was built in a folder, sealed or not; the manifest first. Files of others stay."""
    files = inventory.named(root) | inventory.unnamed(root, without=())
    unlink_below(root, layout.MANIFEST)
    inventory.remove(root, files, keep=())
    inventory.remove_work(root)
    clean_temporaries(root)


def remove_all_but(root: Path, manifest: Manifest) -> None:
    """Remove the work in progress, and files of earlier manifests and receipts that the manifest does not name.

    The inventory of a change is removed last, so that the same call completes it after a kill.
    """
    keep = set(manifest.files)
    files = inventory.named(root, without=keep)
    if status_below(root, layout.PENDING) is not None:  # also a damaged note
        files = inventory.unnamed(root, without=keep) | files
    inventory.remove(root, files, keep=keep)
    cards = {path: manifest.files[path] for path in (layout.CARD, layout.CROISSANT) if path in manifest.files}
    whole = all(inventory.is_ours(root, path, fact) for path, fact in cards.items())
    if status_below(root, layout.NEXT) is not None and not whole:
        write_card(root, manifest)  # a change that was given up while it was sealed had written its own
    clean_temporaries(root)
    inventory.remove_work(root)


def _has_work(root: Path, sealed: Set[str]) -> bool:
    """Whether there is a receipt that is not sealed, of more than describing teachers."""
    done = {receipt_path(key) for key in inventory.receipt_keys(root) if not key.startswith(f"{DESCRIBE}/")}
    return not done <= sealed


def _forget(root: Path, sealed: Set[str]) -> None:
    """Remove the note of the work, and receipts of described teachers that are not sealed."""
    folder = root / layout.RECEIPTS / DESCRIBE
    for path in folder.glob("*.json"):
        key = f"{DESCRIBE}/{path.stem}"
        if receipt_path(key) not in sealed and read_receipt(root, key) is not None:
            path.unlink()
    for empty in (folder, folder.parent):
        with contextlib.suppress(OSError):
            empty.rmdir()
    inventory.remove_work(root)
