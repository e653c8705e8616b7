"""A `ToolSpec` as an MCP tool: own argument checks, own error texts, progress, pictures."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import CallToolResult, ImageContent, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import PrivateAttr

from ..port.errors import PortError, sendable
from ..tools.base import Report, ToolContext, ToolResult, ToolSpec
from ..tools.picture import Picture
from .arguments import Signature, signature_of
from .asking import ask
from .outcome import payload_of
from .schema import compact_output

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

logger = logging.getLogger("fastvideo_port.server")

MAX_DESCRIPTION = 2000
"""Bytes: Claude Code cuts descriptions at 2 KB."""

_THREADS = 128
"""Calls that may wait at once. They wait on runs, so threads cost only memory; anyio's own limit is 40."""

_limiter: anyio.CapacityLimiter | None = None


class BoundTool(Tool):
    """An MCP tool that runs a `ToolSpec`.

    The SDK's `Tool.run` answers a wrong argument in pydantic's words, with the value repeated and a link, and prefixes
    every error with "Error executing tool NAME". Both waste the one text that an agent reads on failure, so this class
    checks and words everything itself.
    """

    _spec: ToolSpec = PrivateAttr()
    _signature: Signature = PrivateAttr()
    _context: ToolContext = PrivateAttr()

    @classmethod
    def of(cls, spec: ToolSpec, context: ToolContext) -> BoundTool:
        """Bind ``spec``; calls use ``context`` with their own progress callback.

        Raises:
            TypeError: The function's shape is not that of a tool.
        """
        signature = signature_of(spec)
        returns = signature.returns
        if not isinstance(returns, type) or not issubclass(returns, (ToolResult, Picture)):
            raise TypeError(f"{spec.name}: must return a ToolResult or a Picture, not {returns!r}")
        tool = cls(
            fn=spec.function,
            name=spec.name,
            title=spec.title,
            description=_description(spec),
            parameters=signature.input_schema(),
            fn_metadata=FuncMetadata(
                arg_model=ArgModelBase,
                output_schema=compact_output(returns) if issubclass(returns, ToolResult) else None,
            ),
            is_async=False,
            context_kwarg=None,
            annotations=ToolAnnotations(
                read_only_hint=spec.read_only,
                destructive_hint=spec.destructive,
                idempotent_hint=spec.idempotent,
                open_world_hint=spec.open_world,
            ),
        )
        tool._spec = spec
        tool._signature = signature
        tool._context = context
        return tool

    async def run(
        self,
        arguments: dict[str, Any],
        context: Context[Any, Any],
        convert_result: bool = False,
    ) -> Any:
        """Check the arguments, ask the person what the tool wants to know of them, run the function in a thread, return
        its result as a `CallToolResult`; or, in the newer protocol, the `InputRequiredResult` that asks.

        A cancelled call is left behind at once: what matters happens in runs, which do not depend on this process.

        Raises:
            ToolError: With the whole text that the model is to read.
        """
        try:
            checked = self._signature.check(arguments)
            call = replace(self._context, report=_forward_progress(context), resumed=context.request_state is not None)
            asks = self._spec.question
            if asks is not None:
                question = await _in_thread(lambda: asks(call, **checked))
                answer = await ask(context, question) if question is not None else None
                if isinstance(answer, InputRequiredResult):
                    return answer
                call = replace(call, answer=answer)
            result = await _in_thread(lambda: self._spec.function(call, **checked))
            return _as_content(result)
        except PortError as error:
            raise ToolError(str(error)) from error
        except Exception as error:
            raise ToolError(incident(self.name, error, self._context)) from error


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_thread_limiter())


def incident(name: str, error: BaseException, context: ToolContext) -> str:
    """Log ``error`` with its trace under a short id, and return what the client may know of it."""
    number = secrets.token_hex(4)
    logger.error("incident %s in %s", number, name, exc_info=error)
    return str(
        PortError(
            f"Something inside fastvideo-port failed in {name} (incident {number}). This is a defect of the server, "
            "not of your port.",
            seen=type(error).__name__,
            fix=f"Try once more. If it fails again, report the lines of incident {number} in "
            f"{context.home / 'server.log'}; do not treat this as a verdict.",
        )
    )


def _description(spec: ToolSpec) -> str:
    import inspect

    text = " ".join((inspect.getdoc(spec.function) or "").split("\n"))
    if not text or len(text.encode()) > MAX_DESCRIPTION:
        raise TypeError(f"{spec.name}: the docstring must have 1 to {MAX_DESCRIPTION} bytes")
    return text


def _thread_limiter() -> anyio.CapacityLimiter:
    global _limiter
    if _limiter is None:
        _limiter = anyio.CapacityLimiter(_THREADS)
    return _limiter


def _forward_progress(context: Context[Any, Any]) -> Report:
    """A callback for the tool's thread that passes progress on as MCP progress, which must increase."""
    last = -1.0

    def report(done: float, total: float | None = None, message: str = "") -> None:
        nonlocal last
        if not done > last:
            return
        last = done
        send: Callable[..., Any] = context.report_progress
        try:
            anyio.from_thread.run(send, done, total, sendable(message) or None)
        except Exception:
            # The client is gone or has cancelled. The work goes on; there is only nobody to tell.
            logger.debug("progress not delivered", exc_info=True)

    return report


def _as_content(result: Any) -> CallToolResult:
    """A picture as image content alone, because clients drop images beside structured content; else both forms."""
    if isinstance(result, Picture):
        import base64

        image = ImageContent(type="image", data=base64.b64encode(result.data).decode(), mime_type=result.mime)
        return CallToolResult(content=[image])
    import json

    payload = payload_of(result)
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=payload)
