"""Runs the tasks of a stage and reports its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelgen.errors import some
from labelgen.executors.base import Executor
from labelgen.progress import Event, Listener
from labelgen.stages.running import inventory, lock
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.task import Receipt, Task, outstanding


@dataclass
class StageRunner:
    """Runs tasks through an executor; collects seconds, rows and peak memory by stage, and every receipt by key.

    `pending` is the note of the unfinished work: the number of tasks of a stage is added to it for `status`. `shared`:
    this is one of the ranks that build together.
    """

    root: Path
    executor: Executor
    progress: Listener
    meter: PeakMeter
    pending: dict[str, Any] = field(default_factory=dict)
    shared: bool = False
    notes: list[str] = field(default_factory=list)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    _totals: dict[str, int] = field(default_factory=dict)

    def run(self, stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        """Return the receipts of all tasks, in their order; run those that are not done."""
        self._totals[stage] = self._totals.get(stage, 0) + len(tasks)
        totals = self.pending.get("totals", {}) | self._totals
        if self.shared:  # a rank that comes late finds less to do
            self.pending |= lock.read_pending(self.root) or {}
            known = self.pending.get("totals", {})
            totals = known | {name: max(total, known.get(name, 0)) for name, total in self._totals.items()}
        lock.note(self.root, self.pending, totals=totals)
        done, todo, damaged = outstanding(self.root, tasks)
        if damaged:
            files = f"{len(damaged)} files of finished tasks are not what was written, and are made again: "
            self.note(files + some(damaged, 3), stage=stage)
        self.remember(done)
        return self._run(self.root, stage, tasks, todo, sum(receipt.rows for receipt in done))

    def run_again(self, stage: str, tasks: Sequence[Task], scratch: Path) -> list[Receipt]:
        """Run tasks that every build repeats, in a folder of their own, which is removed."""
        inventory.remove_receipts(scratch, tasks)
        try:
            return self._run(scratch, stage, tasks, tasks, 0)
        finally:
            inventory.remove_receipts(scratch, tasks)

    def _run(self, root: Path, stage: str, tasks: Sequence[Task], todo: Sequence[Task], earlier: int) -> list[Receipt]:
        with self.timed(stage, earlier, sum(task.rows for task in tasks)) as advance:
            for receipt in self.executor.run(root, todo):
                self.receipts[receipt.task] = receipt
                advance(receipt.rows, receipt.task)
        return [self.receipts[task.key] for task in tasks]

    def remove_parts(self, stage: str) -> None:
        """Remove the parts of a finished stage; those of ranks stay to the seal, since a slower rank may read them."""
        if not self.shared:
            inventory.remove_parts(self.root, stage)

    def remember(self, receipts: Iterable[Receipt | None]) -> None:
        """Add receipts of tasks that are done."""
        self.receipts |= {receipt.task: receipt for receipt in receipts if receipt is not None}

    def note(self, *texts: str, stage: str = "ingest") -> None:
        """Report sentences to the listener, and keep them for the report of the build."""
        for text in texts:
            self.notes.append(text)
            self.progress(Event("note", stage, text=text))

    @contextmanager
    def timed(self, stage: str, earlier: int, total: int) -> Iterator[Callable[..., None]]:
        """Measure a stage and send its events; yields a function that takes rows done (and by which task)."""
        started, done = time.perf_counter(), 0
        self.meter.reset()
        self.progress(Event("start", stage, earlier, total))

        def advance(rows: int, task: str = "") -> None:
            nonlocal done
            done += rows
            rate = done / max(1e-9, time.perf_counter() - started)
            eta = (total - earlier - done) / rate if rate else -1.0
            self.progress(Event("task", stage, earlier + done, total, round(rate, 2), round(eta, 2), task))

        yield advance
        seconds = time.perf_counter() - started
        so_far = self.stages.setdefault(stage, {"seconds": 0.0, "rows": 0, "peak_bytes": 0})
        so_far["seconds"] = round(so_far["seconds"] + seconds, 3)
        so_far["rows"] += total
        so_far["peak_bytes"] = max(so_far["peak_bytes"], self.meter.peak_bytes)
        self.progress(Event("end", stage, total, total, round(done / max(1e-9, seconds), 2), 0.0))
