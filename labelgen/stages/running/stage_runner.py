"""Runs the tasks of a stage and tells how it goes."""

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
from labelgen.stages.running import inventory
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.task import Receipt, Task
from labelgen.stages.running.task import standing as standing_of


@dataclass
class Runner:
    """Runs tasks through an executor; keeps seconds, rows and peak memory by stage, and every receipt by key."""

    root: Path
    executor: Executor
    progress: Listener
    meter: PeakMeter
    notes: list[str] = field(default_factory=list)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def run(self, stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        """All receipts of `tasks`, in their order; what was done before is not done again."""
        standing = standing_of(self.root, tasks)
        self._report_damage(stage, standing.damaged)
        found = {receipt.task: receipt for receipt in standing.done}
        earlier, total = sum(receipt.rows for receipt in standing.done), sum(task.rows for task in tasks)
        with self.timed(stage, earlier, total) as tell:
            for receipt in self.executor.run(self.root, standing.todo):
                found[receipt.task] = receipt
                tell(receipt.rows, receipt.task)
        self.receipts |= found
        return [found[task.key] for task in tasks]

    def anew(self, stage: str, tasks: Sequence[Task], scratch: Path) -> list[Receipt]:
        """All receipts of tasks that every run does again, in a folder of their own; they are removed."""
        inventory.remove_receipts(scratch, tasks)
        found = {}
        try:
            with self.timed(stage, 0, sum(task.rows for task in tasks)) as tell:
                for receipt in self.executor.run(scratch, tasks):
                    found[receipt.task] = receipt
                    tell(receipt.rows, receipt.task)
        finally:
            inventory.remove_receipts(scratch, tasks)
        self.receipts |= found
        return [found[task.key] for task in tasks]

    def _report_damage(self, stage: str, damaged: Sequence[str]) -> None:
        """Say which finished work is not taken over."""
        if damaged:
            text = (
                f"{len(damaged)} files of finished work are not what was written there, and are made again: "
                f"{some(damaged, 3)}"
            )
            self.notes.append(text)
            self.progress(Event("note", stage, text=text))

    def remember(self, receipts: Iterable[Receipt | None]) -> None:
        """Keep receipts of tasks whose files are needed no more."""
        self.receipts |= {receipt.task: receipt for receipt in receipts if receipt is not None}

    @contextmanager
    def timed(self, stage: str, earlier: int, total: int) -> Iterator[Callable[..., None]]:
        """Measure a stage and send its events; yields a function that takes rows done (and by which task)."""
        started, done = time.perf_counter(), 0
        self.meter.reset()
        self.progress(Event("start", stage, earlier, total))

        def tell(rows: int, task: str = "") -> None:
            nonlocal done
            done += rows
            rate = done / max(1e-9, time.perf_counter() - started)
            eta = (total - earlier - done) / rate if rate else -1.0
            self.progress(Event("task", stage, earlier + done, total, round(rate, 2), round(eta, 2), task))

        yield tell
        seconds = time.perf_counter() - started
        so_far = self.stages.setdefault(stage, {"seconds": 0.0, "rows": 0, "peak_bytes": 0})
        so_far["seconds"] = round(so_far["seconds"] + seconds, 3)
        so_far["rows"] += total
        so_far["peak_bytes"] = max(so_far["peak_bytes"], self.meter.peak_bytes)
        self.progress(Event("end", stage, total, total, round(done / max(1e-9, seconds), 2), 0.0))
