"""Members of an uncompressed tar, with a proof that the archive was read to its end.

The headers are parsed by `tarfile`, which silently stops at a damaged header and at the end of a file that was
cut there. So the rest of the file is checked: two blocks of zeros (the end mark) and nothing but zeros after them.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from labelgen.errors import DatasetError

#: Longest header (of a member with a long name or many attributes) that is read.
_MAX_HEADER = 1 << 20
#: Most zeros that are accepted behind the end mark: writers fill up to the blocks of a tape.
_MAX_PADDING = 16 << 20
_PIECE = 1 << 20
_END_MARK = 2 * tarfile.BLOCKSIZE

_COMPRESSED: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"PK\x03\x04": "ZIP",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}


@dataclass(frozen=True)
class Damage:
    """The place in bytes from which on an archive cannot be read, and why; `cut` is a member without all its bytes."""

    offset: int
    what: str
    cut: str = ""


class Archive:
    """The members of an uncompressed tar in order, up to its end or to the first damage.

    Iterate once; then `damage` is None where the whole file was read, and nothing of it is left over.

    Raises:
        DatasetError: no such file, not a regular file, a compressed one, or the system cannot read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: Damage | None = None
        #: Of every member that was given: where the next one may begin.
        self.stops: list[int] = []
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DatasetError(f"{path} is not a regular file", expected="an uncompressed tar")
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
            begins = self._file.read(8)
        except OSError as error:
            raise self._unreadable(error) from error
        packed = next((name for magic, name in _COMPRESSED.items() if begins.startswith(magic)), "")
        if packed:
            self._file.close()
            raise DatasetError(
                f"{path} cannot be read as a tar",
                found=f"a file compressed by {packed}",
                expected="an uncompressed tar: photographs are read from their places in it",
                todo="uncompress it",
            )

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Members whose bytes are all there; of those that are not, `damage.cut` has the name."""
        self._file.seek(0)
        tar, offset = None, 0
        while True:
            try:
                if tar is None:
                    headers = cast("BinaryIO", _Headers(self._file))
                    tar = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
                member = tar.next()
            except OSError as error:
                raise self._unreadable(error) from error
            except Exception as error:  # a damaged header can end in any exception of the parser
                self._stop(offset, f"the header of a member cannot be read ({str(error) or type(error).__name__})")
                return
            if member is None:
                self._end(tar.offset)
                return
            if member.size < 0 or tar.offset <= member.offset or member.offset < offset:
                self._stop(offset, "the header of a member has an impossible size")
                return
            stored = tar.offset if member.issparse() else member.offset_data + (member.size if member.isreg() else 0)
            if stored > self.size:
                self.damage = Damage(self.size, f"the file ends inside member {member.name!r}", member.name)
                return
            offset = tar.offset
            self.stops.append(offset)
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every member
            yield member

    def data(self, member: tarfile.TarInfo, limit: int) -> bytes:
        """The bytes of a regular member.

        Raises:
            DatasetError: more than `limit`, or the system cannot read them.
        """
        if member.size > limit:
            raise DatasetError(
                f"member {member.name!r} of {self.path} is too large",
                found=f"{member.size:,} bytes",
                expected=f"at most {limit:,} bytes of text",
            )
        try:
            self._file.seek(member.offset_data)
            return self._file.read(member.size)
        except OSError as error:
            raise self._unreadable(error) from error

    def raw(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of the file in pieces, headers included."""
        for place in range(start, stop, _PIECE):
            self._file.seek(place)
            yield self._file.read(min(_PIECE, stop - place))

    def _stop(self, offset: int, what: str) -> None:
        """A header that cannot be read; where the file ends there, that is what is wrong."""
        if offset + tarfile.BLOCKSIZE > self.size:
            what = "the file ends without its end mark" if offset >= self.size else "the file ends inside a header"
        self.damage = Damage(min(offset, self.size), what)

    def _end(self, offset: int) -> None:
        """Check the bytes after the last member."""
        try:
            self._file.seek(offset)
            mark = self._file.read(_END_MARK)
            if mark[: tarfile.BLOCKSIZE].strip(b"\0") or len(mark) < tarfile.BLOCKSIZE:
                self._stop(offset, f"the header of a member is damaged ({_wrong(mark)})")
            elif len(mark) < _END_MARK or mark.strip(b"\0"):
                self.damage = Damage(offset, "one block of zeros, where the end mark has two")
            else:
                self._padding(offset + _END_MARK)
        except OSError as error:
            raise self._unreadable(error) from error

    def _padding(self, offset: int) -> None:
        for place in range(offset, min(self.size, offset + _MAX_PADDING), _PIECE):
            piece = self._file.read(min(_PIECE, self.size - place))
            if rest := piece.lstrip(b"\0"):
                found = place + len(piece) - len(rest)
                self.damage = Damage(found, f"the file goes on behind its end mark, for {self.size - found:,} bytes")
                return
        if self.size - offset > _MAX_PADDING:
            left = self.size - offset
            self.damage = Damage(offset, f"the file goes on behind its end mark, for {left:,} bytes")

    def _unreadable(self, error: OSError) -> DatasetError:
        return DatasetError(f"{self.path} cannot be read", found=error.strerror or str(error))


class _Headers:
    """File for `tarfile` whose reads are bounded: a damaged size never makes it hold more than a header may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        return self._file.read(count)


def _wrong(block: bytes) -> str:
    try:
        tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return str(error)
    return "it does not follow the member before it"
