"""Requests for a person's approval, and the decisions on them.

A request waits in the state folder's database. Nothing in its row is trusted: what is shown and approved is built anew
from the evidence each time, and only a decision in the signed ledger counts. There is no way from an agent's arguments
to `Approvals.decide`: the client's dialogue, the command and the page call it, and no tool does so on its own account.

What this cannot do: the ledger's key lies in this user's state folder. A process that runs as the same user and sets
out to forge (read the key, drive a terminal, click in the page) is not kept from it by anything here. What is kept is
that no tool gives an approval, and that each decision says through which channel it came.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from .approval_content import Content
from .approval_decisions import KIND, Decision, decisions_of, ends, read_decision, standing
from .approval_policy import Channel, read_policy
from .approval_steps import content_of_step
from .database import transaction
from .errors import PortError
from .home import own_command
from .ledger import Entry, Ledger
from .records import PortRecord, PortStore, new_id

ApprovalState = Literal["pending", "approved", "declined", "expired", "used", "superseded"]
MAX_NOTE = 2000


class Request(BaseModel):
    """A question to a person."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approval_id: str
    port_id: str
    step_id: str
    digest: str = Field(description="Of the content when it was asked for; another content supersedes the request.")
    words: str = Field(description="The agent's own words.")
    created_at: AwareDatetime
    expires_at: AwareDatetime
    asked_at: AwareDatetime | None = Field(default=None, description="When a client was last asked.")


@dataclass(frozen=True)
class View:
    """A request as it stands now.

    Attributes:
        request, port: What is asked, and for which port.
        content: What it is of now; none where nothing is there that could be approved.
        state: See ``ApprovalState``.
        why: A sentence.
        decision: The last decision on it.
    """

    request: Request
    port: PortRecord
    content: Content | None
    state: ApprovalState
    why: str
    decision: Decision | None = None


