"""How the demo looks: one block for each step, and the same as JSON lines for whoever makes a page of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from .facts import facts_of

_COLOURS = {
    "pass": "green",
    "open": "green",
    "approved": "green",
    "done": "green",
    "fail": "red",
    "error": "red",
    "closed": "yellow",
    "missing": "dim",
    "stale": "yellow",
    "needs_approval": "yellow",
    "investigate": "yellow",
    "inconclusive": "yellow",
}
_LONGEST = 400


class Progress(Protocol):
    """Takes the progress of a call, as the MCP client reports it."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


class Show:
    """Numbers the steps, prints a block for each, and keeps them as JSON lines if asked to.

    Attributes:
        console: Where the blocks go.
        steps: How many blocks have been shown.
    """

    def __init__(self, console: Console, transcript: Path | None = None) -> None:
        self.console = console
        self.steps = 0
        self._explained: set[str] = set()
        self._transcript = transcript.open("w", encoding="utf-8") if transcript else None

    def close(self) -> None:
        """Close the file of JSON lines."""
        if self._transcript:
            self._transcript.close()

    def headline(self, text: str) -> None:
        """A rule with a line of text, between the acts."""
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left", style="dim")
        self._keep("headline", text=text)

    def note(self, title: str, facts: Mapping[str, str]) -> None:
        """A block of named facts that no tool gave."""
        self.steps += 1
        self._panel(Text(f"{self.steps} · {title}", style="bold"), _grid(facts), "")
        self._keep("note", step=self.steps, title=title, facts=dict(facts))

    def edit(self, title: str, text: str, language: str = "diff") -> None:
        """What the agent writes: a title, and a diff or an outline in ``language``."""
        self.steps += 1
        body = Syntax(text, language, background_color="default", word_wrap=True)
        self._panel(Text(f"{self.steps} · the agent: {title}", style="bold cyan"), body, "")
        self._keep("edit", step=self.steps, title=title, text=text)

    def call(self, tool: str, arguments: Mapping[str, Any], result: Mapping[str, Any], seconds: float) -> None:
        """A tool call: its arguments, the verdict and the facts that carry it, and the time it took."""
        self.steps += 1
        verdict = str(result.get("verdict") or result.get("gate") or result.get("decision") or "done")
        title = Text.assemble((f"{self.steps} · {tool}", "bold"), "  ", (f" {verdict} ", _badge(verdict)))
        given = {name: _shown(value) for name, value in arguments.items() if name != "port_id"}
        parts: list[RenderableType] = [_grid(given, "dim"), Text()] if given else []
        body = Group(*parts, _grid(self._facts(tool, result)))
        self._panel(title, body, f"{seconds:.1f} s")
        self._keep("call", step=self.steps, tool=tool, arguments=dict(arguments), result=dict(result), seconds=seconds)

    def _facts(self, tool: str, result: Mapping[str, Any]) -> dict[str, str]:
        """The facts of a result; a patch is explained when it is first shown, and named by its id after that."""
        patches = [str(line) for line in result.get("environment_patches") or []]
        brief = [line.partition(":")[0] if line in self._explained else line for line in patches]
        facts = facts_of(tool, {**result, "environment_patches": brief})
        if "patches" in facts:
            self._explained.update(patches)
        return facts

    def gate(self, result: Mapping[str, Any]) -> None:
        """The gate's items as a table."""
        table = Table(box=box.SIMPLE_HEAD, title=f"Gate: {result['gate']}", title_justify="left", title_style="bold")
        for column in ("item", "state", "why"):
            table.add_column(column, overflow="fold")
        for item in result["items"]:
            state = str(item["state"])
            name = str(item.get("title") or item.get("name") or item.get("id"))
            table.add_row(name, Text(state, style=_COLOURS.get(state, "")), str(item.get("why") or ""))
        self.console.print()
        self.console.print(table)

    @contextmanager
    def waiting(self, tool: str) -> Iterator[Progress]:
        """A spinner on a terminal while a call is under way; yields what takes the call's progress."""
        with self.console.status(f"{tool} ...") as status:

            async def progress(progress: float, total: float | None, message: str | None) -> None:
                status.update(f"{tool}: {message or f'{progress:g}'}")

            yield progress

    def _panel(self, title: Text, body: RenderableType, subtitle: str) -> None:
        self.console.print(
            Panel(
                body,
                title=title,
                title_align="left",
                subtitle=subtitle or None,
                subtitle_align="right",
                box=box.ROUNDED,
            )
        )

    def _keep(self, kind: str, **entry: Any) -> None:
        if self._transcript:
            self._transcript.write(json.dumps({"kind": kind, **entry}, ensure_ascii=False) + "\n")
            self._transcript.flush()


def _badge(verdict: str) -> str:
    return f"bold white on {_COLOURS.get(verdict, 'blue').replace('dim', 'blue')}"


def _here(text: str) -> str:
    """``text`` with paths below the current folder made relative, which is shorter and names no machine."""
    return text.replace(f"{Path.cwd()}/", "")


def _shown(value: Any) -> str:
    text = _here(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _grid(facts: Mapping[str, str], style: str = "") -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style=style, overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, Text(_here(value)))
    return grid
