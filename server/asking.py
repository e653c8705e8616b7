"""Asking the person at the client, in both protocol eras: a resolver with an elicitation."""

from __future__ import annotations

import hashlib
import hmac
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import (
    AcceptedElicitation,
    DeclinedElicitation,
    Elicit,
    Resolve,
    build_resolver_plans,
    resolve_arguments,
)
from mcp.server.request_state import AESGCMRequestStateCodec, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import InputRequiredResult
from pydantic import BaseModel, ConfigDict, Field

from ..port.ledger_head import make_key, read_key
from ..tools.base import Answer, Question

logger = logging.getLogger("fastvideo_port.server")

PATIENCE_S = 24 * 3600.0
"""How long a person may take to answer a dialogue of the newer protocol, in seconds."""


class Decision(BaseModel):
    """The form. The decision has no default: a client that accepts an empty form has decided nothing."""

    model_config = ConfigDict(extra="ignore")

    decision: Literal["approve", "decline"] = Field(title="Decision", description="approve or decline")
    note: str = Field(default="", max_length=2000, title="Note", description="A word to the agent (optional)")


def can_ask(context: Context[Any, Any]) -> bool:
    """Whether the client says that it can show a form. ``elicitation: {}`` is how that was said before modes."""
    capabilities = context.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def ask(context: Context[Any, Any], question: Question) -> Answer | InputRequiredResult:
    """Put the question.

    Returns:
        What came back; in the newer protocol first the result that makes the client ask and call again.
    """
    if not can_ask(context):
        return Answer("cannot-ask", message=question.message)

    async def person(context: Context[Any, Any]) -> Elicit[Decision]:
        return Elicit(question.message, Decision)

    resolved = {"answer": (Resolve(person), True)}
    try:
        outcome = await resolve_arguments(resolved, build_resolver_plans(resolved, set()), {}, context)
    except ToolError:
        return _answer(context, question, "unusable")
    except MCPError as error:
        # The client said that it can ask, and then answered with an error, or there is no way back to it.
        logger.info("elicitation failed: %s", error)
        return _answer(context, question, "cannot-ask")
    if isinstance(outcome, InputRequiredResult):
        return outcome
    answer = outcome["answer"]
    if isinstance(answer, AcceptedElicitation):
        return _answer(context, question, answer.data.decision, answer.data.note)
    return _answer(context, question, "refused" if isinstance(answer, DeclinedElicitation) else "dismissed")


def _answer(context: Context[Any, Any], question: Question, kind: Any, note: str = "") -> Answer:
    params = context.session.client_params
    seconds = (datetime.now(timezone.utc) - question.asked_at).total_seconds()
    return Answer(
        kind=kind,
        note=note,
        client=params.client_info.name if params is not None else "",
        seconds=max(0.0, seconds),
        message=question.message,
    )


class _Sealer:
    """The SDK's codec under a key that every server process of this state folder has, so that an answer survives a
    restart. Made on first use, because a server that never asks shall leave no key behind."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._codec: AESGCMRequestStateCodec | None = None

    def _ready(self) -> AESGCMRequestStateCodec:
        if self._codec is None:
            key = read_key(self._home) or make_key(self._home)
            # Derived for this purpose alone, so that nothing sealed for a client can pass for evidence.
            self._codec = AESGCMRequestStateCodec([hmac.new(key, b"request state", hashlib.sha256).digest()])
        return self._codec

    def seal(self, payload: bytes) -> str:
        """See the SDK's codec."""
        return self._ready().seal(payload)

    def unseal(self, token: str) -> bytes:
        """See the SDK's codec."""
        return self._ready().unseal(token)


def request_state_security(home: Path) -> RequestStateSecurity:
    """How questions of the newer protocol are sealed: a stable key, and a person's time to answer."""
    return RequestStateSecurity(codec=_Sealer(home), ttl=PATIENCE_S)
