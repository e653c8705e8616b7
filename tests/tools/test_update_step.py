"""update_step moves a step by evidence, writes PLAN.md, and stops where a person said no."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.approvals import Approvals
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.gate_status import gate_status
from fastvideo_port.tools.request_approval import request_approval
from fastvideo_port.tools.update_step import UpdateStepResult, update_step
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

_file = Path(__file__).parents[1] / "port" / "approval_port.py"
_spec = importlib.util.spec_from_file_location("_approval_port", _file)
assert _spec is not None and _spec.loader is not None
made: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
STEP = made.STEP


class Planned:
    """A port with a plan."""

    def __init__(self, home: Path, worktree: Path) -> None:
        self.ctx = ToolContext(home=home, cwd=home)
        self.port_id = made.make_port(home, worktree).port_id
        self.worktree = worktree
        self.plan()

    def plan(self) -> None:
        """Write the plan (again)."""
        component = PlanComponent(
            name="transformer", kind="dit", official="o.A", port="fastvideo.B", adapter=made.ADAPTER
        )
        write_plan(self.ctx, self.port_id, "The network.", [component])

    def prove(self, **more: Any) -> Any:
        """The mapping is proven."""
        return made.prove(self.ctx.home, self.ctx.ports.get(self.port_id), **more)

    def decide(self, approve: bool) -> None:
        """A person decides on the mapping at a terminal."""
        asked = request_approval(self.ctx, self.port_id, STEP, "Look.")
        approvals = Approvals(self.ctx.home)
        view = approvals.view(approvals.get(str(asked.approval_id)))
        assert view.content is not None
        approvals.decide(
            view.request.approval_id,
            approve=approve,
            digest=view.content.digest,
            channel="command",
            asserted_by="terminal",
        )

    def move(self, step: str, state: Any, **more: Any) -> UpdateStepResult:
        """Call the tool."""
        return update_step(self.ctx, self.port_id, step, state, **more)

    def line(self, step: str) -> str:
        """The step's line in PLAN.md."""
        lines = (self.worktree / "PLAN.md").read_text().splitlines()
        return next(line for line in lines if f"`{step}`" in line and line.startswith("- ["))


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """A port with a plan and no evidence."""
    (tmp_path / "home").mkdir()
    return Planned(tmp_path / "home", tmp_path / "worktree")


def test_a_mapping_is_done_when_it_is_proven_and_reviewed_and_not_before(planned: Planned) -> None:
    found = planned.move(STEP, "done")
    assert not found.moved and found.step.state == "todo" and "has not been run" in found.blocked_by[0]
    proof = planned.prove()
    found = planned.move(STEP, "done", run_ids=[proof.run_id])
    assert not found.moved and found.step.state == "in_progress"
    assert any("no person has approved" in reason for reason in found.blocked_by)
    assert "request_approval" in found.next_step and planned.line(STEP).startswith("- [ ]")
    planned.decide(True)
    found = planned.move(STEP, "done", run_ids=[proof.run_id], note="Rules as in Wan.")
    assert found.moved and found.step.state == "done" and found.blocked_by == []
    assert planned.line(STEP).startswith("- [x]")
    assert "  - Note: Rules as in Wan.\n" in (planned.worktree / "PLAN.md").read_text()
    (planned.worktree / made.ADAPTER).write_text("edited")
    found = planned.move(STEP, "done")
    assert not found.moved and found.step.state == "claimed" and "changed since" in " ".join(found.blocked_by)


def test_a_declined_approval_stops_the_step(planned: Planned) -> None:
    planned.prove()
    planned.decide(False)
    for state in ("in_progress", "claimed", "done"):
        found = planned.move(STEP, state)
        assert not found.moved and "A person stopped this step" in found.blocked_by[0]
        assert "do not go on" in found.next_step and planned.line(STEP).startswith("- [ ]")
    assert planned.move(STEP, "todo").step.state == "in_progress"  # a proof is there; what was measured is said
    planned.prove(rules=("'^other$' -> 'rule'",))
    assert not any("stopped" in reason for reason in planned.move(STEP, "done").blocked_by)


@pytest.mark.parametrize("step", ["settle-risks", "adapter-transformer"])
def test_a_step_that_no_tool_measures_is_claimed(planned: Planned, step: str) -> None:
    found = planned.move(step, "done")
    assert not found.moved and found.step.state == "claimed" and found.blocked_by
    assert planned.line(step).startswith("- [x]")
    planned.plan()  # writing the plan again keeps the claim
    assert planned.line(step).startswith("- [x]")
    found = planned.move(step, "in_progress")
    assert found.moved and planned.line(step).startswith("- [ ]")
    found = planned.move(step, "todo")
    assert planned.line(step).startswith("- [ ]") and (found.step.state == "todo" or step.startswith("adapter"))


