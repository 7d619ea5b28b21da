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
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from labelgen.errors import StoreError, requires
from labelgen.store.remote.address import is_private
from labelgen.store.remote.answers import (
    BUSY,
    Answer,
    CutError,
    Source,
    Wanted,
    changed,
    checked,
    redirected,
    refused,
    validator_of,
)

if TYPE_CHECKING:
    import urllib3

#: Requests at once; TRIES of each, the first included; seconds for a connection, and between two pieces of an answer.
CONNECTIONS, TRIES, CONNECT_SECONDS, READ_SECONDS = 256, 6, 10.0, 30.0
#: Bytes of answers that are on their way at once.
_FLYING_BYTES = 64 << 20
_MOVED = {301, 302, 303, 307, 308}
_MAX_REDIRECTS, _REDIRECT_SECONDS, _LONGEST_WAIT = 5, 300.0, 30.0
_PIECE = 1 << 20


Result = TypeVar("Result")


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
        known = at if answer.status == 200 else 0  # of a server without ranges, which begins again
        try:
            validator = checked(answer, rest._replace(start=0) if known else rest)
            if seen not in ("", validator):
                raise changed(wanted)
            seen = validator
            for piece in answer.stream(_PIECE, decode_content=False):
                new, known = piece[known:], max(0, known - len(piece))
                at += len(new)
                if at > wanted.size:
                    raise changed(wanted)
                take(new)
        finally:
            answer.close() if at < wanted.size else answer.release_conn()
        if at < wanted.size:
            raise CutError

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
        if answer.status in BUSY:
            raise CutError
        return answer.status, validator_of(answer)

    return _tried(wanted, once)


def gap() -> int:
    """Bytes that are better read than skipped: what arrives while a request waits for its answer, some kB at least."""
    return min(1 << 20, max(4096, int(_here().latency * _here().rate)))


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
        except (CutError, HTTPError, ConnectionError, TimeoutError) as error:
            wait = min(_LONGEST_WAIT, max(getattr(error, "wait", 0.0), 0.1 * 2**number))
            why = (
                "an answer that ends early or says to try later"
                if isinstance(error, CutError)
                else type(error).__name__
            )
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
        validator = checked(answer, wanted)
        most = _length(wanted)
        pieces, left = [], most + 1
        while left and (piece := answer.read(left, decode_content=False)):
            pieces.append(piece)
            left -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except BaseException:
        answer.close()
        raise
    if len(data) > most:
        answer.close()
        raise changed(wanted)
    answer.release_conn()
    if wanted.stop is not None and len(data) < most:
        raise CutError
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
            raise CutError
        if answer.status in _MOVED and answer.headers.get("Location"):
            url = redirected(url, answer.headers["Location"], source.name(wanted.path))
            network.targets[first] = (url, time.monotonic() + _REDIRECT_SECONDS)
            continue
        if url != first:  # a link that has expired
            network.targets.pop(first, None)
            if url == target:
                target, url = "", first
                continue
        raise refused(answer, wanted)
    raise StoreError(f"cannot read {source.name(wanted.path)}", found=f"more than {_MAX_REDIRECTS} redirects")
