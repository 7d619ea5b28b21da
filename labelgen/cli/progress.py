"""Progress of a long call: bars on a terminal, one JSON object a line elsewhere; always on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from labelgen.cli import show
from labelgen.progress import Event, Listener, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

MODES = ("auto", "rich", "json", "none")
#: Stages whose rows are bytes.
BYTE_STAGES = frozenset({"verify"})
#: Events that only move a bar are told at most this often as JSON; all others always.
MOVE_SECONDS = 1.0


@contextmanager
def listening(mode: str, *, as_json: bool = False) -> Iterator[Listener]:
    """A listener for the time of a call. `auto`: bars where stderr is a terminal and no JSON was asked for."""
    if mode == "auto":
        mode = "rich" if sys.stderr.isatty() and not as_json else "json"
    if mode == "none":
        yield silent
    elif mode == "json":
        yield JsonLines(sys.stderr)
    else:
        with Bars(show.console(stderr=True)) as bars:
            yield bars


class JsonLines:
    """Writes every event as one line: its fields, and `seconds` since the call began."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._moved = -MOVE_SECONDS

    def __call__(self, event: Event) -> None:
        seconds = time.monotonic() - self._began
        if event.kind == "task" and not event.task:
            if seconds - self._moved < MOVE_SECONDS:
                return
            self._moved = seconds
        line = {"seconds": round(seconds, 3), **dataclasses.asdict(event)}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class Bars:
    """One bar a stage, in the order the stages begin; notes stand above them."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description:<9}", style="bold"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[rows]:>17}", justify="right"),
            TextColumn("{task.fields[rate]:>10}", style="dim"),
            TextColumn("{task.fields[rest]:<16}", style="cyan"),
            console=console,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == "note":
            self._progress.console.print(show.plain(event.text, "dim"))
            return
        if event.stage not in self._tasks:
            self._began[event.stage] = time.monotonic()
            self._tasks[event.stage] = self._progress.add_task(event.stage, rows="", rate="", rest="")
        # A bar without a length would pulse for ever: a stage without rows is full when it ends.
        total = max(event.total, event.done) or (1 if event.kind == "end" else None)
        done = total if event.kind == "end" else event.done
        self._progress.update(self._tasks[event.stage], total=total, completed=done, **self._words(event))

    def _words(self, event: Event) -> dict[str, Any]:
        number = show.size if event.stage in BYTE_STAGES else show.count
        rows = f"{number(event.done)}/{number(event.total)}" if event.total else ""
        if event.kind == "end":
            rest = f"in {show.duration(time.monotonic() - self._began[event.stage])}"
        else:
            rest = f"{show.duration(event.eta_seconds)} left" if event.eta_seconds >= 0 else ""
        return {"rows": rows, "rate": show.rate(event.rows_per_second), "rest": rest}
