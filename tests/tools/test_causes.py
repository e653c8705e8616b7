"""What a result says becomes evidence; a result that passes names nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.records import ComponentRecord
from fastvideo_port.tools._causes import causes_of_mapping, causes_of_parity, causes_of_ssim

CODE = "class Block:\n    def forward(self, x):\n        shift, scale = x.chunk(2)\n        return x * scale + shift\n"


def planned(kind: str = "dit") -> ComponentRecord:
    return ComponentRecord.model_validate(
        {"name": "part", "kind": kind, "official": "diffusers.A", "port": "fastvideo.B", "adapter": "a.py"}
    )


def parity(**changes: Any) -> dict[str, Any]:
    cases = [{"case": "small", "seed": 0, "verdict": "fail"}]
    value = {"verdict": "fail", "cases": cases, "findings": [], "culprit": None, "trials": [], "dtype_audit": []}
    return {**value, **changes}


def mapping(**changes: Any) -> dict[str, Any]:
    empty = {name: [] for name in ("missing", "unexpected", "shape_mismatches", "collisions", "suspects")}
    return {"verdict": "fail", **empty, **changes}


def ssim(*codes: str, mean: float | None = 0.9, message: str = "") -> dict[str, Any]:
    rows = [{"code": code, "effect": "fail", "message": message} for code in codes]
    return {"verdict": "fail", "findings": rows, "mean": mean}


def culprit(file: str, kind: str = "glue") -> dict[str, Any]:
    return {"module": "blocks.0", "kind": kind, "file": file, "line": 3, "end_line": 4}


def test_a_result_that_passes_names_no_cause(tmp_path: Path) -> None:
    """Whatever else stands in it: notes, remarks, dtype rows."""
    remark = {"code": "attention-backends-differ", "verdict": "pass", "message": "differs"}
    assert causes_of_parity(parity(verdict="pass", findings=[remark]), planned(), tmp_path) == []
    assert causes_of_mapping(mapping(verdict="pass", unexpected=["a"]), planned()) == []
    assert causes_of_ssim({**ssim("frame-count"), "verdict": "pass"}) == []


def test_the_blamed_lines_are_read_from_the_worktree_and_nowhere_else(tmp_path: Path) -> None:
    worktree, outside = tmp_path / "worktree", tmp_path / "outside.py"
    worktree.mkdir()
    (worktree / "model.py").write_text(CODE)
    outside.write_text(CODE)
    (worktree / "link.py").symlink_to(outside)
    precision = {"code": "precision", "verdict": "fail", "message": ""}

    def named(file: str) -> list[str]:
        value = parity(findings=[precision], culprit=culprit(file))
        return [cause.id for cause in causes_of_parity(value, planned(), worktree)]

    assert "mapping-shape-equal-but-semantically-swapped" in named("model.py")
    assert "mapping-shape-equal-but-semantically-swapped" in named(str(worktree / "model.py"))
    for elsewhere in (str(outside), "link.py", "../outside.py", "gone.py", "/dev/zero"):
        assert named(elsewhere) == [], elsewhere


def test_a_trial_that_explains_the_error_is_the_best_evidence(tmp_path: Path) -> None:
    trials = [{"found": [{"words": "layer_norm: an epsilon of 1e-06 in place of 1e-05"}]}]
    (cause,) = causes_of_parity(parity(trials=trials), planned(), tmp_path)
    assert cause.id == "loading-config-default-differs-from-official" and "an epsilon of 1e-06" in cause.why


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("1 of 9 entries differ, first at index 8: 0.2 in place of 0", "scheduler-endpoint-and-step-count-convention"),
        ("2 of 9 entries differ, first at index 4: 500.00003 in place of 500", "scheduler-float64-linspace-rounding"),
    ],
)
def test_how_a_schedule_differs_tells_what_happened(tmp_path: Path, said: str, cause: str) -> None:
    message = f"'sigmas' depends on no input, so it has to be equal (case 'a'): {said}. Usual causes: many."
    row = {"code": "table-differs", "verdict": "fail", "message": message}
    found = causes_of_parity(parity(findings=[row]), planned("scheduler"), tmp_path)
    assert found[0].id == cause


def test_a_narrower_norm_and_a_failure_in_one_case_are_told_apart(tmp_path: Path) -> None:
    row = {"code": "dtype-narrower", "verdict": "investigate", "message": ""}
    passed = [{"case": "small", "seed": 0, "verdict": "pass"}]
    norm = parity(cases=passed, findings=[row], dtype_audit=[{"what": "norm"}], verdict="investigate")
    assert causes_of_parity(norm, planned(), tmp_path)[0].id == "norm-fp32-layernorm-required"
    chunks = parity(cases=[*passed, {"case": "long", "seed": 0, "verdict": "fail"}])
    assert causes_of_parity(chunks, planned("vae"), tmp_path)[0].id == "vae-feature-cache-off-is-another-algorithm"
    assert causes_of_parity(chunks, planned("dit"), tmp_path) == []


def test_a_mapping_is_judged_by_its_lists_and_its_fatal_findings() -> None:
    shadow = {"code": "rule-shadowed", "message": "x", "fatal": True}
    assert causes_of_mapping(mapping(suspects=[shadow]), planned())[0].id == "mapping-first-match-wins-hides-later-rule"
    both = causes_of_mapping(mapping(missing=["a"], unexpected=["b"]), planned())
    assert both[0].id == "mapping-unmatched-key-passes-through"
    assert causes_of_mapping(mapping(suspects=[{**shadow, "fatal": False}]), planned()) == []


def test_videos_name_causes_by_what_was_seen_in_them() -> None:
    newer = "It is the video of run-1; run-2 ran the same example after it."
    assert causes_of_ssim(ssim("stale-candidate", message=newer))[0].id == "ssim-stale-generated-file"
    old = "The candidate was written 5 s before the port began: it cannot come from it."
    assert causes_of_ssim(ssim("stale-candidate", message=old))[0].id == "ssim-output-name-sanitised"
    # A fresh folder for outputs helps against none of these.
    assert causes_of_ssim(ssim("stale-candidate", message="It is the video of run-1; since then: a.py changed.")) == []
    assert causes_of_ssim(ssim("code-changed-since")) == []
    assert causes_of_ssim(ssim("below-threshold", mean=0.1))[0].id == "rng-cpu-versus-device-generator"
    assert causes_of_ssim(ssim("below-threshold"))[0].id == "ssim-device-specific-references"
    assert causes_of_ssim(ssim(mean=None)) == []
