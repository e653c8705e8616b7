"""Lies planted into the store, to see that the table turns red."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastvideo_port.runs import processes, recover, store
from fastvideo_port.runs.models import RunError
from fastvideo_port.runs.outcome import Outcome, settled


def _crashed(*_: Any) -> Outcome:
    return Outcome("crashed", RunError(what="The supervisor of this run died.", fix="Start the run again."), None)


def _settled_without(**fields: Any) -> Callable[..., Any]:
    return lambda *arguments: settled(*arguments).model_copy(update=fields)


PLANTS: dict[str, Iterable[tuple[Any, str, Any]]] = {
    "says done": [(recover, "judge", lambda *_: Outcome("done", None, None))],
    "loses results": [(recover, "judge", _crashed)],
    "invents values": [(store.RunStore, "value", lambda *_: {"token": "invented"})],
    "gives no reason": [(recover, "settled", _settled_without(error=None))],
    "forgets progress": [(recover, "settled", _settled_without(progress=None))],
    "forgets the log": [(store.RunStore, "log_tail", lambda *_: "")],
    "leaves processes": [(processes, "end_marked", lambda *_: 0)],
    "loses other runs": [(store, "read_result", lambda *_: (None, None, ""))],
}
"""Name to what is put in the place of what: (owner, attribute, value). The process that asks is the one that lies."""
