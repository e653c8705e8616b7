"""An agent with the tools and an editor tries to fake an open gate; every attempt is refused, with the reason.

Each attempt changes one thing of a port whose gate is open, or tries to get past the one item that is not measured.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fastvideo_port.port import ledger
from fastvideo_port.port.approvals import Approvals
from fastvideo_port.port.database import database_path
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.plan import edit_step, write_plan_file
from fastvideo_port.port.plan_steps import PlanDraft, steps_of_port
from fastvideo_port.server.arguments import signature_of
from fastvideo_port.tests.port.open_port import (
    ADAPTER,
    DIT,
    EXAMPLE,
    PIPELINE_ADAPTER,
    REGISTRY,
    STEP,
    VIDEO,
    OpenPort,
)
from fastvideo_port.tools import ALL
from fastvideo_port.tools.check_integration import check_integration
from fastvideo_port.tools.run_ssim import run_ssim
from fastvideo_port.tools.update_step import update_step
from fastvideo_port.tools.write_plan import PlanComponent, write_plan


@dataclass(frozen=True)
class Attempt:
    """One way to cheat.

    Attributes:
        do: Carries it out; may raise what a tool refuses it with.
        item: The item of the gate that has to say why; "" where a tool refuses or all evidence ends.
        words: What the reason has to say.
        without: The item for which nothing was measured, so that the attempt has something to fake.
    """

    do: Callable[[OpenPort], Any]
    item: str
    words: str
    without: str = ""


def edit(path: str) -> Callable[[OpenPort], Any]:
    """Change one character of a file of the worktree."""
    return lambda port: append(port.worktree / path)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def sql(statement: str) -> Callable[[OpenPort], None]:
    """Change the state's database."""

    def do(port: OpenPort) -> None:
        with sqlite3.connect(database_path(port.home)) as db:
            assert db.execute(statement).rowcount > 0
        db.close()

    return do


def planned(opened: OpenPort, name: str, **changed: str) -> PlanComponent:
    record = opened.port.component(name)
    assert record is not None
    return PlanComponent(**{**record.model_dump(), **changed})


def tick_every_box(port: OpenPort) -> None:
    parts = port.port
    draft = PlanDraft("Tiny", "b", "c", "", "scope", tuple(parts.components))
    write_plan_file(port.worktree, port.home, port.port_id, draft, {})
    for step in steps_of_port(parts):
        edit_step(port.worktree, port.home, port.port_id, step.id, ticked=True, note="done, see the run")


def say_done(port: OpenPort) -> None:
    tick_every_box(port)
    assert update_step(port.ctx, port.port_id, "open-gate", "done", run_ids=["run-0123456789abcdef"]).moved is False


def swap_weights(port: OpenPort) -> None:
    """Other values under the old size and time."""
    path = Path(port.port.weights.source) / "transformer/model.safetensors"  # type: ignore[union-attr]
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def point_weights_elsewhere(port: OpenPort) -> None:
    """The link in the worktree leads to a copy of one's own."""
    link = Path(port.port.weights.path)  # type: ignore[union-attr]
    other = port.home.parent / "other weights"
    shutil.copytree(link, other)
    link.unlink()
    link.symlink_to(other)


def edit_config(port: OpenPort) -> None:
    path = Path(port.port.weights.source) / "transformer/config.json"  # type: ignore[union-attr]
    path.write_text(path.read_text().replace("1e-06", "1e-05"))


def replay(port: OpenPort, kind: str) -> None:
    """A row of the ledger once more, as the newest."""
    row = "SELECT 'run-again', port_id, entry, previous, digest, signature FROM ledger WHERE entry LIKE "
    names = "(run_id, port_id, entry, previous, digest, signature)"
    sql(f"INSERT INTO ledger {names} {row} '%\"{kind}\"%' LIMIT 1")(port)


