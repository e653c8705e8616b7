"""The real process: stdio in both eras, hostile lines, HTTP with and without its token."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.server.serve import HttpOptions, is_loopback, read_token, serve_http
from fastvideo_port.tools import ALL
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from .helpers import ERAS, SERVE, drive, environment, stdio, text_of

TOKEN = "correct-horse-battery-staple"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
FIRST = {
    "legacy": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    "auto": {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": META}},
}


class Wire:
    """The server process with its bare stdin and stdout."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            SERVE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
            cwd=home,
        )

    def ask(self, line: str | bytes) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    wire.process.kill()
    wire.process.communicate()


@pytest.mark.parametrize("era", ERAS)
def test_a_client_lists_and_calls_over_stdio(tmp_path: Path, era: str) -> None:
    async def steps(client: Client) -> Any:
        listed = await client.list_tools()
        prompt = await client.get_prompt("port_model", {"goal": "Port it."})
        skill = await client.read_resource("skill://port-model")
        return listed.tools, await client.call_tool("list_ports", {}), prompt, skill, client.protocol_version

    tools, ports, prompt, skill, version = drive(stdio(tmp_path, tmp_path), era, steps)
    assert [tool.name for tool in tools] == [spec.name for spec in ALL]
    assert ports.structured_content["ports"] == []
    assert prompt.messages and skill.contents
    assert version == {"legacy": "2025-11-25", "auto": "2026-07-28"}[era]
    assert (tmp_path / "server.log").exists()


@pytest.mark.parametrize("era", ERAS)
def test_every_tool_refuses_nonsense_over_stdio_and_the_server_goes_on(tmp_path: Path, era: str) -> None:
    async def steps(client: Client) -> Any:
        return [
            await client.call_tool(spec.name, arguments)
            for spec in ALL
            for arguments in ({"nonsense": 1}, {"port_id": 3, "run_id": [], "model_name": {}}, {"": "x" * 200_000})
        ]

    for result in drive(stdio(tmp_path, tmp_path), era, steps):
        assert result.is_error and "Do:" in text_of(result)
        assert "Error executing tool" not in text_of(result) and "pydantic" not in text_of(result)


