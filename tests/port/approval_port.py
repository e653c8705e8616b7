"""A port on record with one component whose mapping was proven: what approvals are of, without running the engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fastvideo_port.port.freshness import plan_digest
from fastvideo_port.port.ledger import Entry, Ledger
from fastvideo_port.port.records import ComponentRecord, PortRecord, PortStore, new_id, now

ADAPTER = "tests/parity_transformer.py"
STEP = "mapping-transformer"


def make_port(home: Path, worktree: Path, **changed: Any) -> PortRecord:
    """A port of one DiT in ``worktree``."""
    (worktree / "fastvideo").mkdir(parents=True, exist_ok=True)
    (worktree / "fastvideo/dit.py").write_text("code")
    (worktree / ADAPTER).parent.mkdir(exist_ok=True)
    (worktree / ADAPTER).write_text("adapter")
    fields: dict[str, Any] = {
        "port_id": new_id("port"),
        "model_name": "Wan",
        "slug": "wan",
        "worktree": str(worktree),
        "branch": "codex/port-wan",
        "base_commit": "c" * 40,
        "mode": "worktree",
        "repository": "/r",
        "python": "/p",
        "components": [
            ComponentRecord(name="transformer", kind="dit", official="o.A", port="fastvideo.B", adapter=ADAPTER)
        ],
        "created_at": now(),
    }
    port = PortRecord(**{**fields, **changed})
    PortStore(home).add(port)
    return port


def prove(home: Path, port: PortRecord, *, rules: tuple[str, ...] = ("'^a$' -> 'b'",), **changed: Any) -> Entry:
    """Enter in the ledger what check_mapping enters for a mapping that passes on the files as they are now."""
    worktree = Path(port.worktree)
    unused: list[str] = changed.pop("unused", [])
    summary = {
        "why": "",
        "tensors": [6, 6],
        "parameters": [64, 64],
        "unused_on_purpose": len(unused),
        "unused_names": unused,
        "unused_patterns": {},
        "rule_lines": list(rules),
        "rules_digest": hashlib.sha256(json.dumps(rules).encode()).hexdigest(),
        "rules": len(rules),
        "how": {"rule": 6},
        "arrivals": hashlib.sha256(repr((rules, unused)).encode()).hexdigest(),
    }

    def digest(path: str) -> str:
        return hashlib.sha256((worktree / path).read_bytes()).hexdigest()

    values: dict[str, Any] = {
        "port_id": port.port_id,
        "kind": "check_mapping",
        "component": "transformer",
        "verdict": "pass",
        "run_id": new_id("run"),
        "summary": summary,
        "depends_on": {
            "worktree:fastvideo/dit.py": digest("fastvideo/dit.py"),
            f"adapter:{ADAPTER}": digest(ADAPTER),
            "weights": "",
            "plan": plan_digest(port, "transformer"),
        },
    }
    return Ledger(home).append(**{**values, **changed})