def entry_of_another_port(port: OpenPort) -> None:
    other = OpenPort(port.home.parent / "other")
    found = next(entry for entry in other.entries() if entry.kind == "pipeline_parity")
    with sqlite3.connect(database_path(other.home)) as db:
        row = db.execute("SELECT * FROM ledger WHERE run_id = ?", (found.run_id,)).fetchone()
    db.close()
    with sqlite3.connect(database_path(port.home)) as db:
        last = db.execute("SELECT MAX(sequence) FROM ledger").fetchone()[0]
        db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", (last + 1, row[1], port.port_id, *row[3:7]))
    db.close()


def older_database(port: OpenPort) -> None:
    """The whole database of before the failure is put back."""
    kept = database_path(port.home).read_bytes()
    port.parity(verdict="fail")
    for path in port.home.glob(f"{database_path(port.home).name}-*"):
        path.unlink()
    database_path(port.home).write_bytes(kept)


def fetched_folder_without_scheduler(port: OpenPort) -> None:
    write_plan(port.ctx, port.port_id, "Only what passes.", [planned(port, "transformer")])


def another_class(port: OpenPort) -> None:
    parts = [planned(port, "transformer", port="fastvideo.models.dits.tiny.Stub"), planned(port, "scheduler")]
    write_plan(port.ctx, port.port_id, "Another class.", parts)


def approve_old_digest(port: OpenPort) -> None:
    """Ask, change the mapping, and let the answer to the old question count for the new one."""
    approvals = Approvals(port.home)
    view = approvals.view(approvals.request(port.port, STEP, "words"))
    port.mapping(rules=("'^a$' -> 'evil'",))
    assert view.content is not None
    approvals.decide(
        view.request.approval_id, approve=True, digest=view.content.digest, channel="client", asserted_by="test"
    )


def approve_by_row(port: OpenPort) -> None:
    approvals = Approvals(port.home)
    request = approvals.request(port.port, STEP, "words")
    record = json.dumps({**json.loads(request.model_dump_json()), "state": "approved", "channel": "page"})
    with sqlite3.connect(database_path(port.home)) as db:
        db.execute("UPDATE approvals SET record = ?", (record,))
    db.close()


def policy_in_the_worktree(port: OpenPort) -> None:
    """A lax policy where the agent may write, a strict one in the state folder."""
    (port.home / "policy.json").write_text('{"minimum": "page"}')
    (port.worktree / "policy.json").write_text('{"minimum": "client", "days": 300}')
    port.approve(channel="client")


def expire(port: OpenPort) -> None:
    (port.home / "policy.json").write_text('{"days": 1e-9}')


def copy_video(source: str, port: OpenPort) -> str:
    """A video under another name, with other bytes than the source's."""
    path = port.worktree / "outputs/copied.mp4"
    path.write_bytes((port.reference if source == "reference" else port.worktree / VIDEO).read_bytes() + b" remuxed")
    return "outputs/copied.mp4"


def own_reference(port: OpenPort) -> None:
    """The port's video of an earlier run as the official one."""
    port.reference.write_bytes((port.worktree / VIDEO).read_bytes())
    (port.worktree / VIDEO).write_bytes(b"the port's video, again")
    port.example()
    port.ssim()


def reference_in_place(port: OpenPort) -> None:
    """After the comparison the reference is replaced, so that a person finds two videos that are alike."""
    port.reference.write_bytes((port.worktree / VIDEO).read_bytes())


def failing_then_another_script(port: OpenPort) -> None:
    port.example(verdict="fail", video=None)
    easy = "examples/inference/basic/easy.py"
    (port.worktree / easy).write_text("easy")
    port.example(script=easy)


def small_arguments(tool: str, **arguments: Any) -> Callable[[OpenPort], Any]:
    """Call a tool through the arguments' check of the server, as a client does."""
    spec = next(spec for spec in ALL if spec.name == tool)
    return lambda port: signature_of(spec).check({"port_id": port.port_id, **arguments})


def rewrite_result(port: OpenPort) -> None:
    """A run's result.json says pass; its worker said something else."""
    ctx = port.ctx
    run = ctx.runs.create(
        port_id=port.port_id,
        tool="run_pipeline_parity",
        arguments={"complete": True},
        python="/nonexistent/python",
        job="pipeline_parity",
        spec={},
        cwd=port.worktree,
    )
    folder = ctx.runs.folder(run.run_id)
    (folder / "result.json").write_text(json.dumps({"ok": True, "value": {"verdict": "pass"}}))
    sql(f"UPDATE runs SET record = replace(record, '\"queued\"', '\"done\"') WHERE run_id = '{run.run_id}'")(port)
    ctx.runs.value(run.run_id)


