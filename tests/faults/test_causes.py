"""The causes that failures name, judged over the fault suite (`causes.py` prints the table)."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_tests_causes_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


causes = _load(HERE / "causes.py")
EVIDENCE = json.loads((HERE / "evidence.json").read_text())


def test_the_evidence_is_that_of_every_mistake() -> None:
    """Renew it with `run.py --trials --out FILE` and `causes.py --from FILE` when the suite changes."""
    assert set(EVIDENCE) <= set(causes.catalogue.EDITS)
    assert {edit.id for edit in causes.catalogue.FAULTS} <= set(EVIDENCE)
    assert sum(edit.id in EVIDENCE for edit in causes.catalogue.REWRITES) >= len(causes.catalogue.REWRITES) - 1


def test_a_right_cause_is_among_those_named_for_most_mistakes(fastvideo_template: Path) -> None:
    """Project: at least three of four mistakes that a trap describes; correct rewrites name none."""
    lines, counts = causes.table(EVIDENCE, fastvideo_template)
    assert counts["labelled"] > 100
    assert counts["right at all"] >= 0.75 * counts["labelled"], "\n".join(lines)
    assert counts["right first"] >= 0.6 * counts["labelled"]
    assert counts["rewrites: named"] == 0


def test_the_figure_is_not_reached_by_naming_what_is_frequent(fastvideo_template: Path) -> None:
    """A control: the three most frequent traps, named for everything, are right far less often."""
    labelled = [edit for edit in causes.catalogue.FAULTS if edit.traps]
    frequent = sorted(
        {trap for edit in labelled for trap in edit.traps}, key=lambda t: -sum(t in e.traps for e in labelled)
    )
    always = sum(bool(set(frequent[:3]) & set(edit.traps)) for edit in labelled)
    assert always < 0.5 * len(labelled)


def test_a_wrong_label_would_be_seen(fastvideo_template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is no tautology: without the signs of one trap its mistakes are no longer explained."""
    _, before = causes.table(EVIDENCE, fastvideo_template)
    monkeypatch.setattr("fastvideo_port.tools._causes.likely_causes", lambda evidence: [])
    _, after = causes.table(EVIDENCE, fastvideo_template)
    assert before["right at all"] > 0 == after["right at all"]
