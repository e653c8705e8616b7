"""final_report over a real port: what it gives, and that it says so when there is nothing, too much or a lie."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.database import database_path
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.final_report import FinalReportResult, final_report
from fastvideo_port.tools.gate_status import gate_status
from fastvideo_port.tools.run_component_parity import run_component_parity
from fastvideo_port.tools.update_step import update_step
from fastvideo_port.tools.write_plan import PlanComponent, write_plan
from PIL import Image

ADAPTER = "tests/local_tests/tiny/parity_transformer.py"


def report(tiny: Any) -> FinalReportResult:
    return final_report(tiny.ctx, tiny.port_id)


def texts(result: FinalReportResult) -> tuple[str, str]:
    """The page's and the Markdown's text, without the latter's escapes."""

    class Text(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    page = Text()
    page.feed(Path(result.html).read_text())
    return page.text, re.sub(r"\\(.)", r"\1", Path(result.markdown).read_text())


def test_without_any_measurement_it_is_a_report_of_what_is_missing(tiny: Any) -> None:
    """First in this file: only the weights were fetched."""
    result = report(tiny)
    assert (
        result.gate == "closed" and len(result.progress) == 7 and all(": missing. " in row for row in result.progress)
    )
    assert re.fullmatch(
        rf"{re.escape(str(tiny.worktree))}, [0-9a-f]{{40}} to [0-9a-f]{{40}}; \d+ changes not committed .*",
        result.workspace,
    )
    assert result.branch == tiny.port.branch
    assert {"isolate-workspace: done", "mapping-transformer: todo", "open-gate: todo"} <= set(result.plan)
    for text in texts(result):
        assert "The alignment gate is closed" in text and "No person has approved anything." in text
        assert "No videos were compared." in text and "fetch-weights" in text
    assert "closed" in result.next_step


@pytest.fixture(scope="module")
def measured(tiny: Any) -> Any:
    """The tiny port, mapped and compared for real."""
    for tool in (check_mapping, run_component_parity):
        run = tool(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
        assert tiny.ctx.runs.wait(run.run_id, 180).state == "done"
    return tiny


def test_it_gives_the_five_outputs(measured: Any) -> None:
    """Finished runs that nobody asked about are evidence here too."""
    result = report(measured)
    assert {"No missing or unexpected keys: pass.", "Component parity: pass."} <= set(result.progress)
    assert "parity-transformer: done" in result.plan
    (line,) = result.parity
    assert line.startswith("transformer: parity pass, logic ratio ") and line.endswith("mapping pass")
    assert any("CPU only" in text for text in result.residual_risks)
    assert all(": pass." in row or len(row.split(". ")) == 2 for row in result.progress), "each says what to do"
    for text in texts(result):
        for words in ("Measured with", "torch", "Numeric flags", "Reference", "float64", "turned red", "100.0 %"):
            assert words.lower() in text.lower(), words


def test_the_commands_that_repeat_it_stand_in_both_files(measured: Any) -> None:
    """``test_reproduce.py`` reads and runs them. A later run of a part takes no whole run's place."""
    part = run_component_parity(measured.ctx, measured.port_id, "transformer", cases=["small"], wait_s=0)
    assert measured.ctx.runs.wait(part.run_id, 180).state == "done"
    for text in texts(report(measured)):
        lines = [shlex.split(line) for line in text.splitlines() if "fastvideo-port" in line and " --" in line]
        commands = [words for words in lines if Path(words[0]).name == "fastvideo-port"]
        assert [command[1] for command in commands] == [
            "fetch-weights", "check-mapping", "run-component-parity", "gate-status",
        ]  # fmt: skip
        assert commands[2][2:] == [f"--port-id={measured.port_id}", "--component=transformer", "--wait"]


def test_changes_that_no_commit_holds_are_counted_each(measured: Any) -> None:
    def count() -> list[str]:
        return re.findall(
            r"(\d+) changes not committed \((\d+) in known files, (\d+) new files\)", texts(report(measured))[1]
        )

    ((_, changed, new),) = count()
    folder = measured.worktree / "a new folder"
    folder.mkdir()
    for name in ("a.py", "b.py"):
        (folder / name).write_text("")
    with measured.edited("fastvideo/registry.py", "REGISTRY", "REGISTRY "):
        assert count() == [(str(int(changed) + int(new) + 3), str(int(changed) + 1), str(int(new) + 2))]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_an_edit_is_named_by_file_with_what_to_do(measured: Any) -> None:
    with measured.edited("fastvideo/layers.py", "x + y", "x  + y"):
        items = {item.id: item for item in gate_status(measured.ctx, measured.port_id).items}
        assert items["keys"].changed == ["fastvideo/layers.py changed"]
        assert items["keys"].next.startswith("Call check_mapping again")
        result = report(measured)
        assert "stale (was pass)" in result.parity[0]
        for text in texts(result):
            assert "fastvideo/layers.py changed" in text
    items = {item.id: item for item in gate_status(measured.ctx, measured.port_id).items}
    assert items["keys"].changed == [] and items["keys"].next == ""


def test_the_same_state_gives_the_same_report_but_for_the_time(measured: Any) -> None:
    found = [texts(report(measured)) for _ in range(2)]
    first, second = (tuple(re.sub(r"at \d{4}-.{14} UTC", "at T", text) for text in pair) for pair in found)
    assert first == second


def test_pictures_of_the_runs_are_embedded_and_a_broken_one_is_named(measured: Any) -> None:
    """A file that took a picture's place cannot stop the report, nor get into it."""
    run = next(run for run in measured.ctx.runs.list(measured.port_id) if run.tool == "run_component_parity")
    files = measured.ctx.runs.folder(run.run_id) / "files"
    files.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(files / "divergence.png")
    secret = files.parent / "secret"
    secret.write_text("secret")
    (files / "a_link.png").symlink_to(secret)
    (files / "b_text.png").write_text("<script>")
    os.mkfifo(files / "c_pipe.png")
    result = report(measured)
    page = Path(result.html).read_text()
    assert page.count("<img ") == page.count("data:image/png;base64,") == 1
    assert "errors of port and official code, module by module" in page
    for name in ("a_link.png", "b_text.png", "c_pipe.png"):
        assert any(name in text for text in result.residual_risks), name
    for path in files.iterdir():
        path.unlink()
    assert "<img " not in Path(report(measured).html).read_text()


def test_approvals_and_risks_of_the_plan_are_in_it(measured: Any) -> None:
    """A decision in the ledger, whoever built it; a risk that a person wrote into PLAN.md by hand."""
    Ledger(measured.ctx.home).append(
        port_id=measured.port_id,
        kind="approval",
        verdict="pass",
        run_id="approval-1.a",
        summary={"step_id": "mapping-transformer", "channel": "client", "note": "rules read <b>twice</b>"},
        depends_on={},
    )
    plan = measured.worktree / "PLAN.md"
    before = plan.read_text()
    plan.write_text(before.replace("- None known yet.", "- Only **one** size was tried.\n- [ ] not a risk"))
    update_step(measured.ctx, measured.port_id, "settle-risks", "claimed", note="One size stays; others follow.")
    result = report(measured)
    assert "Plan: on settling them: One size stays; others follow." in result.residual_risks
    assert (
        "Not measured: Steps ticked by hand, with nothing measured behind them: settle-risks" in result.residual_risks
    )
    assert "Plan: Only **one** size was tried." in result.residual_risks
    assert any("what the agent's client asserts" in text for text in result.residual_risks)
    assert not any("not a risk" in text or "None known" in text for text in result.residual_risks)
    for text in texts(result):
        assert "rules read <b>twice</b>" in text and "mapping-transformer" in text
    plan.write_text(before)


def test_a_plan_that_became_a_link_or_is_gone_is_said(measured: Any) -> None:
    plan = measured.worktree / "PLAN.md"
    before = plan.read_text()
    plan.unlink()
    assert report(measured).gate == "closed"
    plan.symlink_to("/etc/hostname")
    assert any("PLAN.md is not a file of the worktree" in text for text in report(measured).residual_risks)
    plan.unlink()
    plan.write_text(before)


def test_twenty_four_components_fit(measured: Any) -> None:
    """The largest plan: a result below 10,000 tokens, every component in the report."""
    parts = [
        PlanComponent(name=f"part_{chr(97 + n)}", kind="extra", official=f"o.Part{n}", port=f"fastvideo.Part{n}")
        for n in range(23)
    ]
    first = PlanComponent(
        name="transformer", kind="dit", official="tiny_official.Net", port="fastvideo.tiny.TinyNet", adapter=ADAPTER
    )
    write_plan(measured.ctx, measured.port_id, "The network.", [first, *parts])
    result = report(measured)
    assert len(result.parity) == 24 and len(result.model_dump_json()) < 30_000
    assert all(f"part_{chr(97 + n)}" in texts(result)[0] for n in range(23))
    write_plan(measured.ctx, measured.port_id, "The network.", [first])
    assert len(report(measured).parity) == 1


def test_a_ledger_that_was_tampered_with_makes_a_report_that_says_so(measured: Any) -> None:
    """Last in this file: gate_status refuses, and the report tells the reviewer that nothing counts."""
    with sqlite3.connect(database_path(measured.ctx.home)) as db:
        db.execute("UPDATE ledger SET entry = replace(entry, '\"complete\":true', '\"complete\":false')")
    db.close()
    result = report(measured)
    assert result.gate == "closed" and "changed by something other than this program" in result.residual_risks[0]
    assert all(": missing. " in row for row in result.progress)
    assert all("missing" in line for line in result.parity) and "ledger was changed" in result.next_step
    for text in texts(result):
        assert "Nothing in this report is evidence." in text and "entry 1" in text