def clock_back(port: OpenPort) -> None:
    """A failure that the clock dates before the pass."""
    with mock.patch.object(ledger, "now", lambda: "1999-01-01T00:00:00.000000+00:00"):
        entry = port.enter("component_parity", "transformer", {"why": "blocks.0 is wrong"}, verdict="fail")
    assert entry.recorded_at.startswith("1999")


def integration_of_another_folder(port: OpenPort) -> None:
    """The check passes on a copy of the docs that is complete; the port's own page is empty."""
    other = OpenPort(port.home.parent / "other")
    check_integration(other.ctx, other.port_id)
    (port.worktree / "docs/inference/tiny.md").write_text("")


def delete_failure(port: OpenPort) -> None:
    failed = port.parity(verdict="fail")
    sql(f"DELETE FROM ledger WHERE run_id = '{failed.run_id}'")(port)


LEDGER = "changed by something other than this program"
RED = "component-parity"
ATTEMPTS: dict[str, Attempt] = {
    # edit
    "edit the boxes of PLAN.md": Attempt(tick_every_box, "pipeline-parity", "not been run", "pipeline-parity"),
    "say done with an invented run": Attempt(say_done, "pipeline-parity", "not been run", "pipeline-parity"),
    "edit the port's model": Attempt(edit(DIT), RED, f"{DIT} changed since"),
    "edit a module it imports": Attempt(edit(REGISTRY), RED, f"{REGISTRY} changed since"),
    "edit the adapter": Attempt(edit(ADAPTER), RED, f"{ADAPTER} changed since"),
    "edit the pipeline's adapter": Attempt(edit(PIPELINE_ADAPTER), "pipeline-parity", f"{PIPELINE_ADAPTER} changed"),
    "edit the official code": Attempt(
        lambda port: append(port.official / "official_tiny.py"), RED, "official official_tiny.py changed since"
    ),
    "delete a file it was measured on": Attempt(lambda port: (port.worktree / DIT).unlink(), RED, f"{DIT} is gone"),
    "swap the weights' values": Attempt(swap_weights, RED, "model.safetensors of the official weights changed after"),
    "edit a config beside the weights": Attempt(edit_config, "keys", "config.json of the official weights changed"),
    "point the weights' link elsewhere": Attempt(point_weights_elsewhere, "keys", "official weights changed after"),
    "edit the example": Attempt(edit(EXAMPLE), "example", f"{EXAMPLE} changed since"),
    "edit the port's video": Attempt(edit(VIDEO), "ssim", f"{VIDEO} changed since"),
    "replace the reference by the port's video": Attempt(reference_in_place, "ssim", "official video.mp4 changed"),
    "empty the page of the docs": Attempt(
        lambda port: (port.worktree / "docs/inference/tiny.md").write_text(""), "documentation", "tiny.md changed"
    ),
    "empty the page and check again": Attempt(
        lambda port: [
            (port.worktree / "docs/inference/tiny.md").write_text(""),
            check_integration(port.ctx, port.port_id),
        ],
        "documentation",
        "docs",
    ),
    "edit a run's result.json": Attempt(rewrite_result, "", "result.mac cannot be read", "pipeline-parity"),
    # the ledger
    "edit a verdict of the ledger": Attempt(
        lambda port: [
            port.parity(verdict="fail"),
            sql("UPDATE ledger SET entry = replace(entry, '\"fail\"', '\"pass\"')")(port),
        ],
        "",
        LEDGER,
    ),
    "edit whether a run was whole": Attempt(
        lambda port: [
            port.parity(complete=False),
            sql("UPDATE ledger SET entry = replace(entry, '\"complete\":false', '\"complete\":true')")(port),
        ],
        "",
        LEDGER,
        "component-parity",
    ),
    "delete a failure from the ledger": Attempt(delete_failure, "", LEDGER),
    "put back the database of before": Attempt(older_database, "", LEDGER),
    "replay an older passing entry": Attempt(
        lambda port: [port.pipeline(verdict="fail"), replay(port, "pipeline_parity")], "", LEDGER
    ),
    "an entry of another port": Attempt(entry_of_another_port, "", LEDGER, "pipeline-parity"),
    "take away the ledger's key": Attempt(lambda port: (port.home / "ledger.key").unlink(), "", LEDGER),
    # relabel
    "an entry of another component": Attempt(
        lambda port: port.parity(component="scheduler"), RED, "transformer: run_component_parity has not", RED
    ),
    "an entry of another kind": Attempt(
        lambda port: port.mapping(), RED, "transformer: run_component_parity has not been run", RED
    ),
    "an older passing run before a failure": Attempt(
        lambda port: [port.parity(), port.parity(verdict="fail")], RED, "transformer: fail", RED
    ),
    "a failing run dated before the passing one": Attempt(clock_back, RED, "blocks.0 is wrong"),
    "investigate is not pass": Attempt(lambda port: port.parity(verdict="investigate"), RED, "investigate"),
    "inconclusive is not pass": Attempt(
        lambda port: port.pipeline(verdict="inconclusive"), "pipeline-parity", "inconc"
    ),
    # loosen
    "a low threshold": Attempt(
        lambda port: port.ssim(summary={"threshold": 0.2, "min_threshold": 0.1}), "ssim", "threshold 0.2"
    ),
    "a threshold near 0": Attempt(lambda port: port.ssim(summary={"threshold": 1e-9}), "ssim", "below the standard"),
    "no floor for single frames": Attempt(lambda port: port.ssim(summary={"min_threshold": 0.0}), "ssim", "floor 0.0"),
    "a threshold that is no number": Attempt(
        lambda port: port.ssim(summary={"threshold": float("nan")}), "ssim", "below the standard"
    ),
    "a threshold of 0 as argument": Attempt(
        lambda port: run_ssim(port.ctx, port.port_id, str(port.reference), VIDEO, threshold=0.0),
        "",
        "threshold is out of range",
        "ssim",
    ),
    "a tolerance as argument": Attempt(
        small_arguments("run_component_parity", component="transformer", atol=1.0), "", "atol", RED
    ),
    "bands as argument": Attempt(
        small_arguments("run_pipeline_parity", bands={"stage": [9, 99]}), "", "bands", "pipeline-parity"
    ),
    "an approval as argument": Attempt(
        small_arguments("request_approval", step_id=STEP, summary="s", approved=True),
        "",
        "approved",
        "mapping-reviewed",
    ),
    # skip
    "a part of the cases, seeds or dtypes": Attempt(
        lambda port: port.parity(complete=False), RED, "Only a part was run (chosen cases, seeds or dtypes)", RED
    ),
    "a part of the pipeline's cases": Attempt(
        lambda port: port.pipeline(complete=False), "pipeline-parity", "Only a part was run", "pipeline-parity"
    ),
    "a part that failed after the pass": Attempt(
        lambda port: port.parity(complete=False, verdict="fail"), RED, "transformer: fail"
    ),
    "a part that passes after a failure": Attempt(
        lambda port: [port.parity(verdict="fail"), port.parity(complete=False)], RED, "transformer: fail"
    ),
    "take the scheduler out of the plan": Attempt(
        fetched_folder_without_scheduler, RED, "scheduler (FlowScheduler): the official model has it"
    ),
    "no plan at all": Attempt(lambda port: port.change(components=[]), "keys", "No component is planned"),
    "another class in the plan": Attempt(another_class, RED, "the plan names other classes"),
    "an example that lies elsewhere": Attempt(
        lambda port: [(port.worktree / "trial.py").write_text("x"), port.example(script="trial.py", complete=False)],
        "example",
        "Only a script outside examples/",
        "example",
    ),
    "an easier example after one that failed": Attempt(failing_then_another_script, "example", f"{EXAMPLE}: fail"),
    "an example that wrote no video": Attempt(
        lambda port: port.example(verdict="fail", video=None), "example", f"{EXAMPLE}: fail"
    ),
    # stub
    "a video that no run wrote": Attempt(
        lambda port: port.ssim(candidate=copy_video("port", port)), "ssim", "nothing says that the port made", "ssim"
    ),
    "the reference, remuxed, as candidate": Attempt(
        lambda port: port.ssim(candidate=copy_video("reference", port)), "ssim", "nothing says that the port", "ssim"
    ),
    "the port's own video as reference": Attempt(own_reference, "ssim", "the port's own", "ssim"),
    "the video of an example that failed": Attempt(
        lambda port: [port.example(verdict="fail"), port.ssim()], "ssim", "which wrote the candidate, is fail", "ssim"
    ),
    "a comparison recorded without hashes": Attempt(
        lambda port: port.ssim(summary={"candidate": {"path": VIDEO}}), "ssim", "without the videos' hashes", "ssim"
    ),
    # approvals
    "a declined approval": Attempt(lambda port: port.approve(False), "mapping-reviewed", "declined"),
    "an approval that has expired": Attempt(expire, "mapping-reviewed", "expired"),
    "an approval of a mapping that changed": Attempt(
        lambda port: port.mapping(rules=("'^a$' -> 'c'",)), "mapping-reviewed", "rules"
    ),
    "an answer to the question before": Attempt(
        approve_old_digest, "", "not what stands there now", "mapping-reviewed"
    ),
    "an approval written into the waiting list": Attempt(
        approve_by_row, "mapping-reviewed", "call request_approval", "mapping-reviewed"
    ),
    "a policy in the worktree": Attempt(
        policy_in_the_worktree, "mapping-reviewed", "the policy asks for page", "mapping-reviewed"
    ),
    "a policy that asks for nothing": Attempt(
        lambda port: (port.home / "policy.json").write_text('{"minimum": "none"}'), "", "no approval counts"
    ),
    # stale
    "the docs of another folder": Attempt(integration_of_another_folder, "documentation", "tiny.md changed"),
    "the official clone is gone": Attempt(
        lambda port: port.change(official_repo=None), RED, "gone with the official repository"
    ),
    "weights fetched from elsewhere": Attempt(
        lambda port: port.change(weights=port.port.weights.model_copy(update={"digest": "0" * 64})),  # type: ignore[union-attr]
        "keys",
        "fetched again and differ",
    ),
}


