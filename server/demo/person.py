"""Whoever sits at the demo's client when the server asks a person."""

from __future__ import annotations

from typing import Any

from mcp_types import ElicitResult

from .show import Show

NOTE = "Answered by the demo's script in the person's place."
_LINES = 12


class Person:
    """Answers the server's dialogues. Nobody waits at the demo, so a script approves, and the answer says so.

    Attributes:
        asked: The messages that the server put.
    """

    def __init__(self, show: Show) -> None:
        self._show = show
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        """Show what the person would see, and answer."""
        message = str(params.message)
        self.asked.append(message)
        lines = [line for line in message.splitlines() if line.strip()]
        more = [f"({len(lines) - _LINES} more lines)"] if len(lines) > _LINES else []
        facts = {"the dialogue": "\n".join([*lines[:_LINES], *more]), "decision": "approve", "note": NOTE}
        self._show.note("the person at the client decides (elicitation)", facts)
        return ElicitResult(action="accept", content={"decision": "approve", "note": NOTE})