class Approvals:
    """The approvals of a state folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ledger = Ledger(home)

    def request(self, port: PortRecord, step_id: str, words: str) -> Request:
        """Ask for an approval of the step's present content; a request that waits for the same is returned as it is.

        Raises:
            PortError: The step cannot be approved, now or at all; see ``content_of_step``.
        """
        policy = read_policy(self.home)
        content = content_of_step(port, self.ledger.entries(port.port_id), step_id, policy)
        for known in self.requests(port.port_id):
            same = (known.step_id, known.digest, known.words) == (step_id, content.digest, words)
            if same and self.view(known).state == "pending":
                return known
        created = datetime.now(timezone.utc)
        request = Request(
            approval_id=new_id("approval"),
            port_id=port.port_id,
            step_id=step_id,
            digest=content.digest,
            words=words,
            created_at=created,
            expires_at=created + timedelta(days=policy.days),
        )
        with transaction(self.home) as db:
            db.execute(
                "INSERT INTO approvals (approval_id, port_id, step_id, record) VALUES (?, ?, ?, ?)",
                (request.approval_id, request.port_id, request.step_id, request.model_dump_json()),
            )
        return request

    def asked(self, approval_id: str) -> Request:
        """Note that a client is being asked now."""
        request = self.get(approval_id).model_copy(update={"asked_at": datetime.now(timezone.utc)})
        with transaction(self.home) as db:
            db.execute(
                "UPDATE approvals SET record = ? WHERE approval_id = ?", (request.model_dump_json(), approval_id)
            )
        return request

    def requests(self, port_id: str | None = None) -> list[Request]:
        """The requests of a port or of all ports, the newest first; rows that are none are left out."""
        with transaction(self.home) as db:
            rows = db.execute(
                "SELECT approval_id, port_id, step_id, record FROM approvals ORDER BY sequence DESC"
            ).fetchall()
        found = [request for row in rows if (request := _read(row)) is not None]
        return [request for request in found if port_id in (None, request.port_id)]

    def get(self, approval_id: str) -> Request:
        """The request called ``approval_id``.

        Raises:
            PortError: There is none.
        """
        known = self.requests()
        for request in known:
            if request.approval_id == approval_id:
                return request
        raise PortError(
            "There is no request for approval with this id.",
            seen=f"{approval_id[:80]!r}; {len(known)} known",
            fix=f"List them: {own_command('approve', '--list')}",
        )

    def views(self) -> list[View]:
        """Every request as it stands now, the newest first; those of ports that are gone are left out.

        Raises:
            PortError: The ledger is damaged.
        """
        ports = {port.port_id for port in PortStore(self.home).list()}
        return [self.view(request) for request in self.requests() if request.port_id in ports]

    def view(self, request: Request) -> View:
        """The request as it stands now.

        Raises:
            PortError: Its port is gone, or the ledger is damaged.
        """
        port = PortStore(self.home).get(request.port_id)
        entries = self.ledger.entries(port.port_id)
        policy = read_policy(self.home)
        try:
            content = content_of_step(port, entries, request.step_id, policy)
        except PortError as error:
            content, missing = None, f"{error.what} {error.seen}".strip()
        decision = _last_decision(request, entries)
        at = datetime.now(timezone.utc)

        def stands(state: ApprovalState, why: str) -> View:
            return View(request, port, content, state, why, decision)

        if decision is not None and not decision.approved:
            return stands("declined", decision.note or "A person declined it.")
        if decision is not None and any(e.run_id == f"{request.approval_id}.used" for e in entries):
            return stands("used", "It was approved and has served its purpose.")
        if content is None:
            return stands("superseded", missing)
        if content.digest != (decision or request).digest:
            return stands("superseded", "The content has changed since; ask again.")
        end = ends(decision, policy) if decision else request.expires_at
        if at >= end:
            return stands("expired", f"It expired on {end.isoformat()[:16]} UTC.")
        if decision is not None:
            return stands("approved", f"Approved through the {decision.channel}.")
        newer = next(known for known in self.requests(port.port_id) if known.step_id == request.step_id)
        if newer.approval_id != request.approval_id:
            return stands("superseded", f"{newer.approval_id} asks for the same step.")
        return stands("pending", "It waits for a person.")

    def decide(
        self,
        approval_id: str,
        *,
        approve: bool,
        digest: str,
        channel: Channel,
        asserted_by: str,
        note: str = "",
        seconds: float | None = None,
    ) -> View:
        """Enter a person's decision in the ledger.

        A client decides a pending request only. At a terminal or on the page a person may also change an earlier
        decision on the same content.

        Args:
            approval_id: The request.
            approve: Or decline.
            digest: Of the content that the person was shown.
            channel: Where the decision came in.
            asserted_by: Who says that a person decided.
            note: The person's own words.
            seconds: From question to answer, where we asked.

        Raises:
            PortError: The content is no longer the one that was shown, or the request is not open to a decision.
        """
        request = self.get(approval_id)
        view = self.view(request)
        content = view.content
        if content is None or not secrets.compare_digest(content.digest, digest) or content.digest != request.digest:
            raise PortError(
                "What was shown is not what stands there now, so nothing was decided.",
                seen=view.why if content is None or content.digest != request.digest else "another content was shown",
                fix="Have it requested again (request_approval) and look at it anew.",
            )
        open_to = ("pending",) if channel == "client" else ("pending", "approved", "declined")
        if view.state not in open_to:
            raise PortError(
                "This request is not open to a decision.",
                seen=f"it is {view.state}: {view.why}",
                fix="Have it requested again with request_approval.",
            )
        if view.decision is not None and view.decision.approved == approve and view.decision.channel == channel:
            return view
        entries = self.ledger.entries(request.port_id)
        count = sum(entry.kind == KIND and entry.run_id.startswith(f"{approval_id}.") for entry in entries)
        decided = datetime.now(timezone.utc)
        decision = Decision(
            approval_id=approval_id,
            step_id=request.step_id,
            digest=content.digest,
            parts=content.parts,
            approved=approve,
            channel=channel,
            asserted_by=asserted_by[:100],
            seconds=seconds,
            note=note[:MAX_NOTE],
            decided_at=decided.isoformat(timespec="microseconds"),
            expires_at=(decided + timedelta(days=read_policy(self.home).days)).isoformat(timespec="microseconds"),
            nonce=secrets.token_hex(8),
        )
        entry = self.ledger.append(
            port_id=request.port_id,
            kind=KIND,
            verdict="pass" if approve else "fail",
            run_id=f"{approval_id}.{count + 1}",
            summary=decision.model_dump(),
            depends_on={"approval:content": content.digest},
            component=request.step_id.removeprefix("mapping-") if request.step_id.startswith("mapping-") else None,
        )
        if entry.summary.get("nonce") != decision.nonce:
            raise PortError(
                "Somebody else decided this request at the same moment.",
                seen=f"{approval_id}: {'approved' if entry.verdict == 'pass' else 'declined'}",
                fix="Look at it again.",
            )
        return self.view(request)


def stands_now(home: Path, port: PortRecord, step_id: str) -> tuple[str, str]:
    """State (see ``Standing``) and reason of the step's present content.

    Raises:
        PortError: See ``content_of_step``.
    """
    policy = read_policy(home)
    entries = Ledger(home).entries(port.port_id)
    content = content_of_step(port, entries, step_id, policy)
    found = standing(content, decisions_of(port.port_id, step_id, entries), policy)
    return found.state, found.why


def _last_decision(request: Request, entries: list[Entry]) -> Decision | None:
    found = [read_decision(entry) for entry in entries]
    mine = [decision for decision in found if decision and decision.approval_id == request.approval_id]
    return mine[-1] if mine else None


def _read(row: tuple[str, str, str, str]) -> Request | None:
    try:
        request = Request.model_validate_json(row[3])
    except ValidationError:
        return None
    return request if (request.approval_id, request.port_id, request.step_id) == tuple(row[:3]) else None
