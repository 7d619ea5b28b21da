"""A reader sees one store: files that it has not mapped yet are still those of the manifest it was opened with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, TypeVar

from labelgen.errors import CorruptStoreError, StoreError, StoreMismatchError
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import digest_below
from labelgen.store.manifest import load_manifest

#: Changes whenever a manifest is swapped: inode, bytes, times of change.
Stamp: TypeAlias = tuple[int, int, int, int]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Guard:
    """The part of the manifest that a store was opened with that concerns files.

    Attributes:
        stamp: of the manifest before it was read; None compares files one by one.
        files: facts of the files that are guarded.
        hashed: whether whole files (tables) are compared with their checksums before they are read.
    """

    root: Path
    stamp: Stamp | None
    files: Mapping[str, FileFact]
    hashed: bool

    def only(self, paths: Iterable[str]) -> Guard:
        """The guard of some files, small enough to be pickled with an array."""
        kept = {path: self.files[path] for path in paths if path in self.files}
        return Guard(self.root, self.stamp, kept, hashed=False)

    def check(self, path: str) -> None:
        """Call this after a file was opened: what was opened is what the manifest named if this returns.

        A change that keeps the file (another teacher, another list) is no reason to stop reading it.

        Raises:
            StoreMismatchError: the store was changed or removed since it was opened, and this file with it.
        """
        now = stamp_of(self.root)
        if now is not None and now == self.stamp:
            return
        if now is None or _files(self.root, now).get(path) != self.files.get(path):
            raise StoreMismatchError(
                f"the store at {self.root} was changed after it was opened, and {path} is no longer in it",
                todo="open it again",
            )

    def check_below(self, prefix: str) -> None:
        """`check` of every file whose path begins so."""
        if stamp_of(self.root) != self.stamp:
            for path in self.files:
                if path.startswith(prefix):
                    self.check(path)

    def read(self, path: str, read: Callable[[], Read]) -> Read:
        """Read a whole file, and make sure that it was the one that the manifest named.

        Raises:
            StoreMismatchError: see `check`.
            CorruptStoreError: the file is missing, or with `hashed` has other bytes than were sealed.
        """
        try:
            if self.hashed and digest_below(self.root, path) != self.files[path].blake3:
                raise CorruptStoreError(
                    f"{self.root / path} is damaged",
                    found="other bytes than were sealed",
                    todo="run `labelgen verify` on the store",
                )
            found = read()
            self.check(path)
        except FileNotFoundError as error:
            self.check(path)
            raise CorruptStoreError(f"{self.root / path} is missing", todo="run `labelgen verify`") from error
        except StoreError:
            self.check(path)
            raise
        return found


def stamp_of(root: Path) -> Stamp | None:
    """The stamp of the manifest in the folder now; None where there is none."""
    try:
        status = (root / layout.MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4)
def _files(root: Path, _stamp: Stamp) -> Mapping[str, FileFact]:
    """Files of the manifest in the folder now; none where it cannot be read."""
    try:
        return load_manifest(root).files
    except StoreError:
        return {}
