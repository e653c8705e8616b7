"""Whether it is fixed which official code the port is measured against."""

from __future__ import annotations

from .ledger import Entry
from .records import PortRecord

_COMPARED = ("component_parity", "check_scheduler")


def official_lacks(port: PortRecord, entries: list[Entry]) -> str:
    """What the step ``fetch-official`` still lacks, as a sentence; empty when it is settled.

    It is by a clone at one commit, or, where no repository was fetched, by the versions of the installed packages that
    the newest comparison of every component recorded.
    """
    if port.official_commit:
        return ""
    if port.official_repo or not port.components:
        return "fetch_official_repo has not recorded a commit."
    versions: dict[str, set[str]] = {}
    for component in port.components:
        package = component.official.partition(".")[0]
        mine = [e for e in entries if e.kind in _COMPARED and e.component == component.name]
        version = mine[-1].depends_on.get(f"environment:official.{package}") if mine else None
        if version is None:
            return (
                f"fetch_official_repo has not recorded a commit, and no run has recorded a version of {package}, where "
                f"the official class of {component.name} is."
            )
        versions.setdefault(package, set()).add(version)
    mixed = [f"{package} {' and '.join(sorted(found))}" for package, found in versions.items() if len(found) > 1]
    return f"The components were measured against different versions: {', '.join(mixed)}." if mixed else ""
