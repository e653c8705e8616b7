"""HTTP over real sockets: what is too large, too slow, too much or no message is refused; runs outlive the server."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastvideo_port.server.limits import MAX_BODY, Limits, PatientProtocol
from fastvideo_port.server.serve import HttpOptions, http_app

from ..tools.tiny import make
from .http_server import (
    INITIALIZE,
    META,
    Answer,
    Served,
    connect,
    legacy,
    modern,
    post,
    read_answer,
    request,
    serving,
)

CALL, CALL_HEADERS = modern("tools/call", name="list_ports", arguments={})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the whole file."""
    root = tmp_path_factory.mktemp("http")
    with serving(root / "home", root) as server:
        yield server
        assert "Traceback" not in server.log


def call_text(arguments: str) -> bytes:
    """A call whose arguments need not be JSON."""
    head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_ports","arguments":'
    return (head + arguments + ',"_meta":' + str(META).replace("'", '"') + "}}").encode()


BODIES: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"nonsense",
    "half": b'{"jsonrpc": "2.0", "id": 1',
    "binary": b"\xff\xfe\x00",
    "NUL": b"\0",
    "list": [],
    "batch": [legacy("ping"), legacy("ping")],
    "number": 3,
    "text": "x",
    "nested without end": b"[" * 100_000,
    "deep arguments": call_text('{"a":' + "[" * 50_000 + "]" * 50_000 + "}"),
    "endless number": call_text('{"a":' + "9" * 5000 + "}"),
    "no method": {"jsonrpc": "2.0", "id": 1},
    "id of another kind": {"jsonrpc": "2.0", "id": {}, "method": "ping"},
    "parameters as a list": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": [1]},
    "name of another kind": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 3, "_meta": META}},
    "another version of JSON-RPC": {"jsonrpc": "1.0", "id": 1, "method": "ping"},
}
HEADERS: dict[str, dict[str, str | None]] = {
    "another type": {"Content-Type": "text/plain"},
    "no type": {"Content-Type": None},
    "accepts another": {"Accept": "text/html"},
    "another protocol": {"MCP-Protocol-Version": "9999-01-01"},
    "protocol that is no text": {"MCP-Protocol-Version": "\xff\xe9"},
    "one header of 100 kB": {"X": "y" * 100_000},
    "endless headers": {f"X{number}": "y" * 200 for number in range(2000)},
    "negative length": {"Content-Length": "-5"},
    "length that is no number": {"Content-Length": "x"},
    "foreign host": {"Host": "evil.example"},
    "no host": {"Host": None},
    "foreign origin": {"Origin": "https://evil.example"},
    "length of a terabyte": {"Content-Length": "1000000000000"},
}


def check_refusal(answer: Answer) -> None:
    """A 4xx that says something, and nothing of our inside."""
    assert 400 <= answer.status < 500, answer
    assert b"Traceback" not in answer.body and b"site-packages" not in answer.body
    assert len(answer.body) < 2000


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_message_is_a_client_error(served: Served, name: str, era: str) -> None:
    check_refusal(served.post(BODIES[name], CALL_HEADERS if era == "modern" else None))


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_are_wrong_are_a_client_error(served: Served, name: str) -> None:
    answer = served.post(CALL, {**CALL_HEADERS, **HEADERS[name]})
    if name == "endless headers" and answer.status == 0:
        return  # closed while we still wrote
    check_refusal(answer)
    assert answer.body or name == "accepts another"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    check_refusal(served.post(b"", method=method))


