"""The findings of `verify`: problems with file and rows, and notes that are no problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import visible
from labelgen.types import Bool

_MOST_RANGES = 10


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file or folder, which rows [start, stop) where that is known, and what."""

    file: str
    what: str
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        where = self.file if self.rows is None else f"{self.file} rows {self.rows[0]} to {self.rows[1] - 1}"
        return f"{where}: {self.what}"


@dataclass
class ProblemList:
    """Collected while a store is looked through."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _runs: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, file: str, what: str, rows: tuple[int, int] | None = None) -> None:
        self.problems.append(Problem(file, what, rows))

    def add_rows(self, file: str, what: str, bad: Bool, start: int) -> None:
        """Note the rows where `bad` is True; its entry 0 is row `start`. `settle` makes problems of them."""
        places = np.flatnonzero(bad)
        if not places.size:
            return
        held = self._runs.setdefault((file, what), [])
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            first, last = start + int(run[0]), start + int(run[-1]) + 1
            if held and held[-1][1] == first:
                first = held.pop()[0]
            held.append((first, last))

    def settle(self) -> None:
        """One problem for every run of noted rows; the tenth of a kind takes all the rest."""
        for (file, what), runs in self._runs.items():
            shown = runs if len(runs) <= _MOST_RANGES else runs[: _MOST_RANGES - 1]
            for run in shown:
                self.add(file, what, run)
            rest = runs[len(shown) :]
            if rest:
                count = sum(stop - start for start, stop in rest)
                self.add(file, f"{what} ({count} rows)", (rest[0][0], rest[-1][1]))
        self._runs.clear()

    def concerns(self, prefix: str) -> bool:
        """Whether a problem was found in a file below a folder."""
        return any(problem.file == prefix or problem.file.startswith(f"{prefix}/") for problem in self.problems)


@dataclass(frozen=True)
class Report:
    """The outcome of `verify`.

    Attributes:
        path: the store; an address as text.
        problems: what is wrong; empty for a whole store.
        notes: leftovers of killed writers, files of an unfinished change.
        content_digest: of the listed checksums; that of the sealed content, also where files are damaged.
        files, bytes: how many were read.
        seconds: how long it took.
    """

    path: Path | str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    content_digest: str
    files: int
    bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok}

    def __str__(self) -> str:
        head = f"{self.path}: {'whole' if self.ok else f'{len(self.problems)} problems'}, content {self.content_digest}"
        lines = [head, *(f"  {problem}" for problem in self.problems), *(f"  note: {note}" for note in self.notes)]
        return "\n".join(map(visible, lines))
