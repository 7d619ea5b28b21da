"""Events of a long call, for a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


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
        text: the note; the file that `verify` has checked.
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
