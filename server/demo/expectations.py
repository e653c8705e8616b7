"""What the demo knows to be true: it goes on only when the server says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .facts import place_of
from .mistakes import Mistake


class Unexpected(Exception):
    """The server said something else than the demo knows to be true."""


def expect(what: str, got: object, wanted: object) -> None:
    """Go on only if ``got`` is what the demo knows to be right.

    Raises:
        Unexpected: It is not; says what differed.
    """
    if got != wanted:
        raise Unexpected(f"{what}\nSeen: {got!r}\nExpected: {wanted!r}")


def expect_place(result: Mapping[str, Any], mistake: Mistake, line: int, modules: tuple[str, ...]) -> None:
    """The verdict must name the place: a module that holds the mistake, its file, and lines that include it.

    Raises:
        Unexpected: It names none, or another.
    """
    culprit = result.get("culprit")
    if not culprit:
        raise Unexpected(f"The red verdict on {mistake.name!r} names no place.")
    right_module = any(module in culprit["module"] for module in modules)
    right_file = str(culprit["file"]).endswith(mistake.file)
    if not (right_module and right_file and culprit["line"] <= line <= culprit["end_line"]):
        wanted = f"{' or '.join(modules)}, {mistake.file}, line {line}"
        raise Unexpected(f"The place of {mistake.name!r}\nSeen: {place_of(culprit)}\nExpected: {wanted}")


def state_of(gate: Mapping[str, Any], item_id: str) -> str | None:
    """The state of the gate's item ``item_id``; none if there is no such item."""
    return next((str(item["state"]) for item in gate["items"] if item["id"] == item_id), None)


ITEMS = ("mapping-reviewed", "keys", "component-parity", "pipeline-parity", "ssim", "example", "documentation")


def expect_open(gate: Mapping[str, Any], what: str = "the gate") -> None:
    """All seven items pass.

    Raises:
        Unexpected: One does not, or the gate is closed all the same.
    """
    expect(f"{what}: its items", {item["id"]: item["state"] for item in gate["items"]}, dict.fromkeys(ITEMS, "pass"))
    expect(what, gate["gate"], "open")


def expect_closed_by(gate: Mapping[str, Any], file: str, items: tuple[str, ...]) -> None:
    """The gate is closed because these ``items`` are stale, each of them by ``file`` and nothing else.

    Raises:
        Unexpected: It is open, or another item, state or file is named.
    """
    wanted = {name: "stale" if name in items else "pass" for name in ITEMS}
    expect(f"the gate after a change of {file}", {item["id"]: item["state"] for item in gate["items"]}, wanted)
    expect("the gate", gate["gate"], "closed")
    named = {item["id"]: item["changed"] for item in gate["items"] if item["state"] == "stale"}
    expect("the file that each stale item names", named, {item: [f"{file} changed"] for item in named})
