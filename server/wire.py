"""What the SDK's stdio transport leaves unanswered: lines that are not JSON-RPC. A client would wait for ever."""

from __future__ import annotations

import json
import re
from typing import Any

from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from ..port.errors import PortError

_ID = re.compile(r'"id"\s*:\s*(-?\d{1,18}|"[^"\\]{1,200}")\s*[,}]')
_EDGE = 4096


def refusal(problem: Exception) -> JSONRPCError:
    """The answer to a line that could not be read, under the id of the request if that can be found."""
    line, read = _line(problem)
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else "it is not JSON"
        return _error(PARSE_ERROR, _found_id(line), reason, line)
    number = message.get("id") if isinstance(message, dict) else None
    known = number if isinstance(number, (int, str)) and not isinstance(number, bool) else None
    if not read and isinstance(message, dict) and message.get("jsonrpc") == "2.0" and "method" in message:
        reason = "it is nested more than 200 levels deep, or holds half of a surrogate pair"
        return _error(PARSE_ERROR, known, reason, line)
    reason = "it is not a JSON-RPC 2.0 message (jsonrpc is '2.0', method a text, params an object)"
    return _error(INVALID_REQUEST, known, reason, line)


def _line(problem: Exception) -> tuple[str, bool]:
    """The line that pydantic refused, and whether it could read it as JSON.

    It keeps a line that it cannot read beside its only error. Of one that it can, the whole stands beside the error
    that something is missing: no message is a request and an answer at once.
    """
    if not isinstance(problem, ValidationError):
        return "", False
    errors = problem.errors(include_url=False)
    found: Any = next((error for error in errors if error["type"] == "missing"), errors[0])["input"]
    if errors[0]["type"] == "json_invalid":
        return (found if isinstance(found, str) else found.decode("utf-8", "replace")), False
    try:
        return json.dumps(found), True
    except (TypeError, ValueError, RecursionError):
        return "", True


def _found_id(line: str) -> int | str | None:
    """The request's id, looked for at both ends of a line that cannot be parsed."""
    match = _ID.search(line[:_EDGE]) or _ID.search(line[-_EDGE:])
    if match is None:
        return None
    text = match.group(1)
    return text[1:-1] if text.startswith('"') else int(text)


def _error(code: int, number: int | str | None, reason: str, line: str) -> JSONRPCError:
    text = PortError(
        f"The message cannot be read: {reason}.",
        seen=f"{line[:80]!r} ({len(line):,} characters)",
        fix="Send one JSON-RPC 2.0 message per line, with arguments as the tool's schema says.",
    )
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=code, message=str(text)))
