"""`fastvideo-port approve`: a person looks at what is to be approved and decides, at a terminal.

The command wants a terminal on both sides, so that neither a pipe nor a tool's shell answers by accident. It does not
prove that a person sits there: an agent with a shell of the same user can open a pseudo-terminal. What holds against
that is outside of this program: run the agent as another user, or in a sandbox that cannot reach the state folder.
"""

from __future__ import annotations

import sys

from ..port.approval_content import as_text
from ..port.approvals import Approvals, View
from ..port.errors import PortError
from ..port.home import own_command, state_home
from ..port.textsafe import clean

_LONGEST_NOTE = 2000


def approve(approval_id: str | None, *, listed: bool = False, decline: bool = False, note: str = "") -> int:
    """List the requests, or show one and ask for the decision.

    Returns:
        Exit code: 0 decided as asked for (or listed), 3 not.

    Raises:
        PortError: There is no terminal, no such request, or it is not open to a decision.
    """
    approvals = Approvals(state_home())
    if listed or approval_id is None:
        return _list(approvals, pending_only=not listed)
    if len(note) > _LONGEST_NOTE:
        raise PortError("The note is too long.", seen=f"{len(note)} characters", fix=f"At most {_LONGEST_NOTE}.")
    view = approvals.view(approvals.get(approval_id))
    if view.content is None or view.state in ("superseded", "expired", "used"):
        raise PortError(
            "This request is not open to a decision.",
            seen=f"it is {view.state}: {view.why}",
            fix="Have it requested again (request_approval).",
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PortError(
            "An approval is typed by a person at a terminal.",
            seen="stdin or stdout is not a terminal",
            fix=f"Run {own_command('approve', approval_id)} in a terminal of your own, or open {own_command('page')}.",
        )
    sys.stdout.write(f"{_port_line(view)}\n\n{as_text(view.content, view.request.words)}\n\n")
    if view.decision is not None:
        sys.stdout.write(f"So far: {view.state} ({view.decision.channel}, {view.decision.decided_at[:16]} UTC).\n")
    wanted = "decline" if decline else "approve"
    sys.stdout.write(f"Type {wanted} to {wanted} this, anything else to leave it as it is: ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() != wanted:
        sys.stdout.write("Nothing was decided.\n")
        return 3
    view = approvals.decide(
        approval_id,
        approve=not decline,
        digest=view.content.digest,
        channel="command",
        asserted_by="terminal",
        note=clean(note).strip(),
    )
    sys.stdout.write(f"{approval_id} is {view.state}.\n")
    return 0 if view.state == ("declined" if decline else "approved") else 3


def _list(approvals: Approvals, *, pending_only: bool) -> int:
    views = approvals.views()
    shown = [view for view in views if view.state == "pending" or not pending_only]
    for view in shown:
        sys.stdout.write(f"{view.request.approval_id}  {view.state:<10}  {view.request.step_id}  {_port_line(view)}\n")
    if not shown:
        sys.stdout.write("Nothing waits for an approval.\n" if pending_only else "Nothing was ever requested.\n")
    elif pending_only:
        sys.stdout.write(f"Look at one and decide: {own_command('approve', 'ID')}\n")
    return 0


def _port_line(view: View) -> str:
    return f"{clean(view.port.model_name)} ({view.port.port_id}), branch {clean(view.port.branch)}"
