"""Ask a person to approve a step. The agent asks; nothing that it can pass answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..port.approval_content import as_text
from ..port.approval_policy import read_policy
from ..port.approvals import Approvals, Request, stands_now
from ..port.errors import PortError
from ..port.home import own_command
from ..port.records import PortRecord
from ..port.textsafe import clean_argument, one_line
from ._approval_page import running_page
from ._settle import settle
from ._weights import try_settle_weights
from .base import Answer, Question, ToolContext, ToolResult, ToolSpec

FASTEST_READER_S = 1.5
"""A dialogue that is declined faster than this, in seconds, was declined by the client and not by a person."""

_DIALOGUE = 8000
"""Characters of a question; the command and the page show more."""


class RequestApprovalResult(ToolResult):
    """The decision, or how a person can decide."""

    decision: Literal["approved", "declined", "pending"]
    approval_id: str | None = Field(default=None, description="The request, while pending.")
    why: str = Field(description="Who decided and how, or why it is pending.")
    how: list[str] = Field(default=[], description="While pending: ways for a person to decide.")


def question(ctx: ToolContext, port_id: str, step_id: str, summary: str) -> Question | None:
    """What the person at the client is asked: the content built from evidence, then the agent's words.

    None when a person has decided on this content already, or the policy counts no answer from a client.
    """
    if not read_policy(ctx.home).counts("client"):
        return None
    request = _open_request(ctx, port_id, step_id, summary)
    if isinstance(request, RequestApprovalResult):
        return None
    approvals = Approvals(ctx.home)
    message = _message(approvals, request)
    if not ctx.resumed or request.asked_at is None:
        request = approvals.asked(request.approval_id)
    assert request.asked_at is not None
    return Question(message, request.asked_at)


def request_approval(
    ctx: ToolContext,
    port_id: Annotated[str, Field(description="From create_worktree.")],
    step_id: Annotated[str, Field(description="E.g. 'mapping-transformer'.")],
    summary: Annotated[str, Field(description="Your words to them.")],
) -> RequestApprovalResult:
    """Ask a person for approval (human review, sign-off) of a step. They see the evidence; only they decide."""
    request = _open_request(ctx, port_id, step_id, summary)
    if isinstance(request, RequestApprovalResult):
        return request
    policy = read_policy(ctx.home)
    if not policy.counts("client"):
        why = f"The client was not asked: the policy asks for {policy.minimum}."
    elif ctx.answer is None:
        why = "This client cannot ask a person."
    else:
        why = _enter(ctx, request, ctx.answer)
        state, said = stands_now(ctx.home, ctx.ports.working(port_id), step_id)
        if state in ("approved", "declined"):
            return _decided(state, said, step_id)
    return RequestApprovalResult(
        decision="pending",
        approval_id=request.approval_id,
        why=f"{why} The request ends on {request.expires_at.isoformat()[:16]} UTC.".strip(),
        how=_ways(ctx.home, request.approval_id),
        next_step=f"Tell the person how to decide, go on with work that does not need {step_id!r}, and call "
        "request_approval again later; it answers with the decision.",
    )


def _open_request(ctx: ToolContext, port_id: str, step_id: str, summary: str) -> Request | RequestApprovalResult:
    """The request that waits for the step's present content, or the result if that is decided already."""
    words = clean_argument("summary", summary)
    if not words:
        raise PortError("The summary is empty.", seen="summary=''", fix="Say what the person should look at, and why.")
    port: PortRecord = try_settle_weights(ctx, ctx.ports.working(port_id))
    settle(ctx, port_id)
    state, why = stands_now(ctx.home, port, step_id)
    if state in ("approved", "declined"):
        return _decided(state, why, step_id)
    return Approvals(ctx.home).request(port, step_id, words)


def _decided(state: str, why: str, step_id: str) -> RequestApprovalResult:
    if state == "approved":
        return RequestApprovalResult(
            decision="approved", why=why, next_step=f"Call update_step with step_id={step_id!r} and state='done'."
        )
    return RequestApprovalResult(
        decision="declined",
        why=why,
        next_step=f"Stop work on {step_id!r}: change what the person objects to, then ask again; the same content "
        f"stays declined unless they change their mind with {own_command('approve')}.",
    )


def _message(approvals: Approvals, request: Request) -> str:
    content = approvals.view(request).content
    if content is None:
        return ""
    text, whole = as_text(content, request.words, _DIALOGUE), as_text(content, request.words)
    more = "" if text == whole else f"; all of it: {own_command('approve', request.approval_id)}"
    return f"Please review before you approve. Request {request.approval_id}{more}\n\n{text}"


def _enter(ctx: ToolContext, request: Request, answer: Answer) -> str:
    """Enter the answer as the person's decision, if it is one; otherwise why it is none."""
    approve, why = _meaning(answer)
    if approve is None:
        return why
    approvals = Approvals(ctx.home)
    content = approvals.view(request).content
    if content is None or answer.message != _message(approvals, request):
        return "The content changed while the person was being asked; they have to see the new one."
    try:
        approvals.decide(
            request.approval_id,
            approve=approve,
            digest=content.digest,
            channel="client",
            asserted_by=one_line(answer.client) or "unnamed client",
            note=one_line(answer.note),
            seconds=round(answer.seconds, 3),
        )
    except PortError as error:  # decided elsewhere meanwhile
        return f"{error.what} {error.seen}".strip()
    return ""


def _meaning(answer: Answer) -> tuple[bool | None, str]:
    """Whether a person approved or declined; None with the reason when nobody is known to have decided."""
    if answer.kind == "approve":
        return True, ""
    if answer.kind == "decline" or (answer.kind == "refused" and answer.seconds >= FASTEST_READER_S):
        return False, ""
    reasons = {
        "refused": f"The client declined after {answer.seconds:.1f} s, faster than a person reads: taken as the "
        "client's own doing.",
        "dismissed": "The dialogue was closed without a decision.",
        "unusable": "The client accepted without filling in a decision: taken as the client's own doing.",
    }
    return None, reasons.get(answer.kind, "This client cannot ask a person.")


def _ways(home: Path, approval_id: str) -> list[str]:
    ways = [f"In a terminal: {own_command('approve', approval_id)}"]
    page = running_page(home)
    if page:
        ways.append(f"On the page, in the browser that it was opened in: {page}")
    else:
        ways.append(f"In a browser: {own_command('page')} (prints the link)")
    return ways


SPEC = ToolSpec(
    request_approval,
    title="Request approval",
    read_only=False,
    destructive=False,
    idempotent=True,
    open_world=False,
    question=question,
)