@pytest.mark.parametrize("era", ERAS)
def test_a_name_that_is_not_utf8_ends_neither_the_answer_nor_the_server(tmp_path: Path, era: str) -> None:
    """Half of a surrogate pair in an answer, which is how such a name comes, ended the whole server."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    (folder / "fastvideo").mkdir(parents=True)
    for name in ("__init__.py", "registry.py"):
        (folder / "fastvideo" / name).write_text("", encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(folder)], check=True, stdin=subprocess.DEVNULL)

    async def steps(client: Client) -> Any:
        refused = await client.call_tool("create_worktree", {"model_name": "Wan", "python": sys.executable})
        return refused, await client.call_tool("list_ports", {})

    refused, ports = drive(stdio(tmp_path, folder), era, steps)
    assert refused.is_error and "caf\\udce9" in text_of(refused) and "is not UTF-8" in text_of(refused)
    assert ports.structured_content["ports"] == []


def test_a_state_folder_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    home = tmp_path / os.fsdecode(b"caf\xe9")
    out = subprocess.run(SERVE, env=environment(home), capture_output=True, text=True, timeout=20)
    assert out.returncode == 1 and "caf\\udce9" in out.stderr and "Traceback" not in out.stderr


def call(number: int, arguments: str) -> str:
    """A `tools/call` whose arguments are given as text, so that they need not be JSON."""
    return (
        f'{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"show_picture",'
        f'"_meta":{json.dumps(META)},"arguments":{arguments}}}}}'
    )


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (call(5, '{"run_id":' + "[" * 300 + "]" * 300 + "}"), 5),
        (call(6, '{"run_id":' + "[" * 50_000 + "]" * 50_000 + "}"), 6),
        (call(7, '{"run_id":"\\ud800"}'), 7),
        (call(8, '{"run_id":'), 8),
        ("nonsense", None),
        (b"\xff\xfe\x00", None),
        ('{"id": 9, "hello": 1}', 9),
        ("[]", None),
        ('{"jsonrpc":"2.0","id":10,"method":"tools/call","params":["list_ports"]}', 10),
        ('{"jsonrpc":"2.0","id":11,"method":"tools/call","params":"x"}', 11),
        ('{"jsonrpc":"2.0","id":"a","method":5}', "a"),
        ('{"jsonrpc":"1.0","id":12,"method":"ping"}', 12),
    ],
    ids=[
        "deep",
        "deeper",
        "surrogate",
        "half",
        "nonsense",
        "binary",
        "no-rpc",
        "list",
        "params-list",
        "params-text",
        "method-number",
        "version",
    ],
)
def test_a_line_that_is_no_message_is_answered(wire: Wire, line: str | bytes, number: int | str | None) -> None:
    """Project-defined: the SDK leaves these unanswered, and the client waits for ever."""
    answer = wire.ask(line)
    assert answer["id"] == number
    assert answer["error"]["code"] in (-32700, -32600)
    assert "Do:" in answer["error"]["message"] and len(answer["error"]["message"]) < 600
    assert "result" in wire.ask(json.dumps(FIRST["auto"]))


def test_ten_megabytes_are_refused_quickly_and_memory_returns(wire: Wire) -> None:
    wire.ask(json.dumps(FIRST["auto"]))
    answer = wire.ask(call(2, json.dumps({"run_id": "x" * 10_000_000, "name": "a.png"})))
    assert "10,000,000 characters" in answer["result"]["content"][0]["text"]
    assert "result" in wire.ask(call(3, '{"run_id": "a", "name": "b.png"}'))


def seconds(process: subprocess.Popen[bytes]) -> float:
    """Processor time that ``process`` has used."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def bare_sdk() -> float:
    """Processor time of importing the SDK's server alone: what no server on it can go below."""
    code = "import time; from mcp.server import MCPServer; print(time.process_time())"
    out = subprocess.run([SERVE[0], "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return float(out.stdout)


@pytest.mark.parametrize("era", ERAS)
def test_the_first_answer_comes_within_a_second_in_120_megabytes(tmp_path: Path, era: str) -> None:
    """Project-defined (design, section 9). By the clock when the machine is idle; beside other tests, what is ours to
    decide: the processor's time over that of the bare SDK, measured at the same moment. The best of three."""
    cpu, wall, memory, floor = [], [], [], []
    for _ in range(3):
        floor.append(bare_sdk())
        idle = os.getloadavg()[0] < 0.75 * (os.cpu_count() or 1)
        start = time.perf_counter()
        wire = Wire(tmp_path)
        try:
            assert "result" in wire.ask(json.dumps(FIRST[era]))
            wall.append(time.perf_counter() - start)
            cpu.append(seconds(wire.process))
            memory.append(psutil.Process(wire.process.pid).memory_info().rss / 1e6)
        finally:
            wire.process.kill()
            wire.process.communicate()
    assert max(memory) < 120, memory
    assert min(cpu) <= 1.8 * min(floor), (cpu, floor)
    assert min(wall) <= (1.0 if idle else 10.0), wall


def test_the_process_ends_when_stdin_closes_and_writes_nothing_else_to_stdout(wire: Wire) -> None:
    """Clients: after stdin closes SIGTERM follows within milliseconds."""
    wire.ask(json.dumps(FIRST["auto"]))
    out, errors = wire.process.communicate(timeout=10)
    assert wire.process.returncode == 0
    assert out == b"" and b"Traceback" not in errors


def test_a_read_only_state_folder_is_said_and_ends_the_server(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    out = subprocess.run(SERVE, env=environment(blocked / "home"), capture_output=True, text=True, timeout=20)
    assert out.returncode == 1 and out.stdout == ""
    assert "FASTVIDEO_PORT_HOME" in out.stderr and "Traceback" not in out.stderr


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def url(tmp_path: Path, token_file: Path) -> Iterator[str]:
    """A server over HTTP on a free loopback port."""
    home = tmp_path / "home"
    command = [*SERVE, "--http", "--port", "0", "--token-file", str(token_file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(home), cwd=tmp_path, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "listens on" in line, line
    yield line.split()[3]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) in (0, -signal.SIGTERM)
    log = (home / "server.log").read_text(encoding="utf-8")
    assert TOKEN not in log


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            httpx2.get(url)
            return
        except httpx2.HTTPError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}")


def test_http_serves_both_eras_and_refuses_strangers(url: str) -> None:
    wait_for(url)
    for era in ERAS:

        async def with_token(era: Any = era) -> Any:
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http,
                Client(streamable_http_client(url, http_client=http), mode=era) as client,
            ):
                return await client.call_tool("list_ports", {}), (await client.list_tools()).tools

        result, tools = asyncio.run(with_token())
        assert result.structured_content["ports"] == [] and len(tools) == len(ALL)

    body = json.dumps(FIRST["legacy"])
    good = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    assert httpx2.post(url, content=body, headers=good).status_code == 200
    for token in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN):
        answer = httpx2.post(url, content=body, headers={**good, "Authorization": token})
        assert answer.status_code == 401 and TOKEN not in answer.text, token
    doubled = [*good.items(), ("Authorization", "Bearer wrong")]
    assert httpx2.post(url, content=body, headers=doubled).status_code == 401
    assert httpx2.post(url, content=body, headers={**good, "Host": "evil.example"}).status_code == 421
    assert httpx2.post(url, content=body, headers={**good, "Origin": "http://evil.example"}).status_code == 403
    assert httpx2.post(url, content=b" " * (5 * 1024 * 1024), headers=good).status_code == 413


def test_http_beyond_this_machine_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTVIDEO_PORT_TOKEN", raising=False)
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path))
    for host in ("0.0.0.0", "::", "192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(PortError, match="Without a token"):
            serve_http(HttpOptions(host=host, port=0))


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 99999), ("127.0.0.1", 65536 + 8765), ("127.0.0.1", -1), ("a..b", 0)]
)
def test_an_address_that_is_none_is_refused_and_not_bent_into_another(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch, host: str, port: int
) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: pytest.fail("it listens"))
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tmp_path))
    with pytest.raises(PortError, match="cannot listen"):
        serve_http(HttpOptions(host=host, port=port, token_file=token_file))


def test_loopback_is_told_from_the_rest() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "192.0.2.1", "", "a..b"))


@pytest.mark.parametrize("content", ["", "short", "with a space in it and more", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_poor_token_is_refused(token_file: Path, content: str) -> None:
    token_file.write_text(content, encoding="utf-8")
    with pytest.raises(PortError) as caught:
        read_token(token_file)
    assert "secrets.token_urlsafe" in caught.value.fix
    assert not content or content not in str(caught.value)


def test_a_token_that_others_can_read_is_refused(token_file: Path) -> None:
    token_file.chmod(0o644)
    with pytest.raises(PortError, match="Other users"):
        read_token(token_file)
    with pytest.raises(PortError, match="cannot be read") as caught:
        read_token(Path("/dev/zero"))
    assert "not a regular file" in caught.value.seen and "chmod" not in caught.value.fix


def test_the_token_comes_from_the_file_before_the_environment(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTVIDEO_PORT_TOKEN", "another-token-of-some-length")
    assert read_token(token_file) == TOKEN
    assert read_token(None) == "another-token-of-some-length"
    monkeypatch.delenv("FASTVIDEO_PORT_TOKEN")
    assert read_token(None) is None
