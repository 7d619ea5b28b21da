"""Runs tasks on a dask cluster: that of a scheduler, or a local one for the time of the build."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from labelgen import given
from labelgen.config import RunConfig
from labelgen.errors import ConfigError, requires
from labelgen.executors.base import worker_died, worker_settings
from labelgen.stages.running import worker
from labelgen.stages.running.runner import run_task
from labelgen.stages.running.task import Receipt, Task
from labelgen.stages.running.worker import WorkerSettings

_AHEAD = 4
_PLUGIN = "labelgen-objects"
#: Seconds to wait for a cluster to end: after an error, and when its work is done.
_CLOSE_SECONDS, _PATIENT_SECONDS = 0.5, 30.0


class DaskExecutor:
    """Submits tasks as futures of `distributed`, a few for every worker at a time.

    All workers must see the store and the data under the same paths.
    """

    def __init__(self, *, run: RunConfig, engine: str) -> None:
        self._run = run
        self._settings = worker_settings(run, engine)
        self._settings_of: dict[str, WorkerSettings] = {}
        self._cluster: Any = None
        self._client: Any = None
        self._objects = given.packed()

    def __enter__(self) -> DaskExecutor:
        with requires("dask[distributed]", "build", "the dask executor"):
            from distributed import Client, LocalCluster
        if self._run.scheduler:
            try:
                self._client = Client(self._run.scheduler, timeout=10)
            except (OSError, TimeoutError) as error:
                raise ConfigError(
                    f"no dask scheduler answers at {self._run.scheduler}", todo="start one, or omit --scheduler"
                ) from error
        else:
            self._cluster = LocalCluster(
                n_workers=len(self._settings),
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else it takes port 8787, which may be in use
                memory_limit=0,
                silence_logs=logging.CRITICAL,  # the error is reported once, by labelgen
            )
            self._client = Client(self._cluster)
        self._settings_of = self._assigned()
        if self._objects:
            self._client.register_plugin(_plugin(self._objects), name=_PLUGIN)
        return self

    def __exit__(self, *error: object) -> None:
        if any(error):
            self._stop_now()
        elif self._objects:
            self._client.unregister_worker_plugin(_PLUGIN)
        seconds = _CLOSE_SECONDS if any(error) else _PATIENT_SECONDS
        for service in (self._client, self._cluster):
            if service is not None:
                with contextlib.suppress(TimeoutError):  # its processes are killed, or end with this one
                    service.close(timeout=seconds)
        self._client = self._cluster = None

    def _stop_now(self) -> None:
        """Kill the workers of a local cluster, which would wait for their tasks, and restart killed ones."""
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
        nannies = list(getattr(self._cluster, "workers", {}).values())
        for nanny in nannies:
            nanny.auto_restart = False
        for nanny in nannies:
            with contextlib.suppress(OSError, AttributeError, TypeError):
                os.kill(nanny.pid, signal.SIGKILL)

    def run(self, root: Path, tasks: Sequence[Task]) -> Iterator[Receipt]:
        from concurrent.futures import CancelledError

        from distributed import as_completed
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        waiting = iter(tasks)
        try:
            width = _AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
            running = as_completed([self._submit(root, task) for task in islice(waiting, width)])
            for future in running:
                yield future.result()
                following = next(waiting, None)
                if following is not None:
                    running.add(self._submit(root, following))
        except KilledWorker as error:
            raise worker_died() from error
        except (CommClosedError, CancelledError) as error:
            raise worker_died("the dask scheduler ended") from error

    def _submit(self, root: Path, task: Task) -> Any:
        # Workers have one thread for tasks: a teacher and an engine serve one task at a time.
        key = f"{task.key}-{task.fingerprint}"
        return self._client.submit(_run_on_worker, self._settings_of, root.absolute(), task, key=key, pure=False)

    def _assigned(self) -> dict[str, WorkerSettings]:
        """Settings by the address of the worker."""
        addresses = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        if not addresses:
            raise ConfigError("the dask scheduler has no workers", todo="start workers, then build again")
        return dict(zip(addresses, cycle(self._settings), strict=False))


def _plugin(objects: bytes) -> Any:
    """A plugin of workers, those that join later as well, that gives them the objects of the caller."""
    from distributed import WorkerPlugin

    class GivenObjects(WorkerPlugin):  # type: ignore[misc]  # distributed is untyped
        def setup(self, worker: Any) -> None:
            given.install(objects)

    return GivenObjects()


def _run_on_worker(settings_of: Mapping[str, WorkerSettings], root: Path, task: Task) -> Receipt:
    """Run a task with the settings of this worker; one that joined later uses those of the first."""
    from distributed import get_worker

    settings = settings_of.get(get_worker().address) or next(iter(settings_of.values()))
    if settings != worker.settings():
        worker.configure(settings)
    return run_task(root, task)
