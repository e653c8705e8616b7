"""Driving the server as clients do: in process, over stdio and over HTTP, in both protocol eras."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

T = TypeVar("T")
ERAS = ("legacy", "auto")
"""``legacy``: `initialize`, 2025-11-25. ``auto``: `server/discover`, 2026-07-28."""

SERVE = [sys.executable, "-m", "fastvideo_port.server", "serve"]


def environment(home: Path) -> dict[str, str]:
    """This process's environment with its own state folder."""
    return {**os.environ, "FASTVIDEO_PORT_HOME": str(home)}


def stdio(home: Path, cwd: Path) -> StdioServerParameters:
    """The real server process over stdio."""
    return StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=environment(home), cwd=str(cwd))


def drive(target: Any, era: Any, steps: Callable[[Client], Awaitable[T]], **options: Any) -> T:
    """Connect to ``target`` in ``era``, do ``steps``, at most 60 s.

    What ``steps`` raises is raised from here, and not in the client's task group, which would wrap it.
    """

    async def inner() -> T | MCPError:
        async with asyncio.timeout(60), Client(target, mode=era, **options) as client:
            try:
                return await steps(client)
            except MCPError as error:
                return error

    result = asyncio.run(inner())
    if isinstance(result, MCPError):
        raise result
    return result


def text_of(result: Any) -> str:
    """The first text block of a tool's result."""
    return str(result.content[0].text)
