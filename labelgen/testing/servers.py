"""A web server on this machine that gives a folder by ranges, for tests and benchmarks: added latency, faults, a log.

It stands in for the servers that stores are read from: `Range`, `ETag`, `HEAD`, and `PUT` into the folder.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from labelgen.fingerprint import digest

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Request(NamedTuple):
    """One request as it was answered: seconds since the server began, and bytes of the answer's body."""

    method: str
    path: str
    begun: float
    ended: float
    bytes: int
    headers: dict[str, str]


class FolderServer:
    """Serves `folder` at `url` while its `with` block runs.

    Attributes:
        requests: the log.
        fault: called with (method, path, number of the request) before a request is answered; a status that it returns
            is the answer, `"cut"` ends the answer in its middle, `"drop"` closes the connection.
        key: where set, requests need it as a bearer or in the query.
    """

    def __init__(self, folder: Path, *, latency: float = 0.0, key: str = "") -> None:
        self.folder, self.latency, self.key = folder, latency, key
        self.requests: list[Request] = []
        self.fault: Callable[[str, str, int], int | str | None] = lambda _method, _path, _number: None
        self._number, self._lock, self._begun = 0, threading.Lock(), time.perf_counter()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FolderServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def round_trips(self) -> int:
        """How many sets of requests followed each other: one begins when all requests before it have ended."""
        trips, end = 0, -1.0
        for request in sorted(self.requests, key=lambda item: item.begun):
            trips += request.begun >= end
            end = max(end, request.ended)
        return trips

    def bytes_sent(self) -> int:
        """Bytes of the bodies of all answers."""
        return sum(request.bytes for request in self.requests)

    def next_number(self) -> int:
        """Number of a request, from 0."""
        with self._lock:
            self._number += 1
            return self._number - 1

    def since(self) -> float:
        """Seconds since the server began."""
        return time.perf_counter() - self._begun


class _Server(ThreadingHTTPServer):
    owner: FolderServer
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are not an error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_PUT(self) -> None:
        begun, sent = self.server.owner.since(), self.rfile.read(int(self.headers["Content-Length"]))
        if (fault := self._fault()) is not None:
            self._end(fault, begun)
            return
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sent)
        self._end(201, begun, headers={"ETag": _etag(path)})

    def _answer(self, *, body: bool) -> None:
        begun = self.server.owner.since()
        time.sleep(self.server.owner.latency)
        fault, path = self._fault(), self._path()
        if fault in ("drop",) or isinstance(fault, int):
            self._end(fault, begun)
            return
        if not path.is_file():
            self._end(404, begun)
            return
        size = path.stat().st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        headers = {"ETag": _etag(path)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        self._end(206 if asked else 200, begun, data, headers, body=body, cut=fault == "cut")

    def _fault(self) -> int | str | None:
        number = self.server.owner.next_number()
        given = (self.headers.get("Authorization", ""), urlsplit(self.path).query)
        if self.server.owner.key and not any(self.server.owner.key in item for item in given):
            return 401
        return self.server.owner.fault(self.command, urlsplit(self.path).path, number)

    def _path(self) -> Path:
        parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part not in ("", ".", "..")]
        return self.server.owner.folder.joinpath(*parts)

    def _end(
        self,
        status: int | str,
        begun: float,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        body: bool = True,
        cut: bool = False,
    ) -> None:
        if isinstance(status, str):
            self.close_connection = True
        else:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            sent = data[: len(data) // 2] if cut else data
            if body:
                self.wfile.write(sent)
            self.close_connection = self.close_connection or cut
        self.wfile.flush()
        path = urlsplit(self.path).path
        count = len(data) if body else 0
        self.server.owner.requests.append(
            Request(self.command, path, begun, self.server.owner.since(), count, {**dict(self.headers.items())})
        )


def _etag(path: Path) -> str:
    status = path.stat()
    return f'"{digest(f"{status.st_mtime_ns} {status.st_size} {status.st_ino}".encode())}"'
