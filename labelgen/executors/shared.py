"""Runs tasks as one of several ranks that share the folder of a store, each task under a lease."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from labelgen.config import RunConfig
from labelgen.errors import ConfigError
from labelgen.executors.base import worker_settings
from labelgen.stages.running import worker
from labelgen.stages.running.leases import Leases
from labelgen.stages.running.runner import run_task
from labelgen.stages.running.task import Receipt, Task, read_receipt

#: Seconds between two looks at tasks that other ranks do: at first, and at most.
_PAUSES = 0.02, 1.0


class SharedExecutor:
    """One rank of `world`: does tasks that no other rank does, and waits for the others at the end of a stage."""

    def __init__(self, leases: Leases, world: int, *, run: RunConfig, engine: str) -> None:
        self._leases, self._world = leases, world
        self._settings = worker_settings(run, engine)
        if len(self._settings) > 1:
            raise ConfigError(
                "a rank is one worker on one device",
                found=f"{run.workers} workers, device {run.device}",
                todo="start more ranks, each with its --device",
            )
        self._working = ExitStack()

    def __enter__(self) -> SharedExecutor:
        self._working.enter_context(worker.working(self._settings[0]))
        return self

    def __exit__(self, *error: object) -> None:
        self._working.close()

    def run(self, root: Path, tasks: Sequence[Task]) -> Iterator[Receipt]:
        if root != self._leases.root:  # tasks that every rank does for itself
            with TemporaryDirectory(prefix="labelgen-") as folder:
                yield from [run_task(Path(folder), task) for task in tasks]
            return
        first = self._leases.rank * len(tasks) // self._world  # ranks begin at different tasks
        waiting = [*tasks[first:], *tasks[:first]]
        damaged = {task.key: read_receipt(root, task.key) for task in tasks}
        pause, most = _PAUSES
        while waiting:
            done = set()
            for task in waiting:
                receipt = self._receipt(root, task, damaged[task.key])
                if receipt is not None:
                    done.add(task.key)
                    yield receipt
            waiting = [task for task in waiting if task.key not in done]
            pause = _PAUSES[0] if done else min(2 * pause, most)
            if waiting and not done:
                time.sleep(pause)

    def _receipt(self, root: Path, task: Task, damaged: Receipt | None) -> Receipt | None:
        """The receipt of a task that another rank did, or that this one does now; None while another rank does it."""
        there = read_receipt(root, task.key)
        if there is not None and there != damaged and there.fingerprint == task.fingerprint:
            return there
        self._leases.refuse_failed()
        with self._leases.task(task.key) as mine:
            return run_task(root, task) if mine else None
        return None  # the lease was lost
