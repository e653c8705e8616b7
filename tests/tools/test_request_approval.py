"""An approval of a mapping that the engine really proved: what it opens, what keeps it, what ends it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.approvals import Approvals
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.gate_status import gate_status
from fastvideo_port.tools.request_approval import request_approval

STEP = "mapping-transformer"
ADAPTER = "tests/local_tests/tiny/parity_transformer.py"


def proven(tiny: Any) -> Any:
    """The mapping measured anew; the entry in the ledger."""
    run = check_mapping(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
    assert tiny.ctx.runs.wait(run.run_id, 300).state == "done"
    gate_status(tiny.ctx, tiny.port_id)
    return tiny.entries()[-1]


def reviewed(tiny: Any) -> tuple[str, str]:
    """State and reason of the gate's first item."""
    item = gate_status(tiny.ctx, tiny.port_id).items[0]
    return item.state, item.why


def test_a_person_reviews_what_the_engine_proved(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVIDEO_PORT_HOME", str(tiny.ctx.home))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    with pytest.raises(PortError, match="nothing to approve yet"):
        request_approval(tiny.ctx, tiny.port_id, STEP, "Look.")
    entry = proven(tiny)
    assert entry.summary["rule_lines"] == [r"'^first\\.(.*)$' -> 'up.\\1'", r"'^second\\.(.*)$' -> 'down.\\1'"]
    status = gate_status(tiny.ctx, tiny.port_id)
    assert status.items[0].state == "needs_approval"
    assert "request_approval" in status.next_step and "run_component_parity" in status.next_step
    asked = request_approval(tiny.ctx, tiny.port_id, STEP, "Look.")
    assert asked.decision == "pending" and asked.approval_id
    # For a fresh shell, whatever this process finds on its PATH.
    program = shlex.quote(str(Path(sys.executable).with_name("fastvideo-port")))
    command = f"FASTVIDEO_PORT_HOME={shlex.quote(str(tiny.ctx.home))} {program}"
    assert asked.how == [f"In a terminal: {command} approve {asked.approval_id}",
                         f"In a browser: {command} page (prints the link)"]  # fmt: skip
    approvals = Approvals(tiny.ctx.home)
    view = approvals.view(approvals.get(asked.approval_id))
    assert view.content is not None
    assert ("Tensors proven by value", "6 of 6") in view.content.facts
    approvals.decide(
        asked.approval_id, approve=True, digest=view.content.digest, channel="command", asserted_by="terminal"
    )
    assert reviewed(tiny)[0] == "pass"
    assert request_approval(tiny.ctx, tiny.port_id, STEP, "Look.").decision == "approved"

    # An edit of a file that the mapping does not come from: stale until measured again, and then as approved.
    with tiny.edited("fastvideo/layers.py", "x + y", "y + x"):
        assert reviewed(tiny)[0] == "stale"
        proven(tiny)
        assert reviewed(tiny)[0] == "pass"
    # An edit of the rules that carries the same tensors elsewhere by another text is another mapping.
    with tiny.edited("fastvideo/tiny.py", r'r"^first\.(.*)$"', r'r"^first[.](.*)$"'):
        proven(tiny)
        state, why = reviewed(tiny)
        assert state == "stale" and "has changed since: rules" in why
    with tiny.edited(ADAPTER, '{"n": 3}', '{"n": 4}'):
        proven(tiny)
        state, why = reviewed(tiny)
        assert state == "stale" and "has changed since: adapter" in why
