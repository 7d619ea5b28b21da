"""The protocol of executors, which run tasks. They cannot change a result: tasks are idempotent and independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from labelgen.config import RunConfig, parse_bytes
from labelgen.errors import WorkerError
from labelgen.stages.running.task import Receipt, Task
from labelgen.stages.running.worker import WorkerSettings
from labelgen.torch_threads import usable_cores


class Executor(Protocol):
    """Runs independent tasks. Registered in the entry-point group `labelgen.executors`, made with `run=, engine=`.

    Used as a context manager: workers live from entry to exit, and none survives it.
    """

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, root: Path, tasks: Sequence[Task]) -> Iterator[Receipt]:
        """Receipts as tasks end, in any order. The first error ends the run; finished tasks keep their receipts."""
        ...


def worker_died(who: str = "a worker process died", *, status: int | None = None) -> WorkerError:
    """The error for work that ended without an exception; `status` is that of the process, where it is known."""
    if status == 1:  # what Python ends with when it cannot import the script
        return WorkerError(
            "a worker process could not start",
            found="it ended with status 1; what it printed is above",
            todo="in a script, put what it does below `if __name__ == '__main__':`, since workers import it",
        )
    return WorkerError(
        who,
        found="it was killed (often by the system, for memory) or crashed",
        todo="run the same command again (finished tasks are kept), with fewer --workers or a smaller --memory",
    )


def worker_settings(run: RunConfig, engine: str) -> list[WorkerSettings]:
    """Settings of every worker: devices in turn, and equal shares of threads and memory."""
    devices = [device.strip() for device in run.device.split(",") if device.strip()] or ["cpu"]
    count = max(run.workers, len(devices))
    threads = run.threads or max(1, usable_cores() // count)
    memory = parse_bytes(run.memory) // count
    return [WorkerSettings(devices[number % len(devices)], threads, memory, engine) for number in range(count)]
