"""Many clients at once on one server over HTTP: no error, everybody's own answer, nothing left open."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from ..tools.tiny import ADAPTER, NAME, Tiny, make
from .http_server import Served, open_files, serving

CLIENTS = 12
LOSES = {
    1: "first.weight",
    5: "norm.bias",
    9: "second.bias",
}
"""Clients whose own adapter really runs, and the tensor that it leaves out."""


def adapter_of(number: int) -> str:
    """An adapter that only this client checks."""
    return f"tests/local_tests/tiny/parity_client_{number}.py"


def prepare(tiny: Tiny) -> None:
    """Write the adapters."""
    keep = "    for name, value in weights(ctx).items():\n"
    assert ADAPTER.count(keep) == 1
    for number, lost in LOSES.items():
        skip = f"        if name == {lost!r}:\n            continue\n"
        text = ADAPTER.replace(keep, keep + skip).replace(
            "load_state_dict(state)", "load_state_dict(state, strict=False)"
        )
        (tiny.worktree / adapter_of(number)).write_text(text)


async def one(number: int, url: str, port_id: str) -> dict[str, Any]:
    """What one client does; in turn in the older protocol and in the newer one."""
    era: Any = "legacy" if number % 2 else "auto"
    async with (
        httpx2.AsyncClient(timeout=120) as http,
        Client(streamable_http_client(url, http_client=http), mode=era) as client,
    ):
        made = await client.call_tool("create_worktree", {"model_name": f"Model {number}", "goal": f"goal {number}"})
        arguments = {"port_id": port_id, "component": NAME, "adapter": adapter_of(number), "wait_s": 45}
        checked = await client.call_tool("check_mapping", arguments)
        run = (checked.structured_content or {}).get("run_id", f"run-of-{number}")
        status = await client.call_tool("run_status", {"run_id": run, "wait_s": 45})
        ports = await client.call_tool("list_ports", {})
    return {"made": made, "checked": checked, "status": status, "ports": ports}


def test_every_client_gets_its_own_answers_and_nothing_is_left_open(tmp_path: Path) -> None:
    tiny = make(tmp_path)
    prepare(tiny)
    with serving(tiny.ctx.home, tiny.ctx.cwd) as server:

        async def everybody() -> list[dict[str, Any]]:
            return await asyncio.gather(*(one(number, server.url, tiny.port_id) for number in range(CLIENTS)))

        asyncio.run(warm(server))
        files = settled(server)
        answers = asyncio.run(everybody())
        for number, answer in enumerate(answers):
            made = answer["made"].structured_content
            assert made is not None and f"port-model-{number}-" in made["branch"], (
                number,
                made,
            )
            assert Path(made["worktree"]).is_dir()
            check(number, answer)
        assert len({answer["made"].structured_content["port_id"] for answer in answers}) == CLIENTS
        names = {port["model_name"] for port in asyncio.run(warm(server)).structured_content["ports"]}
        assert {f"Model {number}" for number in range(CLIENTS)} <= names
        assert settled(server, files) <= files
        # Sessions of the older protocol stay until they are idle; threads are those of the pool, for its next calls.
        assert psutil.Process(server.process.pid).num_threads() <= 4 * CLIENTS
        assert "Traceback" not in server.log and "incident" not in server.log


def check(number: int, answer: dict[str, Any]) -> None:
    """The answers to the client are about what this client asked."""
    checked, status = answer["checked"], answer["status"]
    if number in LOSES:
        result = status.structured_content["result"]
        assert status.structured_content["state"] == "done", status
        assert result["verdict"] == "fail" and repr(LOSES[number]) in result["next_step"], (number, result)
        assert result["run_id"] == status.structured_content["run_id"] == checked.structured_content["run_id"]
    else:
        assert checked.is_error and adapter_of(number) in checked.content[0].text, checked
        assert status.is_error and f"run-of-{number}" in status.content[0].text, status


async def warm(server: Served) -> Any:
    """One call of one client."""
    async with Client(server.url) as client:
        return await client.call_tool("list_ports", {})


def settled(server: Served, at_most: int | None = None) -> int:
    """Open files of the server once connections of clients that have gone are closed."""
    for _ in range(150):
        count = open_files(server.process.pid)
        connections = psutil.Process(server.process.pid).net_connections("tcp")
        if all(item.status == psutil.CONN_LISTEN for item in connections) and (at_most is None or count <= at_most):
            break
        time.sleep(0.1)
    return count
