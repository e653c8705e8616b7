"""A hub on loopback that speaks enough of the real one's HTTP for its own client to download from it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """The models of the hub, and what it is told to do wrong.

    Attributes:
        models: ``{"org/name": {commit: {path: content}}}``.
        branches: ``{("org/name", branch): commit}``.
        gated: Ids that answer 401 without and 403 with a token.
        cut: How many downloads of a path are still cut in the middle (negative: before the first byte).
        slow: Paths whose second half waits until they are taken out of here.
        swapped: Path to other content of the same length that is sent in its place.
        requests: (method, path, Range header, Authorization header) of every request.
    """

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    swapped: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit ``files`` to a branch and return the commit."""
        content = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        commit = hashlib.sha1(f"{repo}{content}".encode(), usedforsecurity=False).hexdigest()
        self.models.setdefault(repo, {})[commit] = files
        self.branches[repo, branch] = commit
        return commit

    def downloads(self, path: str) -> list[str | None]:
        """Range headers of the GETs of a file."""
        return [span for method, asked, span, _ in self.requests if method == "GET" and asked.endswith("/" + path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers["Range"], self.headers["Authorization"]))
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if match is None:
            return self._fail(404, "EntryNotFound", "no such page")
        repo = match[1]
        if repo not in self.hub.models:
            return self._fail(404 if self.headers["Authorization"] else 401, "RepoNotFound", "Repository not found")
        if repo in self.hub.gated and not (info and info[2] != "tree"):
            return self._fail(
                403 if self.headers["Authorization"] else 401, "GatedRepo", f"Access to {repo} is restricted"
            )
        revision = (info[3] if info else file and file[2]) or "main"
        commit = revision if revision in self.hub.models[repo] else self.hub.branches.get((repo, revision))
        if commit is None:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        files = self.hub.models[repo][commit]
        if file:
            return self._file(files, file[3], commit)
        if info and info[2] == "tree":
            return self._json([self._entry(name, data) for name, data in files.items()])
        return self._json({"id": repo, "sha": commit, "siblings": [], "private": False, "tags": [], "downloads": 0})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob}
        if not name.endswith((".json", ".md", ".py")):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _file(self, files: dict[str, bytes], name: str, commit: str) -> None:
        if name not in files:
            return self._fail(404, "EntryNotFound", "no such file")
        data = self.hub.swapped.get(name, files[name])
        span = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(span[1]) if span else 0
        body = data[start:]
        self.send_response(206 if span else 200)
        self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        left = self.hub.cut.get(name, 0)
        if left:
            self.hub.cut[name] = left - 1 if left > 0 else left + 1
            self.wfile.write(body[: len(body) // 2] if left > 0 else b"")
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        half = len(body) // 2 if name in self.hub.slow else 0
        self.wfile.write(body[:half])
        self.wfile.flush()
        while name in self.hub.slow:
            time.sleep(0.02)
        self.wfile.write(body[half:])

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("X-Request-Id", "Root=1-request-7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
