"""The official code of a port: what was fetched, whether it still is that, and what a person has to approve of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .errors import PortError
from .official_clone import check_clone, differences
from .records import PortRecord

RUN_OFFICIAL_CODE = "run-official-code"
"""Step id of the approval that the first execution of the official code at a commit needs, where the policy asks."""


def official_code_digest(port: PortRecord) -> str | None:
    """What an approval of ``RUN_OFFICIAL_CODE`` is bound to: the commit, and everything that was changed since.

    The same for every clone of a commit that was left as it was fetched; another one as soon as a file of the clone
    is changed, added or removed. None where no official code was fetched, so that there is nothing to approve.

    Raises:
        PortError: The clone is gone, or is not at its commit.
    """
    if port.official_repo is None or port.official_commit is None:
        return None
    folder = Path(port.official_repo)
    check_clone(folder, port.official_commit)
    content = [port.official_commit, sorted(differences(folder, port.official_commit).items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def official_code_summary(port: PortRecord) -> str:
    """What a person is asked, in one sentence; empty where there is nothing to approve."""
    if port.official_repo is None or port.official_commit is None:
        return ""
    changed = differences(Path(port.official_repo), port.official_commit)
    edits = f", with {len(changed)} files changed since" if changed else ""
    return f"Run code of {port.official_url} at commit {port.official_commit}{edits}, with your user's rights."


def require_official_code(port: PortRecord) -> None:
    """Called before anything is started that imports the official code: the one place where an approval is asked for.

    Here stands what needs no person: the clone is the one that was fetched. Whoever keeps approvals compares
    ``official_code_digest(port)`` with the digest approved for ``RUN_OFFICIAL_CODE`` behind this check.

    Raises:
        PortError: The recorded clone is gone or at another commit.
    """
    if port.official_repo is None or port.official_commit is None:
        return
    folder = Path(port.official_repo)
    if not folder.is_dir():
        raise PortError(
            "The official clone is gone.",
            seen=str(folder),
            fix="Call fetch_official_repo again with the same url; the commit is recorded.",
        )
    check_clone(folder, port.official_commit)
