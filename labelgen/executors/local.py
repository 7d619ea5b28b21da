"""Runs tasks on this machine: in this process for one worker, in spawned processes for several."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing.queues import Queue
from pathlib import Path

from labelgen import given
from labelgen.config import RunConfig
from labelgen.errors import ConfigError, shown
from labelgen.executors.base import worker_died, worker_settings
from labelgen.lazy import collect_rarely
from labelgen.stages.running import worker
from labelgen.stages.running.runner import run_task
from labelgen.stages.running.task import Receipt, Task
from labelgen.stages.running.worker import WorkerSettings


class LocalExecutor:
    """One worker runs tasks in this process; several are a pool of processes, each with its settings.

    They are spawned, not forked: torch and its thread pools do not survive a fork.
    """

    def __init__(self, *, run: RunConfig, engine: str) -> None:
        self._settings = worker_settings(run, engine)
        if len(self._settings) > 1:
            _refuse_standard_input()
        self._pool: ProcessPoolExecutor | None = None
        self._working = ExitStack()
        self._objects = given.packed() if len(self._settings) > 1 else b""

    def __enter__(self) -> LocalExecutor:
        if len(self._settings) == 1:
            self._working.enter_context(worker.working(self._settings[0]))
            return self
        context = multiprocessing.get_context("spawn")
        queue: Queue[WorkerSettings] = context.Queue()
        for settings in self._settings:
            queue.put(settings)
        self._pool = ProcessPoolExecutor(
            len(self._settings),
            mp_context=context,
            initializer=_init_worker,
            initargs=(queue, os.getpid(), self._objects),
        )
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is None:
            self._working.close()
            return
        if any(error):  # tasks write atomically, so their processes can be ended
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def run(self, root: Path, tasks: Sequence[Task]) -> Iterator[Receipt]:
        if self._pool is None:
            for task in tasks:
                yield run_task(root, task)
            return
        processes = getattr(self._pool, "_processes", {})  # started as tasks are submitted
        try:
            pending: set[Future[Receipt]] = {self._pool.submit(run_task, root, task) for task in tasks}
            while pending:
                # a finite timeout keeps Ctrl-C prompt
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            ended = list(processes.values())
            self._pool.shutdown(wait=True)  # its thread waits for them, and knows how they ended
            statuses = {process.exitcode for process in ended}
            raise worker_died(status=1 if 1 in statuses else None) from error


def _refuse_standard_input() -> None:
    """Refuse a program that worker processes cannot import: `python - < script`."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is not None and not Path(file).exists():
        raise ConfigError(
            "worker processes cannot start: they import the program that started them",
            found=f"no file {shown(file)}",
            todo="save it as a file, with what it does below `if __name__ == '__main__':`, or run with one worker",
        )


def _init_worker(settings: Queue[WorkerSettings], parent: int, objects: bytes) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    collect_rarely()
    worker.die_with(parent)
    worker.configure(settings.get())
    given.install(objects)
