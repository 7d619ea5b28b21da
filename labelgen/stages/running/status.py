"""Progress of a build, read from its folder alone."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from labelgen.errors import StoreNotFoundError
from labelgen.stages.running.inventory import receipt_keys
from labelgen.stages.running.leases import Rank, ranks_of
from labelgen.stages.running.lock import read_pending
from labelgen.stages.running.task import read_receipt
from labelgen.store import layout
from labelgen.store.disk.files import open_lock
from labelgen.store.manifest import load_manifest


@dataclass(frozen=True)
class Status:
    """State of a folder.

    Attributes:
        state: `sealed`; `unfinished` (never sealed); `changing` (sealed, with an unfinished change beside it).
        recipe: of the unfinished work, else of the sealed store.
        done: tasks with a receipt, by stage.
        rows: rows of these tasks, by stage.
        totals: all tasks of the stages that the unfinished work has reached; empty where nothing is unfinished.
        holder: the process that is building there now, None for none.
        ranks: the ranks of `labelgen work` that are there, and the tasks that they do.
        begun_on: machine classes and library sets that worked on it.
    """

    path: Path
    state: Literal["sealed", "unfinished", "changing"]
    recipe: Mapping[str, Any]
    done: Mapping[str, int]
    rows: Mapping[str, int]
    totals: Mapping[str, int]
    holder: str | None
    begun_on: Sequence[Mapping[str, str]]
    ranks: Sequence[Rank] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def status(path: str | Path) -> Status:
    """Read the state of a folder; nothing is written.

    Raises:
        StoreNotFoundError: the folder holds no build.
    """
    root = Path(path)
    pending = read_pending(root)
    sealed = load_manifest(root) if (root / layout.MANIFEST).exists() else None
    if sealed is None and pending is None:
        raise StoreNotFoundError(f"nothing was built in {root}", todo="labelgen build --out " + str(root))
    keys = receipt_keys(root)
    receipts = [(key.partition("/")[0], receipt) for key in keys if (receipt := read_receipt(root, key)) is not None]
    rows: Counter[str] = Counter()
    for stage, receipt in receipts:
        rows[stage] += receipt.rows
    work = pending or {}
    return Status(
        path=root,
        state="sealed" if pending is None else "unfinished" if sealed is None else "changing",
        recipe=work.get("recipe") or (sealed.recipe if sealed is not None else {}),
        done=dict(Counter(stage for stage, _ in receipts)),
        rows=dict(rows),
        totals=work.get("totals", {}),
        holder=holder(root),
        begun_on=work.get("machines", sealed.machine.get("classes", []) if sealed is not None else []),
        ranks=ranks_of(root),
    )


def holder(root: Path) -> str | None:
    """The process that holds the lock of a folder, None for none."""
    try:
        handle = open_lock(root, create=False)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(handle, 200).decode(errors="replace") or "unknown process"
    finally:
        os.close(handle)
    return None
