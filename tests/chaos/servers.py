"""Several servers on one state folder, and servers whose ends are odd."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from fastvideo_port.port.ledger import Ledger
from fastvideo_port.runs.store import RunStore

from . import children
from .audit import ALL_STEPS, HELD, Promise, Seen, fault, seen_of_run
from .lab import ENGINE, PORT, Lab, until


def _at_once(acts: list[Callable[[], Any]]) -> list[Any]:
    """Each in a process of its own, all of them let go at the same time; what they return."""
    gate, open_gate = os.pipe()

    def wait(act: Callable[[], Any]) -> Any:
        os.close(open_gate)
        os.read(gate, 1)
        return act()

    begun = [children.begin(lambda act=act: wait(act)) for act in acts]
    os.close(gate)
    os.close(open_gate)
    return [children.end(*one).value for one in begun]


@fault("two-start", "servers", "four servers start one run at the same moment", Promise("done", "kept", ALL_STEPS))
def _(lab: Lab) -> Seen:
    run_id = lab.create().run_id
    _at_once([lambda: RunStore(lab.home, parity_dir=ENGINE).start(run_id).state] * 4)
    return seen_of_run(lab, run_id)


@fault("two-recover", "servers", "four servers find out at the same moment that a supervisor died",
       Promise("crashed", progress=HELD, words="supervisor of this run died"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.kill(lab.held(run_id).supervisor)
    told = _at_once([lambda: RunStore(lab.home, parity_dir=ENGINE).get(run_id).model_dump_json()] * 4)
    seen = seen_of_run(lab, run_id)
    if len(set(told)) != 1:
        seen.wrong.append(f"they tell {len(set(told))} different ends")
    return seen


@fault("two-record", "servers", "four servers record one result at the same moment",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin()
    seen = seen_of_run(lab, run_id)
    _at_once([lambda: lab.add_entry(run_id).run_id] * 4)
    if problems := Ledger(lab.home).verify():
        seen.wrong.append(f"the ledger: {problems}")
    if len(Ledger(lab.home).entries(PORT)) != 2:
        seen.wrong.append(f"it stands {lab.entries(run_id)} times in the ledger")
    return seen


@fault("two-cancel", "servers", "three servers cancel while a fourth waits",
       Promise("cancelled", progress=HELD, words="cancelled"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    store = RunStore(lab.home, parity_dir=ENGINE)
    told = _at_once([lambda: store.cancel(run_id).state] * 3 + [lambda: store.wait(run_id, 30).state])
    seen = seen_of_run(lab, run_id)
    if told != ["cancelled"] * 4:
        seen.wrong.append(f"they are told {told}")
    return seen


@fault("server-without-streams", "servers", "the server has no stdin, stdout and stderr when it starts a run",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.create().run_id

    def bare() -> None:
        for number in (0, 1, 2):
            os.close(number)
        lab.store.start(run_id)

    children.run(bare)
    return seen_of_run(lab, run_id)


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "chaos", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@contextlib.contextmanager
def _server(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    """The real server on its bare pipes."""
    server = subprocess.Popen(
        [sys.executable, "-m", "fastvideo_port.server", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FASTVIDEO_PORT_HOME": str(lab.home)},
        cwd=lab.place,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        for stream in (server.stdin, server.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def _ask(server: subprocess.Popen[bytes], tool: str, **arguments: Any) -> None:
    params = {"name": tool, "_meta": META, "arguments": arguments}
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode())
    server.stdin.write(b"\n")
    server.stdin.flush()


def _answer(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert server.stdout is not None
    while True:
        message = json.loads(server.stdout.readline())
        if "id" in message:
            content: dict[str, Any] = message["result"]["structuredContent"]
            return content


@fault("real-servers", "servers", "two real servers follow one run, one of them is killed in its call",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    with _server(lab) as first, _server(lab) as second:
        for server in (first, second):
            _ask(server, "run_status", run_id=run_id, wait_s=0)
        before = [_answer(server)["state"] for server in (first, second)]
        _ask(first, "run_status", run_id=run_id, wait_s=40)
        _ask(second, "run_status", run_id=run_id, wait_s=40)
        first.kill()
        first.wait()
        lab.go(run_id)
        after = _answer(second)
    seen = seen_of_run(lab, run_id)
    if before != ["running", "running"] or after["state"] != "done" or "step 5" not in after["log"]:
        seen.wrong.append(f"the servers said {before}, then {after}")
    return seen


@fault("client-gone", "servers", "the client closes the server's stdin in the middle of a call",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(hold=True)
    lab.held(run_id)
    with _server(lab) as server:
        _ask(server, "run_status", run_id=run_id, wait_s=0)
        _answer(server)
        _ask(server, "run_status", run_id=run_id, wait_s=40)
        assert server.stdin is not None
        server.stdin.close()
        lab.go(run_id)
        seen = seen_of_run(lab, run_id)
        until(lambda: server.poll() is not None, "the server stays without a client")
    return seen
