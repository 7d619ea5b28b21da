"""A stand-in for the Hugging Face hub that has what `huggingface_hub` and downloads need, as its documentation says:
repositories, revisions, `preupload`, git LFS batches, commits, `resolve` with a redirect to signed links."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 34
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Hub:
    """One server. `commits` is commit -> path -> content; `branches` of a repository -> its last commit."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.fail_uploads_after = 10**9
        self.seen: list[tuple[str, str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repository: str, branch: str, files: dict[str, bytes]) -> str:
        """Add files to a branch; returns the commit."""
        commit = secrets.token_hex(20)
        before = self.commits[self.branches[repository][branch]]
        self.commits[commit] = {**before, **files}
        self.branches[repository][branch] = commit
        return commit


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self._route("GET")

        def do_HEAD(self) -> None:
            self._route("HEAD")

        def do_POST(self) -> None:
            self._route("POST")

        def do_PUT(self) -> None:
            self._route("PUT")

        def _route(self, method: str) -> None:
            path = unquote(urlsplit(self.path).path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.seen.append((method, path, self.headers.get("Authorization", "")))
            if path.startswith("/cdn/"):
                self._linked(path, sent, method)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json({"error": "Invalid credentials"}, 401)
            else:
                self._known(method, path, sent)

        def _known(self, method: str, path: str, sent: bytes) -> None:
            if path == "/api/repos/create":
                asked = json.loads(sent)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in hub.branches:
                    repository = f"{hub.url}/datasets/{name}"
                    self._json({"error": "You already created this dataset repo", "url": repository}, 409)
                    return
                hub.commits["0" * 40] = {}
                hub.branches[name] = {"main": "0" * 40}
                self._json({"url": f"{hub.url}/datasets/{name}"})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._json(
                    {"transfer": "basic", "objects": [self._action(item) for item in json.loads(sent)["objects"]]}
                )
            elif found := re.fullmatch(r"/api/datasets/(\w+/[\w-]+)/(preupload|commit|revision|branch)/(.+)", path):
                self._repository(found[1], found[2], found[3], sent)
            elif found := re.fullmatch(r"/api/datasets/(\w+/[\w-]+)", path):
                self._repository(found[1], "revision", "main", sent)
            elif found := re.fullmatch(r"/datasets/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], found[2], found[3], method)
            else:
                self._json({"error": f"no endpoint {path}"}, 404)

        def _repository(self, name: str, what: str, revision: str, sent: bytes) -> None:
            branches = hub.branches.get(name)
            if branches is None:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif what == "branch":
                branches.setdefault(revision, branches["main"])
                self._json({})
            elif what == "preupload":
                files = json.loads(sent)["files"]
                modes = [
                    {
                        "path": item["path"],
                        "uploadMode": "lfs" if item["path"].endswith(("/0", ".parquet")) else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for item in files
                ]
                self._json({"files": modes})
            elif what == "commit":
                self._json(self._commit(name, revision, sent))
            else:
                commit = branches.get(revision, revision)
                if commit not in hub.commits:
                    self._json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
                    return
                siblings = [{"rfilename": path} for path in hub.commits[commit]]
                self._json({"id": name, "sha": commit, "private": True, "tags": [], "siblings": siblings})

        def _commit(self, name: str, revision: str, sent: bytes) -> dict[str, Any]:
            files = {}
            for line in map(json.loads, sent.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            commit = hub.commit(name, revision, files)
            return {"commitUrl": f"{hub.url}/datasets/{name}/commit/{commit}", "commitOid": commit, "success": True}

        def _action(self, item: dict[str, Any]) -> dict[str, Any]:
            if item["oid"] in hub.objects:
                return item
            return {**item, "actions": {"upload": {"href": f"{hub.url}/cdn/{item['oid']}?signature=1"}}}

        def _resolve(self, name: str, revision: str, path: str, method: str) -> None:
            commit = hub.branches.get(name, {}).get(revision, revision)
            content = hub.commits.get(commit, {}).get(path)
            if content is None:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            oid = hashlib.sha256(content).hexdigest()
            if oid in hub.objects:
                self._send(b"", 302, {"Location": f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{oid}?signature=1"})
            else:
                self._content(content, method)

        def _linked(self, path: str, sent: bytes, method: str) -> None:
            if not urlsplit(self.path).query:
                self._json({"error": "no signature"}, 403)
            elif method == "PUT":
                if len(hub.uploads) >= hub.fail_uploads_after:
                    self._json({"error": "no more"}, 400)
                    return
                hub.uploads.append(path)
                hub.objects[path.rpartition("/")[2]] = sent
                self._send(b"", 200)
            else:
                self._content(hub.objects[path.rpartition("/")[2]], method)

        def _content(self, content: bytes, method: str) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            if asked:
                start, stop = int(asked[1]), int(asked[2]) + 1
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                content = content[start:stop]
            self._send(content, 206 if asked else 200, headers, body=method == "GET")

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def _send(self, body_: bytes, status: int, headers: dict[str, str] | None = None, *, body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body_))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(body_)

    return Handler
