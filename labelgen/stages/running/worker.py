"""What a worker process knows beside its task: device, threads, memory. Nothing here can change a result."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from labelgen import registry
from labelgen.specs import Spec
from labelgen.stages.running.memory import PeakMeter, anonymous_bytes


@dataclass(frozen=True)
class WorkerSettings:
    """Attributes: torch device; threads for BLAS, torch and decoding; bytes of anonymous memory; engine of searches."""

    device: str = "cpu"
    threads: int = 1
    memory: int = 4 * 10**9
    engine: str = "tiled"


#: Anonymous memory of a process that has embedded with torch and compiled the loops of a search: 0.8 to 1 GB, measured.
RUNTIME_BYTES = 1100 * 10**6

#: Taken to be more than a batch of photographs needs: a budget with room for as many of these is not measured first.
LARGE_BATCH_BYTES = 10**9

_settings = WorkerSettings()
#: Of teachers whose batches were measured: the teacher, the highest memory of this process, and what a batch took.
_batches: dict[int, tuple[Any, int, int]] = {}


def settings() -> WorkerSettings:
    return _settings


def configure(new: WorkerSettings) -> None:
    """Set this process up as a worker. Threads are set once, here, so that teachers and engines need not."""
    _set_threads(_take(new), new.threads)


@contextmanager
def working(new: WorkerSettings) -> Iterator[None]:
    """This process as a worker for a while: whoever trains in it afterwards finds torch's threads as they were."""
    torch = _take(new)
    before = torch.get_num_threads() if torch else 0
    _set_threads(torch, new.threads)
    try:
        yield
    finally:
        _set_threads(torch, before)


def _take(new: WorkerSettings) -> Any:
    """Remember the settings and give torch, None where it is not installed."""
    global _settings  # noqa: PLW0603 - one worker a process is what a worker is
    _settings = new
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if new.threads > 1 else "false")
    # Threads of torch that wait should sleep, not spin: decoding threads, other workers and other people's jobs want
    # the core. Read once by OpenMP, so it counts where torch was not imported before (the command line, workers).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError:
        return None
    return torch


def _set_threads(torch: Any, threads: int) -> None:
    if torch is not None:
        torch.set_num_threads(threads)


@lru_cache(maxsize=4)
def teacher(spec: str) -> Any:
    """The teacher of a spec on this worker's device, loaded once a process."""
    return registry.create("teacher", Spec.parse(spec), device=_settings.device)


def engine() -> Any:
    """The search engine of this worker."""
    return registry.create("engine", Spec.parse(_settings.engine), device=_settings.device)


@contextmanager
def one_thread_a_pass() -> Iterator[AbstractContextManager[Any]]:
    """On a CPU, forward passes of one thread each, as many at once as are asked for; on another device one at a time.

    Yields what a forward pass must hold.
    """
    if _settings.device != "cpu":
        yield threading.Lock()
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that begin after this take it over
    try:
        yield nullcontext()
    finally:
        torch.set_num_threads(before)


def needs_measuring(teacher: Any) -> bool:
    """Whether it is not known how much memory a batch of a teacher takes, and the budget is small enough to matter."""
    if _settings.threads <= 1 or id(teacher) in _batches:
        return False
    return _settings.memory < anonymous_bytes() + _settings.threads * LARGE_BATCH_BYTES


@contextmanager
def measuring(teacher: Any) -> Iterator[None]:
    """Measure what a batch that is encoded in the block, and nothing beside it, takes."""
    before = anonymous_bytes()
    with PeakMeter(seconds=0.01) as meter:
        yield
    _batches[id(teacher)] = (teacher, meter.peak_bytes, max(1, meter.peak_bytes - before))


def batches_at_once(teacher: Any) -> int:
    """How many batches of a teacher are worked on at once: as many as threads, or as fit into the memory."""
    if id(teacher) not in _batches:
        return max(1, _settings.threads)
    _, peak, batch = _batches[id(teacher)]
    return max(1, min(_settings.threads, 1 + (_settings.memory - peak) // batch))


def search_memory(memory: int) -> int:
    """Bytes that a search may use of a worker's budget: the interpreter, torch and its buffers need the rest.

    Fixed rather than measured, so that the schedule of a search depends on the budget alone.
    """
    return max(memory - RUNTIME_BYTES, memory // 4)


def release_teachers() -> None:
    """Forget the teachers: no stage after the embed stage needs them."""
    teacher.cache_clear()
    _batches.clear()


def die_with(parent: int) -> None:
    """End this process soon after its parent: a killed build must not leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="labelgen-parent-watch", daemon=True).start()
