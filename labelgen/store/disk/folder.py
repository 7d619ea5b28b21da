"""Where the files of an open store are: a folder of this machine, or a storage at a distance with the same methods."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labelgen.errors import StoreError
from labelgen.store import layout
from labelgen.store.disk.files import read_below
from labelgen.store.disk.mapped import CheckedArray, MappedArray
from labelgen.store.disk.recognize import parse_object
from labelgen.store.guard import Guard
from labelgen.store.layout import ArraySpec
from labelgen.types import Int64

if TYPE_CHECKING:
    from labelgen.store.remote.answers import Source


class Storage(Protocol):
    """Files and arrays of one open store."""

    @property
    def root(self) -> Path:
        """Folder in which a whole file is once `need` has returned."""
        ...

    @property
    def name(self) -> str:
        """How messages call the store."""
        ...

    @property
    def place(self) -> str | Source:
        """What opens the store again."""
        ...

    def need(self, paths: Iterable[str]) -> None:
        """Make sure that whole files are below `root`."""
        ...

    def array(self, spec: ArraySpec, guard: Guard) -> MappedArray:
        """An array of the store."""
        ...

    def fetch(self, wanted: Iterable[tuple[MappedArray, Int64]]) -> None:
        """Make sure that rows of several arrays are on this machine, all at once where they are not."""
        ...


class Folder:
    """The folder of a store; `name` and `place` are its path. A partial one names the arrays that it lacks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = self.place = str(root)
        self._source, self._lacks = pulled(root)

    def need(self, paths: Iterable[str]) -> None:
        """Refuse what a partial store lacks.

        Raises:
            StoreError: with the line that adds it.
        """
        for path in paths if self._lacks else ():
            lacking = next((item for item in self._lacks if f"{path}/".startswith(f"{item}/")), None)
            if lacking is not None and not (self.root / path).exists():
                raise StoreError(
                    f"the store at {self.root} is a partial one: it lacks {lacking}",
                    todo=f"add it: {pull_command(self._source, self.root, lacking)}",
                )

    def array(self, spec: ArraySpec, guard: Guard) -> MappedArray:
        """An array, mapped; raises as `need` does."""
        self.need([spec.path])
        return (CheckedArray if guard.hashed else MappedArray)(self.root, spec, guard)

    def fetch(self, wanted: Iterable[tuple[MappedArray, Int64]]) -> None:
        """Everything is here."""


def pull_command(source: str, root: Path, lacking: str) -> str:
    """The line that adds an array to a partial store."""
    chosen = lacking.split("/")[1]
    only = chosen if lacking.startswith(layout.NEIGHBORS) else lacking.split("/", 1)[1].split("/", maxsplit=1)[0]
    return shlex.join(["labelgen", "pull", source, "--out", str(root), "--only", only])


def pulled(root: Path) -> tuple[str, Sequence[str]]:
    """Where a partial store was pulled from, and the arrays that it lacks; nothing where it is whole."""
    try:
        record = parse_object(read_below(root, layout.PULLED))
    except OSError:
        return "", ()
    source, lacks = record.get("source"), record.get("lacks")
    if not (isinstance(source, str) and isinstance(lacks, list) and all(isinstance(item, str) for item in lacks)):
        return "", ()
    return source, tuple(lacks)
