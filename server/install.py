"""`fastvideo-port install CLIENT`: the exact command or snippet for a client, or the change itself."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..port.errors import PortError
from ..port.home import own_command

NAME = "fastvideo-port"
_TABLE = f"[mcp_servers.{NAME}]"


@dataclass(frozen=True)
class _Client:
    """A client's configuration file: where it is, below which key its servers stand."""

    title: str
    path: Path
    key: str
    command: str | None


def install(client: str, *, write: bool) -> int:
    """Print how ``client`` is told of this server; with ``write``, change its configuration file.

    Raises:
        PortError: The file cannot be read, understood or written; it is left as it was.
    """
    target = _clients()[client]
    entry = _entry(client)
    snippet = codex_table(entry) if client == "codex" else _json({target.key: {NAME: entry}})
    if not write:
        out = [f"{target.title}"]
        if target.command:
            out += ["", "Run:", "", f"    {target.command}", "", f"or put this into {target.path}:", ""]
        else:
            out += ["", f"Put this into {target.path}:", ""]
        out += [snippet, f"or let us merge it in: {own_command('install', client, '--write')}"]
        sys.stdout.write("\n".join(out) + "\n")
        return 0
    old = _read(target.path)
    new = merge_codex(old, entry, target.path) if client == "codex" else merge_json(old, target.key, entry, target.path)
    if new == old:
        sys.stdout.write(f"{target.path} already holds this entry; nothing changed.\n")
        return 0
    backup = _replace(target.path, old, new)
    kept = f" The file as it was: {backup}" if backup else ""
    sys.stdout.write(f"{target.path} now names {NAME}.{kept}\nRestart {target.title} to load it.\n")
    return 0


def server_command() -> list[str]:
    """The command that starts this installation's server, with absolute paths: clients start it anywhere."""
    script = Path(sys.executable).parent / ("fastvideo-port.exe" if os.name == "nt" else "fastvideo-port")
    start = [str(script)] if script.is_file() else [sys.executable, "-m", "fastvideo_port.server"]
    return [*start, "serve"]


def _clients() -> dict[str, _Client]:
    command = shlex.join(server_command())
    here = Path.cwd()
    codex_home = Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")
    vscode = json.dumps({"name": NAME, **_entry("vscode")})
    return {
        "claude": _Client(
            "Claude Code", here / ".mcp.json", "mcpServers", f"claude mcp add --scope user {NAME} -- {command}"
        ),
        "codex": _Client("Codex", codex_home / "config.toml", "mcp_servers", f"codex mcp add {NAME} -- {command}"),
        "vscode": _Client("VS Code", here / ".vscode" / "mcp.json", "servers", f"code --add-mcp {shlex.quote(vscode)}"),
        "cursor": _Client("Cursor", here / ".cursor" / "mcp.json", "mcpServers", None),
    }


def _entry(client: str) -> dict[str, Any]:
    command, *arguments = server_command()
    entry: dict[str, Any] = {"command": command, "args": arguments}
    if client == "codex":
        # Waits stay below 45 s, so 120 s is ample; a cold disk may need more than the usual 10 s to start.
        return {**entry, "startup_timeout_sec": 30, "tool_timeout_sec": 120}
    return {"type": "stdio", **entry}


def merge_json(old: str, key: str, entry: dict[str, Any], path: Path) -> str:
    """``old`` with our entry below ``key``; everything else stays.

    Raises:
        PortError: ``old`` is not a JSON object of the expected shape; files with comments are left to their owner.
    """
    try:
        content = json.loads(old) if old.strip() else {}
    except ValueError as error:
        raise PortError(
            "The client's file is not plain JSON, so it was left as it is.",
            seen=f"{path}: {error}",
            fix=f"Add this by hand below {key!r}: {json.dumps({NAME: entry})}",
        ) from error
    servers = content.get(key, {}) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(servers, dict):
        raise PortError(
            "The client's file has an unexpected shape, so it was left as it is.",
            seen=f"{path}: no object at {key!r}",
            fix=f"Correct the file, or add this by hand: {json.dumps({key: {NAME: entry}})}",
        )
    if servers.get(NAME) == entry:
        return old
    return _json({**content, key: {**servers, NAME: entry}})


def codex_table(entry: dict[str, Any]) -> str:
    """Our table in Codex's TOML."""
    # JSON strings, lists of strings and integers are TOML values too.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    return "\n".join([_TABLE, *lines]) + "\n"


def merge_codex(old: str, entry: dict[str, Any], path: Path) -> str:
    """``old`` with our table replaced or added at the end; every other line stays as it is.

    Raises:
        PortError: The file is not TOML, or the result would not be, or would change another entry.
    """
    before = _toml(old, path)
    if isinstance(before.get("mcp_servers"), dict) and before["mcp_servers"].get(NAME) == entry:
        return old
    kept: list[str] = []
    ours = False
    for line in old.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            header = line.split("#")[0].strip().replace('"', "").replace("'", "").replace(" ", "")
            ours = header == _TABLE or header.startswith(_TABLE[:-1] + ".")
        if not ours:
            kept.append(line)
    text = "".join(kept).rstrip("\n")
    new = (text + "\n\n" if text else "") + codex_table(entry)
    after = _toml(new, path)
    rest = {name: value for name, value in after.get("mcp_servers", {}).items() if name != NAME}
    rest_before = {name: value for name, value in before.get("mcp_servers", {}).items() if name != NAME}
    others = {key: value for key, value in after.items() if key != "mcp_servers"}
    if rest != rest_before or others != {key: value for key, value in before.items() if key != "mcp_servers"}:
        raise PortError(
            "The entry cannot be added without touching others, so the file was left as it is.",
            seen=str(path),
            fix=f"Add it by hand:\n{codex_table(entry)}",
        )
    return new


def _toml(text: str, path: Path) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        raise PortError(
            "Reading TOML needs Python 3.11.",
            seen=f"Python {sys.version.split()[0]}",
            fix=f"Add the entry to {path} by hand; `{own_command('install', 'codex')}` prints it.",
        )
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PortError(
            "The client's file would not be valid TOML, so it was left as it is.",
            seen=f"{path}: {error}",
            fix=f"Correct the file, or add the entry by hand; `{own_command('install', 'codex')}` prints it.",
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise PortError(
            "The client's file cannot be read.", seen=f"{path}: {error}", fix="Correct it, or use the printed command."
        ) from error


def _replace(path: Path, old: str, new: str) -> Path | None:
    """Write ``new`` in one step and keep ``old`` beside it; the link of a linked file stays a link."""
    path = path.resolve()
    backup = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if old:
            stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
            backup = path.with_name(f"{path.name}.{stamp}.bak")
            shutil.copy2(path, backup)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
        unfinished.write_text(new, encoding="utf-8")
        if old:
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise PortError(
            "The client's file cannot be written.",
            seen=f"{path}: {error.strerror}",
            fix="Check the permissions of its folder, or use the printed command.",
        ) from error
    return backup


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
