"""A tool's result for a person at a terminal."""

from __future__ import annotations

from typing import Any

_ROWS = 40


def show_result(title: str, payload: dict[str, Any]) -> None:
    """Print ``payload`` as one block: fields, tables for lists of records, the next step last."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="dim", no_wrap=True)
    fields.add_column(overflow="fold")
    blocks: list[Any] = [fields]
    for key, value in payload.items():
        if key == "next_step" or value is None or value == [] or value == {}:
            continue
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            blocks.append(_table(key, value))
        else:
            fields.add_row(key, Text(_plain(value), style=_style(key, value)))
    blocks.append(Text(f"Next: {_plain(payload.get('next_step', ''))}", style="italic"))
    Console(highlight=False).print(Panel(Group(*blocks), title=title, title_align="left"))


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = [key for key in rows[0] if any(row.get(key) not in (None, [], {}) for row in rows)]
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
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items() if item not in (None, [], {}))
    return "".join(char for char in str(value) if char.isprintable() or char == "\n")
