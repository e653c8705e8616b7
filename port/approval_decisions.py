"""Decisions of people, as the signed ledger has them, and whether one of them still counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .approval_content import Content
from .approval_policy import Channel, Policy
from .ledger import Entry

KIND = "approval"
USED_KIND = "approval_used"


class Decision(BaseModel):
    """What a person decided.

    Attributes:
        approval_id: The request.
        step_id, digest, parts: What it is of; see ``Content``.
        approved: Or declined.
        channel: How it came in; its strength.
        asserted_by: Who says that a person decided: the client's name, the terminal, the page.
        seconds: From the question to the answer, where the question was asked by us.
        note: The person's own words.
        decided_at, expires_at: ISO 8601, UTC.
        nonce: Tells this decision from one that was entered at the same moment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    approval_id: str
    step_id: str
    digest: str
    parts: dict[str, str]
    approved: bool
    channel: Channel
    asserted_by: str
    seconds: float | None
    note: str
    decided_at: str
    expires_at: str
    nonce: str


def decisions_of(port_id: str, step_id: str, entries: list[Entry]) -> list[Decision]:
    """The decisions on a step of a port, oldest first, out of its verified ledger entries."""
    found = []
    for entry in entries:
        decision = read_decision(entry)
        if decision is not None and entry.port_id == port_id and decision.step_id == step_id:
            found.append(decision)
    return found


def read_decision(entry: Entry) -> Decision | None:
    """The decision that an entry holds, or none if it is no decision."""
    if entry.kind != KIND:
        return None
    try:
        decision = Decision.model_validate(entry.summary)
    except ValidationError:
        return None  # by another version; it does not count here
    fits = entry.run_id.rpartition(".")[0] == decision.approval_id
    return decision if fits and (entry.verdict == "pass") == decision.approved else None


@dataclass(frozen=True)
class Standing:
    """Whether a person's approval of exactly this content counts now.

    Attributes:
        state: ``approved``; or ``none``, ``declined``, ``stale`` (another content was approved), ``expired``, ``weak``.
        why: A sentence.
        evidence: The id of the approval that decides, if one does.
    """

    state: Literal["approved", "none", "declined", "stale", "expired", "weak"]
    why: str
    evidence: tuple[str, ...] = ()


def standing(content: Content, decisions: list[Decision], policy: Policy, at: datetime | None = None) -> Standing:
    """How ``content`` stands with the decisions on its step, oldest first.

    The last decision on this content decides; a decline takes back every approval before it. A weaker approval does
    not replace a stronger one that still counts.
    """
    at = at or datetime.now(timezone.utc)
    same = [decision for decision in decisions if decision.digest == content.digest]
    if not same:
        return _of_another(content, decisions)
    last = same[-1]
    if not last.approved:
        said = f": {last.note}" if last.note else ""
        return Standing("declined", f"declined by a person ({last.channel}){said}", (last.approval_id,))
    since: list[Decision] = []
    for decision in same:
        since = [*since, decision] if decision.approved else []
    valid = [decision for decision in since if at < ends(decision, policy)]
    strong = [decision for decision in valid if policy.counts(decision.channel)]
    if strong:
        best = strong[-1]
        claim = f"client-asserted, by {best.asserted_by}" if best.channel == "client" else best.channel
        return Standing("approved", f"approved ({claim}) on {best.decided_at[:10]}", (best.approval_id,))
    if valid:
        why = f"approved through the {last.channel} only; the policy asks for {policy.minimum}"
        return Standing("weak", why, (valid[-1].approval_id,))
    when = max(ends(decision, policy) for decision in since)
    return Standing("expired", f"its approval expired on {when.isoformat()[:16]} UTC", (last.approval_id,))


def ends(decision: Decision, policy: Policy) -> datetime:
    """When the decision ceases to count: as it was entered, or sooner where the policy has become stricter."""
    decided = datetime.fromisoformat(decision.decided_at)
    return min(datetime.fromisoformat(decision.expires_at), decided + timedelta(days=policy.days))


def _of_another(content: Content, decisions: list[Decision]) -> Standing:
    if not decisions:
        return Standing("none", "no person has approved it")
    last = decisions[-1]
    if not last.approved:
        return Standing("none", "what a person declined was another content; nobody has decided on this one")
    changed = ", ".join(content.changed_parts(last.parts)) or "its criterion"
    return Standing("stale", f"what was approved has changed since: {changed}", (last.approval_id,))
