"""Read ranges of objects over HTTP: many at once, with retries, from any process.

Connections and threads belong to one process: a forked one makes its own and leaves those of its parent alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from labelgen.errors import StoreError, StoreMismatchError, StoreNotFoundError, requires
from labelgen.store.remote.address import hidden, is_private

if TYPE_CHECKING:
    import urllib3

#: Requests at once; TRIES of each, the first included; seconds for a connection, and between two pieces of an answer.
CONNECTIONS, TRIES, CONNECT_SECONDS, READ_SECONDS = 128, 6, 10.0, 30.0
#: Bytes of answers that are on their way at once.
_FLYING_BYTES = 64 << 20
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_MOVED = {301, 302, 303, 307, 308}
_MAX_REDIRECTS, _REDIRECT_SECONDS, _LONGEST_WAIT = 5, 300.0, 30.0
_PIECE = 1 << 20


Result = TypeVar("Result")


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


@dataclass
class _Network:
    """Connections, threads and measurements of one process."""

    process: int = field(default_factory=os.getpid)
    managers: dict[str, urllib3.PoolManager] = field(default_factory=dict)
    threads: ThreadPoolExecutor | None = None
    targets: dict[str, tuple[str, float]] = field(default_factory=dict)
    latency: float = 0.05
    rate: float = 20e6
    lock: threading.Lock = field(default_factory=threading.Lock)


class _NoQueries(logging.Filter):
    """Queries of addresses, which may hold a signature or a token, out of the debug log of urllib3."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(item.partition("?")[0] if isinstance(item, str) else item for item in record.args)
        return True


_network = _Network()


def read(wanted: Wanted) -> Answer:
    """A file or a range, tried again while the connection is lost, the answer is cut short, or the server is busy.

    Raises:
        StoreNotFoundError: nothing there.
        StoreMismatchError: the object does not have the size that the manifest says.
        StoreError: no answer after all tries, no access, or no ranges.
    """
    return _tried(wanted, lambda: _read_once(wanted))


def read_all(wanted: Iterable[Wanted]) -> Iterator[tuple[Wanted, Answer]]:
    """Many of them at once, in any order; raises as `read` does."""
    listed = list(wanted)
    if len(listed) < 2:
        yield from ((item, read(item)) for item in listed)
        return
    done: SimpleQueue[tuple[Wanted, Future[Answer]]] = SimpleQueue()
    waiting, flying, open_ = iter(listed), 0, set[Future[Answer]]()
    threads = _threads()
    try:
        left = len(listed)
        following = next(waiting, None)
        while left:
            while following is not None and (not open_ or flying + _length(following) <= _FLYING_BYTES):
                future = threads.submit(read, following)
                open_.add(future)
                flying += _length(following)
                future.add_done_callback(lambda ended, item=following: done.put((item, ended)))  # type: ignore[misc]
                following = next(waiting, None)
            item, ended = done.get()
            open_.discard(ended)
            flying, left = flying - _length(item), left - 1
            yield item, ended.result()
    finally:
        for future in open_:
            future.cancel()


def stream(wanted: Wanted, take: Callable[[bytes], object]) -> str:
    """Pass the bytes of a file from `start` on to `take`, piece by piece; where the connection is lost, what is left is
    read with another request. Returns the validator; raises as `read` does."""
    at, seen = wanted.start, ""

    def once() -> None:
        nonlocal at, seen
        rest = wanted._replace(start=at, stop=wanted.size)
        answer = _answer(rest)
        try:
            validator = _checked(answer, rest)
            if seen not in ("", validator):
                raise _changed(wanted)
            seen = validator
            for piece in answer.stream(_PIECE, decode_content=False):
                at += len(piece)
                if at > wanted.size:
                    raise _changed(wanted)
                take(piece)
        finally:
            answer.close() if at < wanted.size else answer.release_conn()
        if at < wanted.size:
            raise _Cut

    if wanted.size > wanted.start:
        _tried(wanted, once)
    return seen


def send(method: str, source: Source, path: str, headers: Mapping[str, str], body: Any = None) -> tuple[int, str]:
    """A request without an answer's body: its status and validator. Repeated as in `read`; `body` is a callable that
    opens what is sent."""
    wanted = Wanted(source, path, 0)

    def once() -> tuple[int, str]:
        opened = body() if body is not None else None
        try:
            answer = _manager(source.url(path)).request(
                method, source.url(path), body=opened, headers={**source.headers(), **headers}, **_HOW
            )
        finally:
            if opened is not None:
                opened.close()
        answer.drain_conn()
        answer.release_conn()
        if answer.status in _BUSY:
            raise _Cut
        return answer.status, _validator(answer)

    return _tried(wanted, once)


def gap() -> int:
    """Bytes that are better read than skipped: what arrives while a request waits for its answer, some kB at least."""
    return min(1 << 20, max(4096, int(_here().latency * _here().rate)))


class _Cut(Exception):  # noqa: N818 - not an error yet: the request is repeated
    """An answer that ended early, or that says to come back later, in so many seconds."""

    wait = 0.0


_HOW: dict[str, Any] = {"preload_content": False, "redirect": False, "retries": False, "decode_content": False}


def _here() -> _Network:
    global _network  # noqa: PLW0603 - of this process; what a fork inherited is left alone
    if _network.process != os.getpid():
        _network = _Network()
    return _network


