"""Requests for experiments and their answers, as files between the coordinator and the processes of the `lab`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ParityError
from .handover import announce

_IDLE_S = 900.0


def ask(
    shared: Path, number: int, action: str, request: dict[str, Any], alive: Callable[[], bool], side: str = "lab"
) -> dict[str, Any]:
    """Have a process do one experiment and return its answer; an ``error`` when the process is gone.

    Args:
        shared: Folder of the exchange.
        number: Counted from 1; 0 only waits for the process to be ready.
        action: ``keep``, ``heal``, ``arguments``, ``through``, ``trials`` (port), ``inject`` (official side), ``stop``.
        request: Arguments of the action.
        alive: Whether the process still runs.
        side: ``lab`` is the port's process, ``official`` the other.
    """
    if number:
        announce(shared / f"{side}.{number}.request", {"action": action, "request": request})
    reply = shared / f"{side}.{number}.reply"
    while not reply.exists():
        if not alive():
            return json.loads(reply.read_text()) if reply.exists() else {"error": "the process ended"}
        time.sleep(0.02)
    answer: dict[str, Any] = json.loads(reply.read_text())
    return answer


def serve(shared: Path, side: str, actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> int:
    """Do what is asked for until ``stop``, or until nobody has asked for a quarter of an hour.

    Args:
        shared, side: As for `ask`.
        actions: Action -> what does it; what it raises becomes the ``error`` of the answer.

    Returns:
        How many requests were answered.
    """
    number, since = 1, time.monotonic()
    while time.monotonic() - since < _IDLE_S:
        path = shared / f"{side}.{number}.request"
        if not path.exists():
            time.sleep(0.02)
            continue
        document = json.loads(path.read_text())
        if document["action"] == "stop":
            break
        try:
            answer = actions[document["action"]](document["request"])
        except (ParityError, RuntimeError, ValueError, TypeError, IndexError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        announce(shared / f"{side}.{number}.reply", answer)
        number, since = number + 1, time.monotonic()
    return number - 1
