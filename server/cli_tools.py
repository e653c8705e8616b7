"""Every tool as a sub-command, made from the same signature that clients see."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..port.errors import PortError
from ..port.home import state_home
from ..tools import ALL
from ..tools.base import ToolContext, ToolSpec
from ..tools.picture import Picture
from .arguments import Signature, signature_of

_WAIT_S = 45


def add_tool_commands(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per tool to ``parser``, which already has sub-commands."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for spec in ALL:
        command = commands.add_parser(
            spec.name.replace("_", "-"),
            help=spec.title.lower(),
            description=" ".join((spec.function.__doc__ or "").split()).replace("%", "%%"),
            allow_abbrev=False,
        )
        _add_arguments(command, signature_of(spec))
        command.add_argument("--json", action="store_true", dest="as_json", help="print the result as JSON")
        if spec.function.__annotations__.get("return") == "Picture":
            command.add_argument("--output", type=Path, dest="output", help="write the picture here")
        else:
            command.add_argument("--wait", action="store_true", help="wait for the run that the tool starts")
        command.set_defaults(spec=spec)


def _add_arguments(command: argparse.ArgumentParser, signature: Signature) -> None:
    schema = signature.input_schema()["properties"]
    for name, field in signature.parameters.items():
        kind = schema[name].get("type")
        meta = "JSON" if kind in ("object", None) else "ITEM" if kind == "array" else (kind or "").upper()
        help_text = (field.description or "").replace("%", "%%")
        if kind == "array":
            help_text += " Repeat the flag, or give a JSON list."
        command.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"argument_{name}",
            action="append",
            metavar=meta,
            required=field.is_required(),
            help=help_text,
        )


def run_tool_command(options: argparse.Namespace) -> int:
    """Run the chosen tool, print its result and return the exit code.

    Raises:
        PortError: The arguments or the tool; the caller prints it.
    """
    spec: ToolSpec = options.spec
    signature = signature_of(spec)
    try:
        checked = signature.check(_given(options, signature))
    except PortError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    context = ToolContext(home=state_home(), cwd=Path.cwd(), report=_Progress())
    result = spec.function(context, **checked)
    if isinstance(result, Picture):
        return _write_picture(result, options.output)
    payload = result.model_dump(mode="json")
    if options.wait:
        payload = _waited(context, payload)
    _show(spec, payload, as_json=options.as_json)
    return exit_code(spec.name, payload)


def _given(options: argparse.Namespace, signature: Signature) -> dict[str, Any]:
    """The flags as raw arguments: texts stay texts, everything else is read as JSON where it can be."""
    schema = signature.input_schema()["properties"]
    raw: dict[str, Any] = {}
    for name in signature.parameters:
        values: list[str] | None = getattr(options, f"argument_{name}")
        if values is None:
            continue
        kind = schema[name].get("type")
        flag = f"--{name.replace('_', '-')}"
        if kind == "array" and not (len(values) == 1 and values[0].lstrip().startswith("[")):
            raw[name] = [_json_or_text(value) for value in values] if _holds_objects(schema[name]) else values
        elif len(values) > 1:
            raise PortError(f"{flag} was given {len(values)} times.", fix="Give it once.")
        else:
            raw[name] = values[0] if kind == "string" else _json_or_text(values[0])
    return raw


def _holds_objects(schema: dict[str, Any]) -> bool:
    return bool(schema.get("items", {}).get("type") != "string")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class _Progress:
    """A line on stderr when something new is to be told.

    Where the end is not known, what has gone by (seconds, frames) is no news: only another message is.
    """

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        # Steps are counted; bytes are too many to read.
        share = "" if not total else f"[{done / total:.0%}] " if total > 100 else f"[{done:g}/{total:g}] "
        line = share + "".join(char for char in message if char.isprintable())
        if line != self._last:
            sys.stderr.write(f"{line}\n")
        self._last = line


def _waited(context: ToolContext, payload: dict[str, Any]) -> dict[str, Any]:
    """``payload``, or what the tool would have returned had it waited for its run."""
    from ..tools.run_status import run_status

    run_id = payload.get("run_id")
    while run_id and payload.get("state") in ("queued", "running"):
        payload = run_status(context, run_id, wait_s=_WAIT_S).model_dump(mode="json")
        if payload["result"]:
            return dict(payload["result"])
    return payload


def _write_picture(picture: Picture, output: Path | None) -> int:
    if output is None:
        raise PortError("A picture is not printed.", fix="Name a file: --output FILE.")
    try:
        output.write_bytes(picture.data)
    except OSError as error:
        raise PortError(
            "The picture cannot be written.", seen=f"{output}: {error.strerror}", fix="Name another --output."
        ) from error
    sys.stdout.write(f"{output} ({picture.mime}, {len(picture.data):,} bytes)\n")
    return 0


def _show(spec: ToolSpec, payload: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(payload, indent=2, ensure_ascii=True) + "\n")
        return
    from .console import show_result

    show_result(spec.title, payload)


def exit_code(tool: str, payload: dict[str, Any]) -> int:
    """What ``tool``'s result means to a script.

    0: it says pass, or has no verdict to give. 3: it says anything else, or nothing yet. 1: a run ended without result.
    """
    if tool == "cancel_run":
        return 0
    state = payload.get("state")
    if state in ("failed", "crashed", "cancelled") or (tool == "run_status" and payload.get("error")):
        return 1
    if state in ("queued", "running"):
        return 3
    if payload.get("verdict", "pass") != "pass" or payload.get("gate", "open") != "open":
        return 3
    inner = payload.get("result")
    return exit_code(str(payload.get("tool", "")), inner) if isinstance(inner, dict) else 0
