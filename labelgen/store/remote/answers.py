"""Requests for files of a store, and what an answer must be to be one to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from labelgen.errors import StoreError, StoreMismatchError, StoreNotFoundError
from labelgen.store.remote.address import hidden, is_private

BUSY = {408, 425, 429, 500, 502, 503, 504}


class Source(Protocol):
    """Where the files of a store are."""

    def url(self, path: str) -> str:
        """The address of a file, with what it takes to read it."""
        ...

    def headers(self) -> Mapping[str, str]:
        """Headers of every request; they go to the host of `url` only."""
        ...

    def name(self, path: str) -> str:
        """The file as messages call it."""
        ...

    def region(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer says that the store is elsewhere, and `url` gives another address from now on."""
        ...


class Wanted(NamedTuple):
    """A file, or bytes [start, stop) of it.

    Attributes:
        size: of the whole file, by the manifest; at most so much where `stop` is None.
        key: for the caller.
    """

    source: Source
    path: str
    size: int
    start: int = 0
    stop: int | None = None
    key: Any = None


class Answer(NamedTuple):
    """Bytes, and the ETag of the object that they are of (the time of its change where it has none, or nothing)."""

    data: bytes
    validator: str


class CutError(Exception):
    """An answer that ended early, or that says to come back later, in so many seconds."""

    wait = 0.0


def redirected(url: str, location: str, name: str) -> str:
    """Where a redirect leads: never to a file or to less protection, nor from outside into this network."""
    new, old = urlsplit(urljoin(url, location)), urlsplit(url)
    inward = is_private(new.hostname or "") and not is_private(old.hostname or "")
    if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http") or inward:
        raise StoreError(
            f"cannot read {name}",
            found=f"a redirect to {hidden(new.geturl())}",
            expected="one to https, outside of this network",
            todo="ask the owner of the address",
        )
    return new.geturl()


def refused(answer: Any, wanted: Wanted) -> Exception:
    """The error for a status, or a `CutError` where it will pass."""
    name, status = wanted.source.name(wanted.path), answer.status
    if status in BUSY:
        cut = CutError()
        after = answer.headers.get("Retry-After", "")
        cut.wait = float(after) if after.isdecimal() else 0.0
        return cut
    if status in (404, 410):
        return StoreNotFoundError(f"{name} is not there", found=f"status {status}", todo="check the address")
    if status in (401, 403):
        return StoreError(
            f"{name} may not be read",
            found=f"status {status}",
            todo="check the address, and the credentials where its client looks for them: see docs/remote.md",
        )
    if status in (412, 416):
        return changed(wanted)
    return StoreError(f"cannot read {name}", found=f"status {status}")


def checked(answer: Any, wanted: Wanted) -> str:
    """The validator of an answer that is what was requested: the right range of an object of the right size."""
    name, headers = wanted.source.name(wanted.path), answer.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise StoreError(f"cannot read {name}", found=f"content encoded as {headers['Content-Encoding'][:20]!r}")
    length = headers.get("Content-Length", "")
    if wanted.stop is not None:
        whole = wanted.start == 0 and wanted.stop == wanted.size
        if answer.status == 200 and not whole:
            raise StoreError(
                f"{name} is on a server that gives no ranges",
                todo=f"copy the store: labelgen pull {wanted.source.name('').rstrip('/')}",
            )
        ranged = f"bytes {wanted.start}-{wanted.stop - 1}/{wanted.size}"
        if answer.status == 206 and headers.get("Content-Range", "") != ranged:
            raise changed(wanted)
        if answer.status == 200 and length and int(length) != wanted.size:
            raise changed(wanted)
    elif length.isdecimal() and int(length) > wanted.size:
        raise changed(wanted)
    return validator_of(answer)


def validator_of(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def changed(wanted: Wanted) -> StoreMismatchError:
    return StoreMismatchError(
        f"{wanted.source.name(wanted.path)} is not what the manifest describes",
        found="an object of another size",
        expected=f"{wanted.size:,} bytes",
        todo="open the store again; if it is the same then, its owner has to upload it again",
    )
