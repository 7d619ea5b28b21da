"""Settings of a worker process: device, threads, memory. Nothing here can change a result."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from labelgen import given, registry
from labelgen.specs import Spec
from labelgen.stages.running.memory import PeakMeter, anonymous_bytes
from labelgen.torch_threads import limiting, set_threads, using
from labelgen.types import Modality


@dataclass(frozen=True)
class WorkerSettings:
    """Attributes: torch device; threads for BLAS, torch and decoding; bytes of anonymous memory; engine of searches."""

    device: str = "cpu"
    threads: int = 1
    memory: int = 4 * 10**9
    engine: str = "tiled"


#: Anonymous memory of a process that has embedded with torch and compiled the loops of a search: 0.8 to 1 GB, measured.
RUNTIME_BYTES = 1100 * 10**6

#: More than a batch of photographs needs: batches are not measured where the budget holds one of these a thread.
LARGE_BATCH_BYTES = 10**9

_settings = WorkerSettings()
#: Teachers whose batches were measured, with the highest memory of this process and the memory of a batch.
_batches: dict[tuple[int, Modality], tuple[Any, int, int]] = {}
#: Teachers by device and a spec that was found when they were loaded: `auto` became one of the runtimes.
_remembered: dict[tuple[str, str], Any] = {}


def settings() -> WorkerSettings:
    return _settings


def configure(new: WorkerSettings) -> None:
    """Make this process a worker; threads are set here alone."""
    global _settings  # noqa: PLW0603 - a process is one worker
    _settings = new
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if new.threads > 1 else "false")
    # Waiting threads of torch sleep instead of spinning: decoding threads and other processes need the cores. OpenMP
    # reads this once, so it has an effect where torch was not imported before (the command line, workers).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_threads(new.threads)


@contextmanager
def working(new: WorkerSettings) -> Iterator[None]:
    """Make this process a worker for a while; torch's threads are restored for a training in the same process."""
    with using(new.threads):
        configure(new)
        yield


def teacher(spec: str) -> Any:
    """The teacher of a spec on this worker's device; see `teacher_on`."""
    return teacher_on(spec, _settings.device)


def teacher_on(spec: str, device: str) -> Any:
    """The teacher of a spec, loaded once a process and device; or the object that the caller gives."""
    found = given.find(spec)
    if found is not None:
        with limiting():
            return found.make(device)
    key = spec, device
    return _remembered[key] if key in _remembered else _loaded(spec, device)


def remember(spec: str, teacher: Any) -> None:
    """Use a loaded teacher for another spec of the same meaning."""
    _remembered[spec, _settings.device] = teacher


@lru_cache(maxsize=4)
def _loaded(spec: str, device: str) -> Any:
    with limiting():
        return registry.create("teacher", Spec.parse(spec), device=device)


def engine() -> Any:
    """The search engine of this worker."""
    with limiting():
        return registry.create("engine", Spec.parse(_settings.engine), device=_settings.device)


@contextmanager
def one_thread_a_pass() -> Iterator[AbstractContextManager[Any]]:
    """Allow several forward passes of one thread each on a CPU, and one at a time on another device.

    Yields the context in which a forward pass is run.
    """
    if _settings.device != "cpu":
        yield threading.Lock()
        return
    with using(1):  # also of threads that start later
        yield nullcontext()


def needs_measuring(teacher: Any, modality: Modality) -> bool:
    """Whether the memory of a batch of a teacher is unknown, and the budget small enough for it to matter."""
    if _settings.threads <= 1 or (id(teacher), modality) in _batches:
        return False
    return _settings.memory < anonymous_bytes() + _settings.threads * LARGE_BATCH_BYTES


@contextmanager
def measuring(teacher: Any, modality: Modality) -> Iterator[None]:
    """Measure the memory of the batch that is encoded in the block, with nothing else running."""
    before = anonymous_bytes()
    with PeakMeter(seconds=0.01) as meter:
        yield
    _batches[id(teacher), modality] = (teacher, meter.peak_bytes, max(1, meter.peak_bytes - before))


def batches_at_once(teacher: Any, modality: Modality) -> int:
    """Number of batches of a teacher to encode at once: one a thread, or as many as fit into the memory."""
    if (id(teacher), modality) not in _batches:
        return max(1, _settings.threads)
    _, peak, batch = _batches[id(teacher), modality]
    return max(1, min(_settings.threads, 1 + (_settings.memory - peak) // batch))


def search_memory(memory: int) -> int:
    """Bytes of a worker's budget that a search may use; the interpreter, torch and its buffers need the rest.

    Not measured, so that the schedule of a search depends on the budget alone.
    """
    return max(memory - RUNTIME_BYTES, memory // 4)


def release_teachers() -> None:
    """Forget the teachers: no stage after the embed stage needs them."""
    _loaded.cache_clear()
    _remembered.clear()
    _batches.clear()


def die_with(parent: int) -> None:
    """End this process soon after its parent, so that a killed build leaves no workers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="labelgen-parent-watch", daemon=True).start()
