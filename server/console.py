"""A tool's result for a person: a block at a terminal, plain lines for a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

_EMPTY: tuple[Any, ...] = (None, "", [], {})
_ROWS = 40
_WIDEST = 28
"""Characters of a column that a table needs at least, if its content is longer."""


def show_result(title: str, payload: dict[str, Any]) -> None:
    """Print ``payload`` as one block: fields, tables for lists of records, the next step last.

    Where stdout is no terminal nothing is wrapped or framed: paths and URIs can be searched for and copied.
    """
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        sys.stdout.write("\n".join(_lines(title, payload)) + "\n")
        return
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="dim", no_wrap=True)
    fields.add_column(overflow="fold")
    blocks: list[Any] = [fields]
    for key, value in payload.items():
        if key == "next_step" or value in _EMPTY:
            continue
        if _is_records(value):
            blocks.append(_table(key, value) if _fits(value, console.width - 4) else _records(key, value))
        else:
            fields.add_row(key, Text(_plain(value), style=_style(key, value)))
    blocks.append(Text(f"Next: {_plain(payload.get('next_step', ''))}", style="italic"))
    console.print(Panel(Group(*blocks), title=title, title_align="left"))


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _lines(title: str, payload: dict[str, Any]) -> Iterator[str]:
    """The same without a frame: a line per field, however long; records one below the other."""
    yield title
    for key, value in payload.items():
        if key == "next_step" or value in _EMPTY:
            continue
        if not _is_records(value):
            yield from _field(key, value)
            continue
        for number, row in enumerate(value[:_ROWS], start=1):
            yield f"{key}, {number} of {len(value)}"
            for name in _columns([row]):
                yield from _field(f"  {name}", row[name])
        if len(value) > _ROWS:
            yield f"{_ROWS} of {len(value)} {key} shown; --json prints all"
    yield f"Next: {_plain(payload.get('next_step', ''))}"


def _field(name: str, value: Any) -> Iterator[str]:
    first, *more = _plain(value).split("\n")
    yield f"{name}: {first}"
    for line in more:
        yield f"{' ' * len(name)}  {line}"


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """The fields that at least one row fills."""
    return [key for key in rows[0] if any(row.get(key) not in _EMPTY for row in rows)]


def _fits(rows: list[dict[str, Any]], width: int) -> bool:
    """Whether a table of ``rows`` can be read in ``width`` characters; a narrower one breaks its words apart."""
    needed = 1
    for column in _columns(rows):
        longest = max(len(line) for row in rows for line in [column, *_plain(row.get(column)).splitlines()])
        needed += min(longest, _WIDEST) + 3
    return needed <= width


def _records(title: str, rows: list[dict[str, Any]]) -> Any:
    """The rows one below the other, a line per field."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for number, row in enumerate(rows[:_ROWS], start=1):
        fields = Table.grid(padding=(0, 2))
        fields.add_column(style="dim", no_wrap=True)
        fields.add_column(overflow="fold")
        for key in _columns([row]):
            fields.add_row(key, Text(_plain(row[key]), style=_style(key, row[key])))
        parts += [Text(f"\n{title}, {number} of {len(rows)}", style="bold"), fields]
    if len(rows) > _ROWS:
        parts.append(Text(f"{_ROWS} of {len(rows)} shown; --json prints all"))
    return Group(*parts)


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = _columns(rows)
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_ROWS]:
        table.add_row(*(Text(_plain(row.get(column)), style=_style(column, row.get(column))) for column in columns))
    if len(rows) > _ROWS:
        table.caption = f"{_ROWS} of {len(rows)} shown; --json prints all"
    return table


def _style(key: str, value: Any) -> str:
    if key not in ("verdict", "state", "gate"):
        return ""
    if value in ("pass", "open", "done"):
        return "bold green"
    return "bold red" if value in ("fail", "failed", "crashed", "closed", "stale") else "bold yellow"


def _plain(value: Any) -> str:
    """``value`` as text without control characters: results hold text from logs and repositories."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "\n".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items() if item not in _EMPTY)
    return "".join(char for char in str(value) if char.isprintable() or char == "\n")
