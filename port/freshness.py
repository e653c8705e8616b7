"""Whether a measurement still holds: what it depends on, compared with what is there now."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .converted import why_unproven
from .errors import PortError
from .ledger import Entry
from .paths import open_regular
from .records import PortRecord
from .weights_identity import changed_since_fetched

_MOST = 5


def what_changed(entry: Entry, port: PortRecord) -> list[str]:
    """Sentences that name what changed since the entry was recorded; empty while it is fresh."""
    worktree = Path(port.worktree)
    changed = []
    for key, value in entry.depends_on.items():
        kind, _, name = key.partition(":")
        if kind in ("worktree", "adapter"):
            changed += file_changed(worktree / name, name, value)
        elif kind == "official" and port.official_repo is None:
            changed.append(f"official {name} is gone with the official repository")
        elif kind == "official":
            changed += file_changed(Path(str(port.official_repo)) / name, f"official {name}", value)
        elif kind == "path":
            changed += file_changed(Path(name), name, value)
        elif kind == "weights" and value != (port.weights.digest if port.weights else ""):
            changed.append("the official weights were fetched again and differ")
        elif kind == "weights" and port.weights and (swapped := changed_since_fetched(port.weights)):
            changed.append(_swapped(swapped))
        elif kind == "converted" and (port.converted is None or value != port.converted.digest):
            changed.append("the weights were converted again and differ")
        elif kind == "converted" and (why := why_unproven(port)):
            changed.append(f"the converted weights no longer count: {why}")
        elif kind == "plan" and value != _plan_of(port, entry.component):
            changed.append("the plan names other classes for this component")
    changed = list(dict.fromkeys(changed))  # an adapter may also be among the imported files
    return changed if len(changed) <= _MOST else [*changed[:_MOST], f"and {len(changed) - _MOST} more"]


def made_stale(evidence: list[str], port: PortRecord, entries: list[Entry]) -> list[str]:
    """What changed since the entries of the runs in ``evidence`` were recorded; empty while all of them are fresh."""
    found = [what_changed(entry, port) for entry in entries if entry.run_id in evidence]
    return list(dict.fromkeys(change for changes in found for change in changes))


def plan_digest(port: PortRecord, component: str) -> str:
    """What an entry keeps of the planned component: its classes, kind and adapter."""
    return _plan_of(port, component)


def _plan_of(port: PortRecord, component: str | None) -> str:
    planned = port.component(component) if component else None
    return hashlib.sha256(planned.model_dump_json().encode()).hexdigest() if planned else ""


def _swapped(names: list[str]) -> str:
    more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
    return f"{names[0]}{more} of the official weights changed after they were fetched (call fetch_weights again)"


def file_changed(path: Path, name: str, digest: str) -> list[str]:
    """What became of the file since its SHA-256 was ``digest``, as a sentence about ``name``; empty if nothing did."""
    if not path.exists():
        return [f"{name} is gone"]
    try:
        # Not just open(): a FIFO that took the file's place would make the gate wait for ever.
        with open_regular(path) as file:
            found = hashlib.sha256()
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except PortError as error:
        return [f"{name} cannot be read ({error.seen.removeprefix(f'{path}: ')})"]
    except OSError as error:
        return [f"{name} cannot be read ({error.strerror})"]
    return [] if found.hexdigest() == digest else [f"{name} changed"]