def _threads() -> ThreadPoolExecutor:
    network = _here()
    with network.lock:
        if network.threads is None:
            network.threads = ThreadPoolExecutor(CONNECTIONS, "labelgen-read")
        return network.threads


def _manager(url: str) -> urllib3.PoolManager:
    """The connections that a URL is reached by: direct ones, or those to the proxy that the environment names."""
    with requires("urllib3", "remote", "reading a store at a distance"):
        import urllib3
    parts, network = urlsplit(url), _here()
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if proxy and (is_private(parts.hostname or "") or urllib.request.proxy_bypass(parts.hostname or "")):
        proxy = ""
    with network.lock:
        if proxy not in network.managers:
            log = logging.getLogger("urllib3.connectionpool")
            if not any(isinstance(item, _NoQueries) for item in log.filters):
                log.addFilter(_NoQueries())
            how: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True}
            how["timeout"] = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
            network.managers[proxy] = urllib3.ProxyManager(proxy, **how) if proxy else urllib3.PoolManager(**how)
        return network.managers[proxy]


def _tried(wanted: Wanted, once: Callable[[], Result]) -> Result:
    from urllib3.exceptions import HTTPError, SSLError

    for number in range(TRIES):
        try:
            return once()
        except SSLError as error:
            raise StoreError(
                f"cannot read {wanted.source.name(wanted.path)}", found="a certificate that is not trusted, or no TLS"
            ) from error
        except (_Cut, HTTPError, ConnectionError, TimeoutError) as error:
            wait = min(_LONGEST_WAIT, max(getattr(error, "wait", 0.0), 0.1 * 2**number))
            why = "an answer that ends early or says to try later" if isinstance(error, _Cut) else type(error).__name__
        if number + 1 < TRIES:
            time.sleep(wait * (1 + secrets.randbelow(100) / 200))
    raise StoreError(
        f"cannot read {wanted.source.name(wanted.path)}",
        found=f"{why}, {TRIES} times",
        todo="check the address and the network, then try again: what was read is kept",
    )


def _read_once(wanted: Wanted) -> Answer:
    begun = time.perf_counter()
    answer = _answer(wanted)
    there = time.perf_counter()
    try:
        validator = _checked(answer, wanted)
        most = _length(wanted)
        data: bytes = answer.read(most + 1, decode_content=False)
        if len(data) < most and wanted.stop is None:
            data += answer.read(most + 1 - len(data), decode_content=False)
    except BaseException:
        answer.close()
        raise
    if len(data) > most:
        answer.close()
        raise _changed(wanted)
    answer.release_conn()
    if wanted.stop is not None and len(data) < most:
        raise _Cut
    network = _here()
    network.latency = min(network.latency * 1.05, there - begun)
    if len(data) > _PIECE // 4:
        network.rate = max(len(data) / max(time.perf_counter() - there, 1e-4), 1e5)
    return Answer(data, validator)


def _length(wanted: Wanted) -> int:
    return (wanted.size if wanted.stop is None else wanted.stop) - wanted.start


def _answer(wanted: Wanted) -> Any:
    """The answer to a request, its redirects followed; its body is not read yet."""
    source, network = wanted.source, _here()
    first = url = source.url(wanted.path)
    target, until = network.targets.get(first, ("", 0.0))
    if until > time.monotonic():
        url = target
    for _ in range(_MAX_REDIRECTS):
        headers = {"Accept-Encoding": "identity"}
        if urlsplit(url)[:2] == urlsplit(first)[:2]:
            headers |= source.headers()
        if wanted.stop is not None:
            headers["Range"] = f"bytes={wanted.start}-{wanted.stop - 1}"
        answer = _manager(url).request("GET", url, headers=headers, **_HOW)
        if answer.status in (200, 206):
            return answer
        answer.drain_conn()
        answer.release_conn()
        if source.region(answer.headers):
            raise _Cut
        if answer.status in _MOVED and answer.headers.get("Location"):
            url = _redirected(url, answer.headers["Location"], source.name(wanted.path))
            network.targets[first] = (url, time.monotonic() + _REDIRECT_SECONDS)
            continue
        if url != first:  # a link that has expired
            network.targets.pop(first, None)
            if url == target:
                target, url = "", first
                continue
        raise _refused(answer, wanted)
    raise StoreError(f"cannot read {source.name(wanted.path)}", found=f"more than {_MAX_REDIRECTS} redirects")


def _redirected(url: str, location: str, name: str) -> str:
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


def _refused(answer: Any, wanted: Wanted) -> Exception:
    """The error for a status, or a `_Cut` where it will pass."""
    name, status = wanted.source.name(wanted.path), answer.status
    if status in _BUSY:
        cut = _Cut()
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
        return _changed(wanted)
    return StoreError(f"cannot read {name}", found=f"status {status}")


def _checked(answer: Any, wanted: Wanted) -> str:
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
            raise _changed(wanted)
        if answer.status == 200 and length and int(length) != wanted.size:
            raise _changed(wanted)
    elif length.isdecimal() and int(length) > wanted.size:
        raise _changed(wanted)
    return _validator(answer)


def _validator(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def _changed(wanted: Wanted) -> StoreMismatchError:
    return StoreMismatchError(
        f"{wanted.source.name(wanted.path)} is not what the manifest describes",
        found="an object of another size",
        expected=f"{wanted.size:,} bytes",
        todo="open the store again; if it is the same then, its owner has to upload it again",
    )