def test_there_are_enough_attempts() -> None:
    assert len(ATTEMPTS) >= 30


def test_with_real_evidence_the_gate_is_open(tmp_path: Path) -> None:
    port = OpenPort(tmp_path)
    found = port.status()
    assert found.gate == "open", [(item.id, item.state, item.why) for item in found.items if item.state != "pass"]
    assert len(found.items) == 7


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_to_fake_an_open_gate_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    attempt = ATTEMPTS[name]
    port = OpenPort(tmp_path, without=attempt.without)
    before = port.status()
    assert before.gate == ("closed" if attempt.without else "open"), [(i.id, i.why) for i in before.items]
    if not attempt.item:
        with pytest.raises(PortError) as caught:
            attempt.do(port)
            port.status()
        assert attempt.words in str(caught.value), str(caught.value)
        if attempt.words != LEDGER and attempt.without:
            assert port.status().gate == "closed"
        return
    attempt.do(port)
    found = port.status()
    assert found.gate == "closed"
    item = next(item for item in found.items if item.id == attempt.item)
    assert item.next
    assert item.state != "pass" and attempt.words in item.why, (item.state, item.why)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("take the scheduler out of the plan", "write_plan"),
        ("swap the weights' values", "fetch_weights"),
        ("a video that no run wrote", "run_example"),
        ("edit the port's model", "run_component_parity"),
    ],
)
def test_the_next_step_is_the_tool_that_helps_first(name: str, tool: str, tmp_path: Path) -> None:
    attempt = ATTEMPTS[name]
    port = OpenPort(tmp_path, without=attempt.without)
    attempt.do(port)
    item = next(item for item in port.status().items if item.id == attempt.item)
    assert tool in item.next
