"""Leases of ranks, processes that build one store in a folder they share: who does what, and until when.

`.labelgen/ranks` has a folder `rank-TOKEN` for every rank; `lead` for the one that begins the work or seals it; and,
between the two, `open` with a lease for every rank and every task that is being done. A lease is a folder
`NAME/NUMBER-TOKEN`: a rename gives it its name, so exactly one rank has it. Its holder touches the file `beat` in it.
It has expired when a file that was touched just now in the same file system is `seconds` newer than its beat: the
clocks of hosts are never compared.

What a rank writes is made in the folder of its lease and renamed from there (`atomic.fence`). A lease is taken away by
renaming that folder, and a seal first takes all of `open` away: then the renames of a rank fail, however late it wakes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labelgen import errors
from labelgen.errors import DiskError, LabelgenError, MissingExtraError, WorkerError
from labelgen.store import layout
from labelgen.store.disk import atomic
from labelgen.store.disk.atomic import GONE, LostLeaseError, is_temporary, write_atomic
from labelgen.store.disk.files import read_below

#: Seconds of silence after which a lease expires, and how often it is renewed in that time.
EXPIRE_SECONDS, _BEATS = 60.0, 6
#: Ranks on which a task may fail for a reason of their hosts before all ranks stop; reasons that hosts can have.
_ATTEMPTS, _OF_HOSTS = 3, (DiskError, WorkerError, MissingExtraError)
_BEAT, _FAILED = "beat", "failed-"
_TOKEN = re.compile(r"(?:rank|\d+)-(?P<token>(?P<rank>\d+)-(?P<process>\d+)-[0-9a-f]+-(?P<host>[\w.-]+))", re.ASCII)


class Leases:
    """The leases of one rank; a context manager from its arrival at the folder to its leave.

    Args:
        root: folder of the store.
        rank: its number, which people read; the rank is told apart by its token.
        seconds: silence after which a lease of any rank has expired.
    """

    def __init__(self, root: Path, rank: int, seconds: float = EXPIRE_SECONDS) -> None:
        self.root, self.rank, self._seconds = root, rank, seconds
        host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:64]
        self._token = f"{rank}-{os.getpid()}-{os.urandom(4).hex()}-{host}"
        self._ranks, self._numbers = root / layout.RANKS, itertools.count()
        self._desk, self._open = self._ranks / f"rank-{self._token}", self._ranks / "open"
        self._held: list[Path] = []
        self._lead: Path | None = None
        self._left, self._since = threading.Event(), 0

    def __enter__(self) -> Leases:
        self.arrive()
        self._since = self._now()
        threading.Thread(target=self._renew, name="labelgen-leases", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self.release()
        _remove(self._desk)
        for folder in (self._open, self._ranks):
            _rmdir(folder)  # fails while others are there

    def arrive(self) -> None:
        """Make the folder of this rank, also where a seal removed it that was then interrupted."""
        self._desk.mkdir(parents=True, exist_ok=True)
        (self._desk / _BEAT).touch()

    @property
    def is_open(self) -> bool:
        """Whether the work was begun and is not being sealed."""
        return self._open.is_dir()

    @property
    def lost(self) -> bool:
        """Whether a lease of this rank was taken away: what it was reading may have been removed by a seal."""
        return not all(_is_there(folder) for folder in self._held)

    def lead(self) -> bool:
        """Become the rank that begins the work or seals it; False where another one is."""
        self._lead = self._taken(self._ranks / "lead")
        if self._lead is not None:
            self._hold(self._lead)
        return self._lead is not None

    @contextmanager
    def joining(self) -> Iterator[bool]:
        """Take part in the work from here on, and write the note of it in the block.

        Yields whether this rank begins the work: it opens it behind the block.
        """
        lead, self._lead = self._lead, None
        if lead is not None:
            yield True
            try:
                (lead / "open").mkdir()
                (lead / "open").rename(self._open)
            except FileNotFoundError as error:
                raise LostLeaseError(str(lead)) from error
        mine = self._taken(self._open / f"rank-{self._token}")
        if mine is None:
            raise LostLeaseError
        self._hold(mine)
        if lead is not None:
            self._drop(lead)
        else:
            yield False

    def close(self) -> None:
        """Take all leases away but the lead, which this rank has, before the seal: no other rank can write any more."""
        if self._lead is None or not _is_there(self._lead):
            raise LostLeaseError
        with contextlib.suppress(FileNotFoundError):  # closed by a rank that died before it sealed
            self._open.rename(self._lead / "closed")

    @contextmanager
    def task(self, key: str) -> Iterator[bool]:
        """The lease of a task for the time of the block; False where another rank has it.

        Where it is lost, the block ends early. Another error in the block is recorded for the other ranks.

        Raises:
            LostLeaseError: there is no work any more.
        """
        mine = self._taken(self._open / key.replace("/", "~"))
        if mine is None:
            yield False
            return
        self._hold(mine)
        try:
            yield True
        except Exception as error:
            lost = not _is_there(mine)  # then what it read may have been removed, too
            if not lost and not isinstance(error, LostLeaseError):
                self._record(key, error)
                raise
            if not lost or not self.is_open:
                raise LostLeaseError(str(mine)) from error
        finally:
            self._drop(mine)

    def refuse_failed(self) -> None:
        """Raise the error that stops all ranks: any but one of a host, or one of hosts on the third rank.

        Failures from before this rank came do not count: it may have been started to try again.
        """
        failed: dict[str, list[LabelgenError]] = defaultdict(list)
        for path in sorted(self._ranks.glob(f"{_FAILED}*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                if path.stat().st_mtime_ns >= self._since:
                    record = json.loads(read_below(self.root, f"{layout.RANKS}/{path.name}"))
                    parts = {name: str(record[name]) for name in ("found", "expected", "todo")}
                    found = _kind(str(record["error"]))(str(record["what"]), **parts)
                    failed[str(record["task"])].append(found)
        for several in failed.values():
            if len(several) >= _ATTEMPTS or not isinstance(several[0], _OF_HOSTS):
                raise several[0]

    def release(self) -> None:
        """Give back everything that this rank holds: it takes no part until it joins again."""
        self._lead = None
        for folder in reversed(list(self._held)):
            self._drop(folder)

    def _record(self, key: str, error: Exception) -> None:
        record = {"task": key, "error": type(error).__name__, "what": f"{type(error).__name__}: {error}"}
        parts = ("what", "found", "expected", "todo")
        record |= {name: getattr(error, name, record.get(name, "")) for name in parts}
        with contextlib.suppress(LostLeaseError, OSError):
            write_atomic(self._ranks / f"{_FAILED}{self._token}.json", json.dumps(record).encode())

    def _taken(self, place: Path) -> Path | None:
        """A new lease of that name, None where another rank has it; an expired one is taken away first."""
        for holder in _listed(place):
            if not self._expired(holder):
                return None
            self._take_away(holder)
        fresh, name = self._desk / "new", f"{next(self._numbers)}-{self._token}"
        try:
            fresh.mkdir(exist_ok=True)
            (fresh / name).mkdir()
            (fresh / name / _BEAT).touch()
            fresh.rename(place)  # over nothing, or an empty folder
        except OSError as error:
            _remove(fresh)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise LostLeaseError(str(place)) if error.errno in GONE else error from error
        return place / name

    def _expired(self, folder: Path) -> bool:
        now = self._now()
        try:  # opening it makes a file system of the network look again
            with (folder / _BEAT).open("rb") as file:
                beat = os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            return error.errno in GONE  # it was given back, or its removal was interrupted
        return abs(now - beat) > self._seconds * 1e9

    def _now(self) -> int:
        """The time by the clock of the folder, in nanoseconds."""
        try:
            os.utime(self._desk / _BEAT)
            return (self._desk / _BEAT).stat().st_mtime_ns
        except OSError as error:
            raise LostLeaseError(str(self._desk)) if error.errno in GONE else error from error

    def _renew(self) -> None:
        while not self._left.wait(self._seconds / _BEATS):
            for folder in (self._desk, *self._held):
                with contextlib.suppress(OSError):  # it was taken away
                    os.utime(folder / _BEAT)

    def _hold(self, folder: Path) -> None:
        self._held.append(folder)
        atomic.fence = self.root, folder

    def _drop(self, folder: Path) -> None:
        self._held.remove(folder)
        atomic.fence = (self.root, self._held[-1]) if self._held else None
        self._take_away(folder)

    def _take_away(self, folder: Path) -> None:
        """Remove a lease, first of all its name; nothing is done where another rank was quicker."""
        gone = self._desk / f"gone-{next(self._numbers)}"
        try:
            folder.rename(gone)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        _remove(gone)
        _rmdir(folder.parent)


@dataclass(frozen=True)
class Rank:
    """A rank at work: seconds since it was last alive, by the clock of this host, and the tasks that it does."""

    rank: int
    process: int
    host: str
    silent: float
    tasks: tuple[str, ...]


def ranks_of(root: Path) -> list[Rank]:
    """The ranks of a folder; nothing is written."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for place in (*_listed(root / layout.RANKS / "open"), root / layout.RANKS / "lead"):
        for holder in _listed(place):
            if (found := _TOKEN.fullmatch(holder.name)) and not place.name.startswith("rank-"):
                tasks[found["token"]].append(place.name.replace("~", "/"))
    ranks = []
    for desk in _listed(root / layout.RANKS):
        if (found := _TOKEN.fullmatch(desk.name)) is not None:
            with contextlib.suppress(OSError):
                silent = max(0.0, time.time() - (desk / _BEAT).stat().st_mtime)
                about = int(found["rank"]), int(found["process"]), found["host"], round(silent, 1)
                ranks.append(Rank(*about, tuple(tasks[found["token"]])))
    return sorted(ranks, key=lambda rank: (rank.rank, rank.process))


def _kind(name: str) -> type[LabelgenError]:
    """A class of `labelgen.errors`, WorkerError for others."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, LabelgenError) else WorkerError


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _remove(folder: Path) -> None:
    """Remove a folder of a rank: beats, temporary files, and the folders that are left empty."""
    for path in _listed(folder):
        if path.is_dir() and not path.is_symlink():
            _remove(path)
        elif path.name == _BEAT or is_temporary(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
    _rmdir(folder)


def _is_there(lease: Path) -> bool:
    try:
        with (lease / _BEAT).open("rb"):
            return True
    except OSError:
        return False


def _rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