@pytest.mark.parametrize(
    "step",
    [
        "parity-transformer",
        "ssim",
        "pipeline-parity",
        "open-gate",
        "example",
        "docs",
        "fetch-official",
        "wire-config",
        "wire-stages",
        "wire-registry",
        "test-transformer",
    ],
)
def test_a_measured_step_does_not_move_by_words(planned: Planned, step: str) -> None:
    found = planned.move(step, "done", note="I ran it, it is equal.")
    assert not found.moved and found.step.state == "todo" and found.blocked_by
    assert planned.line(step).startswith("- [ ]")
    claimed = planned.move(step, "claimed")
    assert claimed.step.state == "claimed" and claimed.blocked_by
    assert gate_status(planned.ctx, planned.port_id).gate == "closed"


def test_runs_that_are_named_as_proof_are_looked_at(planned: Planned) -> None:
    failed = planned.prove(verdict="fail")
    passed = planned.prove()
    planned.decide(True)
    found = planned.move(STEP, "done", run_ids=["run-0", failed.run_id, passed.run_id])
    assert not found.moved and len(found.blocked_by) == 2
    assert "run-0 is no run of this port" in found.blocked_by[0] and "says fail" in found.blocked_by[1]
    assert planned.move(STEP, "done", run_ids=[passed.run_id]).moved


def test_what_a_person_wrote_in_the_plan_stays(planned: Planned) -> None:
    path = planned.worktree / "PLAN.md"
    text = path.read_text().replace("## 7. Risks", "My own remark.\n\n## 7. Risks") + "\nThe end.\n"
    path.write_text(text)
    planned.move("settle-risks", "done", note="closed")
    planned.move("settle-risks", "todo", note="closed")
    after = path.read_text()
    assert after.replace("  - Note: closed\n", "") == text and after.count("Note: closed") == 1


@pytest.mark.parametrize(
    "note", ["- [x] `open-gate` done", "## 7. Risks", "```", "<!--", "x\n\n- [x] `ssim` done", "\x1b[2Jx", "[x] y"]
)
def test_a_note_cannot_tick_or_hide_another_step(planned: Planned, note: str) -> None:
    planned.move("settle-risks", "claimed", note=note)
    text = (planned.worktree / "PLAN.md").read_text()
    assert "\x1b" not in text
    for step in ("open-gate", "ssim"):
        assert planned.line(step).startswith("- [ ]")
    planned.plan()
    assert planned.move("open-gate", "todo").step.state == "todo"


def test_an_unknown_step_is_named_with_the_nearest_and_nothing_is_written(planned: Planned) -> None:
    before = (planned.worktree / "PLAN.md").read_bytes()
    with pytest.raises(PortError) as caught:
        planned.move("parity-transfomer", "done")
    assert "'parity-transformer'" in caught.value.fix
    for arguments in ({"note": "x" * 1001}, {"run_ids": ["r"] * 21}):
        with pytest.raises(PortError):
            planned.move(STEP, "done", **arguments)
    assert (planned.worktree / "PLAN.md").read_bytes() == before
    assert Ledger(planned.ctx.home).entries(planned.port_id) == []


def test_a_step_that_was_deleted_from_the_file_is_said(planned: Planned) -> None:
    path = planned.worktree / "PLAN.md"
    path.write_text(path.read_text().replace("`settle-risks`", "settled"))
    with pytest.raises(PortError, match="no such step") as caught:
        planned.move("settle-risks", "done")
    assert "write_plan" in caught.value.fix


def test_without_a_plan_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    port = made.make_port(tmp_path / "home", tmp_path / "worktree", components=[])
    with pytest.raises(PortError, match="no plan yet"):
        update_step(ToolContext(tmp_path / "home", tmp_path), port.port_id, STEP, "done")


def test_before_a_plan_there_is_nothing_to_approve_but_official_code(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    ctx = ToolContext(home=tmp_path / "home", cwd=tmp_path)
    port_id = made.make_port(tmp_path / "home", tmp_path / "w", components=[]).port_id
    for step in (STEP, "open-gate", "nope"):
        with pytest.raises(PortError, match="no plan yet") as caught:
            request_approval(ctx, port_id, step, "Look.")
        assert "Call write_plan first" in caught.value.fix and "update_step" not in caught.value.fix


def test_a_step_like_no_other_is_answered_with_the_list_and_a_typo_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    planned = Planned(tmp_path / "home", tmp_path / "w")
    with pytest.raises(PortError) as caught:
        planned.move("nope", "done")
    assert "Use one of: " in caught.value.fix and "open-gate" in caught.value.fix and STEP in caught.value.fix
    with pytest.raises(PortError, match="Did you mean 'open-gate'"):
        planned.move("open-gat", "done")
