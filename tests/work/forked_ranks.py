"""Ranks as forked children of one process, killed and frozen at seeded moments; see `forked.py`."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a rank does before it ends: looks at tasks, takes and gives back leases, renames. Every rank looks at all tasks
#: of the build, so that the first moments come even if others do them all.
_FIRST_MOMENTS, _MOMENTS = 20, 60
_RENAMES = 120


def signalled(number: int, signal_: signal.Signals, *, renames: bool) -> None:
    """Have this process send itself a signal at its `number`-th moment, or right before its `number`-th rename."""
    if not number:
        return
    from labelgen.executors.shared import SharedExecutor
    from labelgen.stages.running.leases import Leases
    from labelgen.store.disk import atomic

    seen = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal_)
            return function(*arguments, **named)

        return call

    atomic.rename = counted(atomic.rename)
    if not renames:
        for owner, name in ((SharedExecutor, "_receipt"), (Leases, "_taken"), (Leases, "_drop"), (Leases, "close")):
            setattr(owner, name, counted(getattr(owner, name)))


def started(job: dict[str, Any], rank: int, arm: Callable[[], None]) -> int:
    """The process of a new rank."""
    pid = os.fork()
    if pid:
        return pid
    from labelgen import pipeline

    try:
        arm()
        config = pipeline.resolve(dataset="table", overrides=job["overrides"])
        pipeline.work(
            config, job["out"], rank=rank, world=job["world"], expire=job["expire"], progress=lambda _event: None
        )
    except BaseException:  # the parent judges it
        with Path(f"{job['out']}.errors").open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def files(out: Path) -> dict[str, list[int]]:
    """Every file and folder with what changes when it is written."""
    found = {}
    for path in sorted(out.rglob("*")):
        status = path.stat()
        found[path.relative_to(out).as_posix()] = [status.st_ino, status.st_mtime_ns if path.is_file() else 0]
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One run of {"out", "overrides", "seed", "world", "expire"}.

    A first process works alone until it is frozen in the middle of a rename. Then `world` ranks start; each is killed
    once, some twice, at moments that the seed draws, and started again. When they have ended, the frozen one is woken.

    Returns the exit codes of all processes in order, how many were killed, the digest, and the files that were there
    before and after the frozen one.
    """
    draw, out, world = random.Random(job["seed"]), Path(job["out"]), job["world"]
    living: dict[int, int] = {}
    killed, codes = [0] * world, []

    def begin(rank: int, number: int = 0, signal_: signal.Signals = signal.SIGKILL, renames: bool = False) -> int:
        pid = started(job, rank, lambda: signalled(number, signal_, renames=renames))
        living[pid] = rank
        return pid

    try:
        frozen = begin(draw.randrange(world), draw.randint(1, _RENAMES), signal.SIGSTOP, True)
        stopped = os.WIFSTOPPED(os.waitpid(frozen, os.WUNTRACED)[1])
        for rank in range(world):
            begin(rank, draw.randint(1, _FIRST_MOMENTS))
        while len(living) > 1:
            pid, status = os.waitpid(-1, 0)
            rank = living.pop(pid)
            if os.WIFSIGNALED(status):
                killed[rank] += 1
                begin(rank, draw.randint(1, _MOMENTS) if killed[rank] < 2 and draw.random() < 0.3 else 0)
            else:
                codes.append(os.WEXITSTATUS(status))
        before = files(out)
        os.kill(frozen, signal.SIGCONT)
        woken = os.waitstatus_to_exitcode(os.waitpid(frozen, 0)[1])
        living.clear()
    finally:
        for pid in living:
            os.kill(pid, signal.SIGKILL)
    from labelgen.store.manifest import load_manifest

    errors = Path(f"{job['out']}.errors")
    return {
        "stopped": stopped,
        "woken": woken,
        "killed": killed,
        "codes": codes,
        "digest": load_manifest(out).content_digest if (out / "manifest.json").exists() else "",
        "before": before,
        "after": files(out),
        "errors": errors.read_text() if errors.exists() else "",
    }
