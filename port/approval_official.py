"""Whether code of the official repository may be executed."""

from __future__ import annotations

from pathlib import Path

from .approval_decisions import USED_KIND, decisions_of, standing
from .approval_policy import read_policy
from .approval_steps import RUN_OFFICIAL, official_content
from .errors import PortError
from .ledger import Ledger
from .records import PortRecord


def admit_official_code(home: Path, port: PortRecord) -> None:
    """Let a run execute the official repository's code as it stands, or say that a person has to agree first.

    An approval admits one state of the code, once and for all; it is used up by that. Does nothing unless the
    policy asks for it.

    Raises:
        PortError: No approval that counts.
    """
    policy = read_policy(home)
    if not policy.official_code or port.official_repo is None:
        return
    content = official_content(port)
    entries = Ledger(home).entries(port.port_id)
    if any(entry.kind == USED_KIND and entry.summary.get("digest") == content.digest for entry in entries):
        return
    found = standing(content, decisions_of(port.port_id, RUN_OFFICIAL, entries), policy)
    if found.state != "approved":
        raise PortError(
            "Running the official repository's code at this commit needs a person's approval.",
            seen=found.why,
            fix=f"Call request_approval with step_id={RUN_OFFICIAL!r}, then start the run again.",
        )
    Ledger(home).append(
        port_id=port.port_id,
        kind=USED_KIND,
        verdict="pass",
        run_id=f"{found.evidence[0]}.used",
        summary={"digest": content.digest, "step_id": RUN_OFFICIAL, "parts": content.parts},
        depends_on={"approval:content": content.digest},
    )
