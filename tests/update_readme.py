"""The parts of README.md that are made from the code: the table of tools and how clients are told of the server.

`python tests/update_readme.py` writes them; `test_readme.py` compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

README = Path(__file__).resolve().parent.parent / "README.md"
CLONE = "/path/to/fastvideo-port"
CLIENTS = ("claude", "codex", "vscode", "cursor")


def tool_list() -> list[dict[str, Any]]:
    """Every tool as clients see it."""
    from fastvideo_port.server.app import build_server

    tools = asyncio.run(build_server(Path("/"), Path("/")).list_tools())
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


def tool_table(tools: list[dict[str, Any]]) -> str:
    """One row per tool: what it takes, what it gives (without `next_step`, which all of them give)."""
    rows = ["| tool | does | takes | gives |", "| --- | --- | --- | --- |"]
    for tool in tools:
        schema = tool["inputSchema"]
        needed = schema.get("required", [])
        takes = ", ".join(f"`{name}`" + ("" if name in needed else "?") for name in schema["properties"])
        fields = tool.get("outputSchema", {}).get("properties", {})
        gives = ", ".join(f"`{name}`" for name in fields if name != "next_step") or "the picture"
        rows.append(f"| `{tool['name']}` | {tool['title']} | {takes or 'nothing'} | {gives} |")
    return "\n".join(rows)


def install_text(client: str) -> str:
    """What `fastvideo-port install CLIENT` prints for a clone at `CLONE`, with neutral folders."""
    from fastvideo_port.server import install

    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder).resolve()
        variables = {"HOME": f"{project}/home", "CODEX_HOME": ""}
        command = [f"{CLONE}/.venv/bin/fastvideo-port", "serve"]
        with (
            contextlib.redirect_stdout(printed),
            mock.patch.object(install, "server_command", lambda: command),
            mock.patch.object(install.Path, "cwd", lambda: project),
            mock.patch.dict(os.environ, variables),
        ):
            install.install(client, write=False)
    return printed.getvalue().replace(f"{project}/home/", "~/").replace(f"{project}/", "")


def install_section() -> str:
    """One command or one snippet for each client, out of what `install` prints."""
    parts = []
    for client in CLIENTS:
        title, _, rest = install_text(client).partition("\n")
        command = re.search(r"^Run:\n\n    (.+)$", rest, re.MULTILINE)
        if command:
            parts.append(f"{title}:\n\n```sh\n{command[1]}\n```")
            continue
        snippet = re.search(r"^Put this into (\S+):\n\n(.*?\n)(?=or let us)", rest, re.MULTILINE | re.DOTALL)
        assert snippet, f"`install {client}` prints neither a command nor a snippet"
        parts.append(
            f"{title}, in `{snippet[1]}` of the folder that you work in:\n\n```json\n{snippet[2].strip()}\n```"
        )
    return "\n\n".join(parts)


def current() -> dict[str, str]:
    """Name of a marked part to what has to stand in it."""
    return {"tools": tool_table(tool_list()), "install": install_section()}


def part(text: str, name: str) -> str:
    """What stands between the markers of part ``name``.

    Raises:
        ValueError: The markers are not there exactly once.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md has no single part {name!r}")
    return text.split(begin)[1].split(end)[0].strip("\n")


def with_parts(text: str, parts: dict[str, str]) -> str:
    """``text`` with each part replaced."""
    for name, content in parts.items():
        part(text, name)
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, tail = text.split(begin)[0], text.split(end)[1]
        text = f"{head}{begin}{content}\n{end}{tail}"
    return text


def main() -> None:
    """Write the parts."""
    text = README.read_text(encoding="utf-8")
    README.write_text(with_parts(text, current()), encoding="utf-8")
    sys.stdout.write(f"{', '.join(current())} in {README}\n")


if __name__ == "__main__":
    main()