@pytest.mark.parametrize("path", ["/", "/mcp/../x", "/%00", "*", "/\xff", "http://evil.example/mcp"])
def test_other_paths_are_not_found(served: Served, path: str) -> None:
    assert served.post(CALL, CALL_HEADERS, path=path).status in (400, 404, 421)


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\n\n", b"GET /\r\n\r\n", b"\0" * 100_000, b"\r\n" * 50]
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(served: Served, noise: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        assert read_answer(connection).status in (0, 400)
    assert served.post(CALL, CALL_HEADERS).status == 200


def test_a_body_over_the_limit_is_refused_by_its_length_before_it_is_sent(served: Served) -> None:
    with connect(served.port) as connection:
        connection.sendall(request(served.port, b"", {"Content-Length": str(MAX_BODY + 1)}))
        answer = read_answer(connection)
    assert answer.status == 413
    message = answer.json()["error"]["message"]
    assert "Seen: 4194305 bytes; the limit is 4,194,304" in message and "Do: " in message


def test_a_body_of_chunks_is_refused_at_the_limit_without_being_kept(served: Served) -> None:
    """More than the limit is never taken in: the client could go on for ever."""
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connect(served.port) as connection:
        connection.sendall(request(served.port, b"", {"Content-Length": None, "Transfer-Encoding": "chunked"}))
        sent = 0
        while sent < 2 * MAX_BODY:
            connection.sendall(chunk)
            sent += 65536
        connection.sendall(b"0\r\n\r\n")
        assert read_answer(connection).status == 413


def test_a_body_just_under_the_limit_is_taken(served: Served) -> None:
    body, headers = modern("tools/call", name="list_ports", arguments={"x": "y" * (MAX_BODY - 600)})
    answer = served.post(body, headers)
    assert answer.status == 200 and "no such argument" in answer.json()["result"]["content"][0]["text"]


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_no_trace_in_the_log(served: Served) -> None:
    with connect(served.port) as connection:
        connection.sendall(request(served.port, b'{"half', {"Content-Length": "1000"}))
    assert served.post(CALL, CALL_HEADERS).status == 200
    assert "ClientDisconnect" not in served.log


@contextmanager
def in_process(home: Path, *, header_s: float = 60, body_s: float = 60, connections: int = 100) -> Iterator[int]:
    """The same application and protocol in this process with bounds of our own; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        app = http_app(home, home, HttpOptions(), port=port, token=None)
        assert isinstance(app, Limits)
        app._body_s = body_s
        bounds = {"header_s": header_s, "max_connections": connections}
        protocol = type("Bounded", (PatientProtocol,), bounds)
        config = uvicorn.Config(app, http=protocol, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("first", [b"", b"POST /mcp HTT", b"POST /mcp HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
def test_headers_that_do_not_end_end_the_connection(state_home: Path, first: bytes) -> None:
    """A client that sends a byte now and then would hold its connection for ever."""
    with in_process(state_home, header_s=1) as port, connect(port) as connection:
        connection.sendall(first)
        begun = time.monotonic()
        for _ in range(100):
            try:
                if first:
                    connection.sendall(b"X")
                connection.settimeout(0.2)
                if (said := connection.recv(1000)) == b"" or said.startswith(b"HTTP/1.1 408 "):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the connection was kept")
        assert time.monotonic() - begun > 0.9


def test_a_body_that_does_not_come_is_refused_in_time(state_home: Path) -> None:
    with in_process(state_home, body_s=0.5) as port, connect(port) as connection:
        connection.sendall(request(port, b"{", {"Content-Length": "100"}))
        answer = read_answer(connection)
        assert answer.status == 408 and "did not arrive in time" in answer.json()["error"]["message"]


def test_an_answered_request_whose_body_never_ends_ends_the_connection(state_home: Path) -> None:
    with in_process(state_home, header_s=1) as port, connect(port) as connection:
        connection.sendall(request(port, b"", {"Content-Length": str(MAX_BODY + 1)}))
        assert read_answer(connection).status == 413
        connection.settimeout(20)
        try:
            assert connection.recv(1) == b""
        except ConnectionError:
            pass


def test_one_connection_too_many_is_told_when_to_come_back(state_home: Path) -> None:
    with in_process(state_home, connections=3) as port, ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(3)]
        for connection in idle:
            connection.sendall(b"POST")
        time.sleep(0.3)
        answer = post(port, CALL, CALL_HEADERS)
        assert answer.status == 503 and answer.headers["retry-after"] == "5"
        assert "too many connections" in answer.json()["error"]["message"]
        for connection in idle:
            connection.close()
        patience = time.monotonic() + 20
        while (status := post(port, CALL, CALL_HEADERS).status) != 200:
            assert status == 503 and time.monotonic() < patience
            time.sleep(0.1)


def test_a_slow_client_is_no_hurry_to_one_that_waits_for_a_tool(state_home: Path) -> None:
    """The time limit is for what the client sends, not for how long its answer takes."""
    with in_process(state_home, header_s=0.5, body_s=0.5) as port, connect(port) as connection:
        for _ in range(3):
            connection.sendall(request(port, legacy_initialize()))
            assert read_answer(connection).status == 200
            time.sleep(0.2)


def legacy_initialize() -> bytes:
    """The first message of the older protocol."""
    return json.dumps(legacy("initialize", **INITIALIZE)).encode()


SLOW = """
import pathlib, time
pathlib.Path("started").write_text("")
for _ in range(1200):
    if pathlib.Path("go").exists():
        break
    time.sleep(0.05)
pathlib.Path("ended").write_text("")
"""


def test_sigterm_ends_the_server_at_once_and_its_runs_go_on(tmp_path: Path) -> None:
    """A client waits in a call while the server ends; the next server finds the run and tells its end."""
    tiny = make(tmp_path)
    home, cwd = tiny.ctx.home, tiny.ctx.cwd
    (tiny.worktree / "examples").mkdir()
    (tiny.worktree / "examples/slow.py").write_text(SLOW)
    run_id = ""
    try:
        with (
            serving(tiny.ctx.home, tiny.ctx.cwd) as server,
            connect(server.port) as waiting,
            connect(server.port) as idle,
        ):
            call = {"port_id": tiny.port_id, "script": "examples/slow.py", "wait_s": 45}
            body, headers = modern("tools/call", name="run_example", arguments=call)
            waiting.sendall(request(server.port, json.dumps(body).encode(), headers))
            idle.sendall(b"POST /mcp")
            until((tiny.worktree / "started").exists)
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) in (0, -signal.SIGTERM)
            assert time.monotonic() - begun < 15
            answer = read_answer(waiting)
            assert answer.status == 503 and "Runs go on without it" in answer.json()["error"]["message"]
            assert "Traceback" not in server.log
            run_id = next(run.run_id for run in tiny.ctx.runs.list() if run.tool == "run_example")
        run = tiny.ctx.runs.get(run_id)
        assert run.state == "running" and not (tiny.worktree / "ended").exists()
        (tiny.worktree / "go").write_text("")
        with serving(home, cwd) as server:
            body, headers = modern("tools/call", name="run_status", arguments={"run_id": run_id, "wait_s": 45})
            found = server.post(body, headers).json()["result"]["structuredContent"]
            assert found["state"] == "done" and found["result"]["details"]["exit_code"] == 0
            assert "Traceback" not in server.log
        assert (tiny.worktree / "ended").exists()
    finally:
        (tiny.worktree / "go").write_text("")
        if run_id:
            tiny.ctx.runs.cancel(run_id)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)
