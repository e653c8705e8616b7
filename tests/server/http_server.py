"""The real server process over HTTP, and a socket that says to it what no HTTP library would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .helpers import SERVE, environment

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. ``status`` is 0 where the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, or the last event of a stream, as JSON."""
        text = self.body.decode()
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            text = [row for row in text.splitlines() if row.startswith("data: ")][-1].removeprefix("data: ")
        return json.loads(text)


@dataclass(frozen=True)
class Served:
    """A server process.

    Attributes:
        process: The process.
        port: Loopback port.
        home: Its state folder.
    """

    process: subprocess.Popen[str]
    port: int
    home: Path

    @property
    def url(self) -> str:
        """Where MCP is served."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def log(self) -> str:
        """What it logged so far."""
        return (self.home / "server.log").read_text(encoding="utf-8")

    def post(self, body: Any, headers: dict[str, str | None] | None = None, **options: Any) -> Answer:
        """``body`` (bytes, or anything as JSON) in a POST of its own; a header of none is left out."""
        return post(self.port, body, headers, **options)


@contextmanager
def serving(home: Path, cwd: Path, *flags: str) -> Iterator[Served]:
    """A server on a free loopback port, ended by SIGTERM."""
    command = [*SERVE, "--http", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(home), cwd=cwd, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listens on" in line, line
        yield Served(process, int(line.split("/mcp")[0].rpartition(":")[2]), home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()


def connect(port: int, seconds: float = 20) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def read_answer(connection: socket.socket) -> Answer:
    """The next answer with its whole body, by its length, its chunks or the end of the connection."""
    file = connection.makefile("rb")
    try:
        line = file.readline()
        while line.startswith(b"HTTP/1.1 100"):
            file.readline()
            line = file.readline()
        headers = {}
        while (row := file.readline()) not in (b"\r\n", b""):
            name, _, value = row.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(file.readline() or b"0", 16):
                body += file.read(size)
                file.readline()
        else:
            body = file.read(int(headers["content-length"]) if "content-length" in headers else -1)
    except ConnectionError:
        return Answer(0, {}, b"")
    return Answer(int(line.split()[1]) if line else 0, headers, body)


def request(
    port: int, body: bytes, headers: dict[str, str | None] | None = None, method: str = "POST", path: str = "/mcp"
) -> bytes:
    """The bytes of a request."""
    chosen: dict[str, str | None] = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    rows = "".join(f"{name}: {value}\r\n" for name, value in chosen.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{rows}\r\n".encode("latin-1") + body


def post(port: int, body: Any, headers: dict[str, str | None] | None = None, **options: Any) -> Answer:
    """See ``Served.post``."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connect(port) as connection:
        try:
            connection.sendall(request(port, data, headers, **options))
        except ConnectionError:
            pass
        return read_answer(connection)


def modern(method: str, **params: Any) -> tuple[dict[str, Any], dict[str, str | None]]:
    """A request of the newer protocol: its body, and the headers that have to say the same."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    headers: dict[str, str | None] = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    name = params.get("uri", params.get("name"))
    return body, headers | ({"Mcp-Name": name} if isinstance(name, str) else {})


def legacy(method: str, number: Any = 1, **params: Any) -> dict[str, Any]:
    """A request of the older protocol."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def open_files(process: int) -> int:
    """Descriptors that the process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - a folder of links, not of paths
