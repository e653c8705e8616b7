"""Commands that repeat a port's measurements, for whoever doubts them."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..port.home import home_setting, program
from ..port.plan_steps import default_adapter
from ..port.records import PortRecord
from ..runs.models import Run
from ._settle import EVIDENCE

_FETCHES = ("fetch_official_repo", "fetch_weights")


def commands_of(home: Path, port: PortRecord, runs: list[Run], *, checked: bool) -> Iterator[str]:
    """Lines for a fresh shell: the state folder, the plain tests, each measurement of ``runs``, and the gate.

    Args:
        home: The state folder.
        port: The port.
        runs: The runs to repeat, in the order in which they were started.
        checked: Whether check_integration, which leaves no run, was called.
    """
    measured = [line for run in runs if (line := command_of(port, run))]
    if not measured and not checked:
        return
    if setting := home_setting(home):
        yield f"export {setting}"
    worktree = Path(port.worktree)
    tests = [Path(item.adapter).parent / f"test_{item.name}_parity.py" for item in port.components]
    # The plain tests need nothing of ours.
    here = [path.as_posix() for path in tests if (worktree / path).is_file()]
    if here:
        yield shlex.join(["cd", port.worktree]) + " && " + shlex.join([port.python, "-m", "pytest", *here])
    yield from measured
    for tool in (*(["check_integration"] if checked else []), "gate_status"):
        yield _line(tool, [f"--port-id={port.port_id}", "--wait"])


def command_of(port: PortRecord, run: Run) -> str:
    """The line that makes the call that started ``run`` once more; empty for a tool that measures nothing."""
    from . import ALL

    spec = next((spec for spec in ALL if spec.name == run.tool and run.tool in (*EVIDENCE, *_FETCHES)), None)
    if spec is None:
        return ""
    words = [f"--port-id={port.port_id}"]
    for name, parameter in inspect.signature(spec.function).parameters.items():
        value = run.arguments.get(name) if name not in ("ctx", "port_id", "wait_s") else None
        if name == "adapter" and value is not None:
            value = _unplanned(port, run)
        if value is None and parameter.default is inspect.Parameter.empty and name not in ("ctx", "port_id"):
            return ""  # a run of an earlier version, which did not keep it
        if value is not None and value != parameter.default:
            words += _flags(f"--{name.replace('_', '-')}", value)
    return _line(spec.name, [*words, "--wait"])


def _line(tool: str, words: list[str]) -> str:
    return f"{program()} {shlex.join([tool.replace('_', '-'), *words])}"


def _flags(flag: str, value: Any) -> list[str]:
    """One word for each value: apart from its flag, a value that begins with a dash would be taken for another."""
    values = value if isinstance(value, list) else [value]
    texts = [item if isinstance(item, str) else json.dumps(item) for item in values]
    if isinstance(value, list) and len(texts) == 1 and texts[0].lstrip().startswith("["):
        texts = [json.dumps(texts)]  # alone it would be read as the list itself
    return [f"{flag}={text}" for text in texts]


def _unplanned(port: PortRecord, run: Run) -> str | None:
    """The adapter below the worktree, if it is not the planned one, which need not be named."""
    component = port.component(str(run.arguments.get("component")))
    planned = component.adapter if component else default_adapter(port.slug, "pipeline")
    path, worktree = Path(run.arguments["adapter"]), Path(port.worktree).resolve()
    if path == (worktree / planned).resolve():
        return None
    return path.relative_to(worktree).as_posix() if path.is_relative_to(worktree) else str(path)
