"""A client that goes away in the middle of a call takes its server with it, and no run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fastvideo_port.runs.models import Run
from fastvideo_port.runs.store import RunStore

from .helpers import SERVE, environment

ENGINE = Path(__file__).parent.parent / "runs" / "fake_engine"
AWAY_S = 15
"""Far less than the 45 s for which the call asks, and time enough for a busy machine."""
CLIENT = """
import asyncio, os, psutil, sys
from mcp import Client, StdioServerParameters

how, home, run_id, *command = sys.argv[1:]

async def main():
    server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ), cwd=home)
    async with Client(server) as client:
        async def told(done, total, message):
            print(*(child.pid for child in psutil.Process().children() if "serve" in child.cmdline()), flush=True)
            if how == "leaves":
                call.cancel()

        call = asyncio.ensure_future(
            client.call_tool("run_status", {"run_id": run_id, "wait_s": 45}, progress_callback=told))
        await asyncio.wait([call])

asyncio.run(main())
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run that goes on until the file ``go`` is there."""
    store = RunStore(tmp_path, parity_dir=ENGINE)
    spec = {"witness": str(tmp_path / "witness"), "hold": str(tmp_path / "go"), "token": "t"}
    made = store.create(
        port_id=None, tool="run_example", arguments={}, python=sys.executable, job="works", spec=spec, cwd=tmp_path
    )
    yield store.start(made.run_id)
    store.cancel(made.run_id)


@pytest.mark.parametrize("how", ["is killed", "leaves"])
def test_the_server_ends_soon_after_a_client_that_goes_in_mid_call_and_the_run_goes_on(
    how: str, run: Run, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", CLIENT, how, str(tmp_path), run.run_id, *SERVE]
    client = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path), text=True
    )
    try:
        assert client.stdout is not None
        server = int(client.stdout.readline())  # it waits for the run; from here on it may be gone at any moment
        if how == "is killed":
            client.kill()
        with suppress(psutil.NoSuchProcess):
            psutil.Process(server).wait(AWAY_S)  # raises TimeoutExpired
    finally:
        client.kill()
        _, errors = client.communicate()
    assert "Traceback" not in errors  # the server's stderr is the client's
    store = RunStore(tmp_path, parity_dir=ENGINE)
    assert store.get(run.run_id).state == "running"
    (tmp_path / "go").touch()
    assert store.wait(run.run_id, 60).state == "done"
    assert (tmp_path / "witness").read_text().splitlines()[-1] == "returned"
