"""The demo's agent: an MCP client on stdio that calls the tools of a real server process, and can ask a person."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from .person import Person
from .show import Show

_POLL_S = 45


class ToolRefused(Exception):
    """A tool ended in an error; the text is what the model would have read."""


class Agent:
    """Calls tools and shows each call; a call that outlasts its wait is followed to its end."""

    def __init__(self, client: Client, show: Show) -> None:
        self._client = client
        self._show = show

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call ``tool``, wait for the end of the run that it starts, show the block and return the result.

        Raises:
            ToolRefused: The tool answered with an error, or its run ended without a result.
        """
        began = time.monotonic()
        with self._show.waiting(tool) as progress:
            result = await self._call(tool, arguments, progress)
            while result.get("state") in ("queued", "running") and result.get("run_id"):
                status = await self._call("run_status", {"run_id": result["run_id"], "wait_s": _POLL_S}, progress)
                if status["state"] in ("queued", "running"):
                    continue
                if status["result"] is None:
                    raise ToolRefused(
                        f"{tool}: run {status['run_id']} {status['state']}\n{status['error']}\n{status['log']}"
                    )
                result = status["result"]
        self._show.call(tool, arguments, result, time.monotonic() - began)
        return result

    async def _call(self, tool: str, arguments: dict[str, Any], progress: Any) -> dict[str, Any]:
        answer = await self._client.call_tool(tool, arguments, progress_callback=progress)
        if answer.is_error or answer.structured_content is None:
            text = "\n".join(getattr(part, "text", "") for part in answer.content)
            raise ToolRefused(f"{tool}: {text}")
        result: dict[str, Any] = answer.structured_content
        return result


@asynccontextmanager
async def connected(home: Path, cwd: Path, log: Path, show: Show) -> AsyncIterator[Agent]:
    """Start ``fastvideo-port serve`` as a process of its own and speak to it over stdio.

    Args:
        home: State folder of the server.
        cwd: Folder that the server stands in.
        log: File that takes what the server writes to stderr.
        show: Where calls are shown.
    """
    # Tests of the demo may bring their own; a person's shell variables must not change what the demo shows.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment["FASTVIDEO_PORT_HOME"] = str(home)
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "fastvideo_port.server", "serve"], env=environment, cwd=cwd
    )
    with log.open("w", encoding="utf-8") as errors:
        async with Client(stdio_client(server, errlog=errors), elicitation_callback=Person(show)) as client:
            yield Agent(client, show)
