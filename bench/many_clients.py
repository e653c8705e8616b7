"""Many clients at once on one server over HTTP: errors, time of a call, memory.

    python bench/many_clients.py [CLIENTS] [MAPPINGS]

Each client makes a worktree of its own, MAPPINGS of them (default all) prove a mapping, all ask for a status. Then all
stay connected and make trivial calls, in two ways: each once a second, and each as fast as it can. The same calls go to
a bare server of the SDK with one tool that does nothing, at the same moment: the promise is the ratio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from fastvideo_port.tests.tools.tiny import NAME, Tiny, make
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

PACED_S, FAST_S, STARTS_S = 10.0, 5.0, 60.0
BARE = """
import sys, uvicorn
from mcp.server import MCPServer
server = MCPServer("bare", log_level="ERROR")
@server.tool()
def nothing() -> dict[str, int]:
    "Does nothing."
    return {"done": 1}
uvicorn.run(server.streamable_http_app(), port=int(sys.argv[1]), log_level="error", access_log=False)
"""


@contextlib.contextmanager
def serving(command: list[str], home: Path, port: int) -> Iterator[psutil.Process]:
    """A server process, once it answers."""
    process = subprocess.Popen(command, env={**os.environ, "FASTVIDEO_PORT_HOME": str(home)}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + STARTS_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"No server answers on port {port}: {' '.join(command)}") from error
                time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Client]]:
    """Clients of both protocols, in turn."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(count):
            http = await stack.enter_async_context(httpx2.AsyncClient(timeout=600))
            transport = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            mode: Any = "legacy" if number % 2 else "auto"
            clients.append(await stack.enter_async_context(Client(transport, mode=mode)))
        yield clients


async def timed(call: Awaitable[Any], times: list[float], errors: list[str]) -> Any:
    """Await the call; note its milliseconds, or what went wrong."""
    begun = time.perf_counter()
    try:
        result = await call
    except Exception as error:
        errors.append(repr(error)[:200])
        return None
    times.append((time.perf_counter() - begun) * 1000)
    if result.is_error:
        errors.append(str(result.content[0])[:300])
    return result


def show(what: str, times: list[float], errors: list[str], more: str = "") -> None:
    """One row of the table."""
    times = sorted(times) or [float("nan")]
    late = times[min(len(times) - 1, int(len(times) * 0.99))]
    row = f"{len(times):6d} {len(errors):7d} {statistics.median(times):9.1f} {late:9.1f} {times[-1]:9.1f}"
    sys.stdout.write(f"{what:34} {row}  {more}\n")
    for error in errors[:3]:
        sys.stdout.write(f"    {error}\n")
    sys.stdout.flush()


async def work(clients: list[Client], tiny: Tiny, mappings: int, server: psutil.Process) -> None:
    """What a porting agent does: create, check a mapping, ask for its status."""
    times: list[float] = []
    errors: list[str] = []
    await asyncio.gather(
        *(
            timed(client.call_tool("create_worktree", {"model_name": f"Model {number}"}), times, errors)
            for number, client in enumerate(clients)
        )
    )
    show("create_worktree, all at once", times, errors, memory(server))
    times, errors = [], []
    arguments = {"port_id": tiny.port_id, "component": NAME, "wait_s": 0}
    begun = time.perf_counter()
    runs = await asyncio.gather(
        *(timed(client.call_tool("check_mapping", arguments), times, errors) for client in clients[:mappings])
    )
    show("check_mapping, started at once", times, errors, memory(server))
    times, errors = [], []

    async def follow(client: Client, run_id: str) -> str:
        while True:
            answer = await timed(client.call_tool("run_status", {"run_id": run_id, "wait_s": 45}), times, errors)
            if answer is None or answer.is_error:
                return "error"
            if answer.structured_content["state"] not in ("queued", "running"):
                return str((answer.structured_content["result"] or {}).get("verdict"))

    verdicts = await asyncio.gather(
        *(follow(client, run.structured_content["run_id"]) for client, run in zip(clients, runs, strict=False) if run)
    )
    wrong = [verdict for verdict in verdicts if verdict != "pass"]
    seconds = time.perf_counter() - begun
    show("run_status, waiting for the end", times, errors + wrong, f"{seconds:.0f} s for {len(verdicts)} mappings")


async def trivial(clients: list[Client], tool: str, seconds: float, pause: float) -> tuple[list[float], list[str]]:
    """Milliseconds of calls of ``tool``; each client pauses about ``pause`` seconds between two calls."""
    times: list[float] = []
    errors: list[str] = []
    end = time.perf_counter() + seconds

    async def go(client: Client) -> None:
        while time.perf_counter() < end:
            if pause:
                await asyncio.sleep(random.uniform(0.5, 1.5) * pause)
            await timed(client.call_tool(tool, {}), times, errors)

    await asyncio.gather(*map(go, clients))
    return times, errors


def memory(server: psutil.Process) -> str:
    """Resident memory of the server, threads and open files."""
    return f"{server.memory_info().rss / 1e6:.0f} MB, {server.num_threads()} threads, {server.num_fds()} files"


async def measure(count: int, mappings: int, tiny: Tiny, ours: psutil.Process, port: int, bare_port: int) -> None:
    """The whole table."""
    sys.stdout.write(f"{'':34} {'calls':>6} {'errors':>7} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}\n")
    async with connected(port, count) as clients, connected(bare_port, count) as others:
        sys.stdout.write(f"{count} clients connected: {memory(ours)}\n")
        await work(clients, tiny, mappings, ours)
        for what, seconds, pause in (("once a second", PACED_S, 1.0), ("as fast as it can", FAST_S, 0.0)):
            mine, errors = await trivial(clients, "list_ports", seconds, pause)
            show(f"list_ports, each {what}", mine, errors, memory(ours))
            bare, errors = await trivial(others, "nothing", seconds, pause)
            show(f"a bare server, each {what}", bare, errors)
            ratio, rate = statistics.median(mine) / statistics.median(bare), len(bare) / len(mine)
            sys.stdout.write(f"    ratio to the bare server: p50 {ratio:.2f}, calls a second {1 / rate:.2f}\n")
        before = ours.memory_info().rss
        await trivial(clients, "list_ports", FAST_S, 0.0)
        sys.stdout.write(f"memory after as many calls again: {ours.memory_info().rss / before:.3f} of before\n")


def main() -> None:
    """Set the port up, start both servers, measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    mappings = int(sys.argv[2]) if len(sys.argv) > 2 else count
    port, bare_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        tiny = make(Path(folder))
        serve = [sys.executable, "-m", "fastvideo_port.server", "serve", "--http", "--port", str(port)]
        os.chdir(tiny.ctx.cwd)
        with (
            serving(serve, tiny.ctx.home, port) as ours,
            serving([sys.executable, "-c", BARE, str(bare_port)], tiny.ctx.home, bare_port),
        ):
            asyncio.run(measure(count, mappings, tiny, ours, port, bare_port))


if __name__ == "__main__":
    main()
