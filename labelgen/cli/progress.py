"""Progress of a long call on stderr: bars on a terminal, plain lines elsewhere, JSON lines on request."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeVar

from labelgen.cli import show
from labelgen.progress import Event, Listener, PlainLines, in_words, silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Item = TypeVar("Item")
MODES = ("auto", "rich", "plain", "json", "none")
#: Events that only move a bar are written at most this often; all others always.
JSON_SECONDS = 1.0
#: Columns of a terminal below which bars leave out the rate and shrink.
NARROW = 72


@contextmanager
def listening(mode: str, *, as_json: bool = False) -> Iterator[Listener]:
    """A listener for the time of a call.

    `auto` is JSON where the command prints JSON, bars where stderr is a terminal, and plain lines elsewhere.
    """
    if mode == "auto":
        mode = "json" if as_json else "rich" if sys.stderr.isatty() else "plain"
    if mode == "none":
        yield silent
    elif mode == "json":
        yield JsonLines(sys.stderr)
    elif mode == "plain":
        yield PlainLines(sys.stderr)
    else:
        with Bars(show.console(stderr=True)) as bars:
            yield bars


@contextmanager
def stage(progress: Listener, name: str) -> Iterator[None]:
    """Report a call that sends no events as one stage."""
    progress(Event("start", name))
    yield
    progress(Event("end", name))


def counted(items: Iterable[Item], total: int, name: str, progress: Listener) -> Iterator[Item]:
    """The items, their number reported as the rows of one stage."""
    progress(Event("start", name, 0, total))
    for done, item in enumerate(items, 1):
        progress(Event("task", name, done, total))
        yield item
    progress(Event("end", name, total, total))


class JsonLines:
    """One line an event: its fields, and `seconds` since the call began."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._moved = -JSON_SECONDS

    def __call__(self, event: Event) -> None:
        seconds = time.monotonic() - self._began
        if event.kind == "task" and not event.task:
            if seconds - self._moved < JSON_SECONDS:
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
        narrow = console.width < NARROW
        rate = [] if narrow else [TextColumn("{task.fields[rate]:>10}", style="dim")]
        self._progress = Progress(
            TextColumn("{task.description}" if narrow else "{task.description:<9}", style="bold"),
            BarColumn(bar_width=None if narrow else min(32, console.width - 60)),
            TextColumn("{task.fields[rows]}" if narrow else "{task.fields[rows]:>17}", justify="right"),
            *rate,
            TextColumn("{task.fields[rest]}" if narrow else "{task.fields[rest]:<16}", style="cyan"),
            console=console,
            expand=narrow,
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
        # A bar without a length would pulse for ever, so a stage without rows is full when it ends.
        total = max(event.total, event.done) or (1 if event.kind == "end" else None)
        done = total if event.kind == "end" else event.done
        words = in_words(event, time.monotonic() - self._began[event.stage])
        self._progress.update(self._tasks[event.stage], total=total, completed=done, **words)  # type: ignore[arg-type]
