"""Events of a long call, and listeners to them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TextIO, TypeAlias

from labelgen.errors import visible
from labelgen.units import count, duration, rate, size

#: Stages whose rows are bytes.
BYTE_STAGES = frozenset({"verify", "pull", "push"})
#: Events that only move a bar are written at most this often; all others always.
PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Event:
    """Progress of a stage, or a note.

    Attributes:
        kind: `start` and `end` of a stage, `task` done, or a `note` for people.
        stage: which stage.
        done, total: rows of the stage, with those done in an earlier run.
        rows_per_second: rate of this run so far, 0.0 while unknown.
        eta_seconds: rest of the stage at this rate, -1.0 while unknown.
        task: key of the task that ended.
        text: the note; the file that `verify` has checked, or `push` or `pull` copied.
    """

    kind: Literal["start", "task", "end", "note"]
    stage: str
    done: int = 0
    total: int = 0
    rows_per_second: float = 0.0
    eta_seconds: float = -1.0
    task: str = ""
    text: str = ""


Listener: TypeAlias = Callable[[Event], None]


def silent(_event: Event) -> None:
    """A listener that ignores events."""


def listener_of(progress: Listener | None) -> Listener:
    """The listener of a call from Python: plain lines on stderr where the caller gives none."""
    return PlainLines(sys.stderr) if progress is None else progress


class PlainLines:
    """One line when a stage begins and ends, one a note, and the progress of a stage every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began: dict[str, float] = {}
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        began = self._began.setdefault(event.stage, now)
        if event.kind == "task" and now - self._written < PLAIN_SECONDS:
            return
        self._written = now
        parts = ["note", event.text] if event.kind == "note" else [event.stage, _amounts(event, now - began)]
        self._stream.write(visible(": ".join(parts)) + "\n")
        self._stream.flush()


def _amounts(event: Event, seconds: float) -> str:
    """`500/1,000, 412/s, 1:15 min left`; `begins` where nothing is known yet."""
    found = in_words(event, seconds)
    return ", ".join(text for text in (found["rows"], found["rate"], found["rest"]) if text) or "begins"


def in_words(event: Event, seconds: float) -> dict[str, str]:
    """Rows, rate and time of an event as people read them; `seconds` since its stage began."""
    number = size if event.stage in BYTE_STAGES else count
    rows = f"{number(event.done)}/{number(event.total)}" if event.total else ""
    if event.kind == "end":
        rest = f"in {duration(seconds)}"
    else:
        rest = f"{duration(event.eta_seconds)} left" if event.eta_seconds >= 0 else ""
    return {"rows": rows, "rate": rate(event.rows_per_second), "rest": rest}
