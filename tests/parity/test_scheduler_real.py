"""check_scheduler on FastVideo's flow schedulers against diffusers': clean, with planted mistakes, with rewrites."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "faults" / "schedulers.py"

# Mistake -> the cause that has to be named ("" where none is known), and the index of the first table that differs.
NAMED: dict[str, tuple[str, int | None]] = {
    "flow_match_euler-shift-formula": ("shift-formula", 0),
    "flow_match_euler-shift-twice": ("shift-twice", 1),
    "flow_match_euler-grid-drops-last": ("grid-points", 1),
    "flow_match_euler-sigma-min-zero": ("sigma-min-zero", 1),
    "flow_match_euler-sigma-min-unshifted": ("grid-ends", 1),
    "flow_match_euler-direction": ("direction", None),
    "flow_match_euler-step-off-by-one": ("step-index", None),
    "flow_match_euler-terminal-sigma": ("terminal", 1),
    "flow_match_euler-grid-float32": ("grid-float32", None),
    "flow_match_euler-timesteps-bfloat16": ("timesteps-bfloat16", None),
    "euler-flipped": ("flipped", 0),
    "euler-timesteps-integer": ("integer-rounding", 1),
    "euler-noise-swapped": ("scale-noise", None),
    "euler-bfloat16-step": ("step-bfloat16", None),
    "flow_unipc-shift-twice": ("shift-twice", 0),
    "flow_unipc-shift-ignored": ("shift-missing", 0),
    "flow_unipc-grid-keeps-last": ("grid-points", 0),
    "flow_unipc-corrector-off": ("config", None),
    "flow_unipc-warm-up-missing": ("config", None),
    "flow_unipc-predictor-bh1": ("solver-part", None),
    "flow_unipc-corrector-bh1": ("solver-part", None),
    "flow_unipc-predictor-weight": ("solver-part", None),
    "flow_unipc-last-sample-uncorrected": ("solver-part", None),
    "flow_unipc-terminal-sigma": ("terminal", 1),
    "flow_unipc-timesteps-rounded": ("integer-rounding", None),
    "unipc-state-leaks": ("", None),  # the second rollout raises, which is said
    "unipc-noise-alpha": ("add-noise", None),
}
REWRITES = (
    "flow_match_euler-rewrite-step-order",
    "flow_match_euler-rewrite-not-upcast",
    "flow_unipc-rewrite-einsum",
    "flow_unipc-rewrite-data-prediction",
)


@pytest.fixture(scope="module")
def found(
    fastvideo_template: Path, fastvideo_python: Path, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> dict[str, dict[str, Any]]:
    """What the job said of each; one process, so that FastVideo is imported once."""

    def make(out: Path) -> None:
        command = [str(fastvideo_python), "-W", "ignore", str(SCRIPT), str(fastvideo_template), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    value: dict[str, dict[str, Any]] = json.loads(made_once("schedulers.json", make).read_text())
    return value


@pytest.mark.fastvideo
def test_the_real_pairs_pass_through_their_adapters_and_the_euler_one_by_its_signatures(found: dict[str, Any]) -> None:
    for name in ("flow_match_euler-clean", "flow_match_euler-signatures", "flow_unipc-clean"):
        value = found[name]
        assert value["verdict"] == "pass", (name, value.get("findings"), value.get("error"))
        assert value["self_test"]["passed"] and all(row["first_index"] is None for row in value["tables"])
    assert {row["equal"] for row in found["flow_match_euler-clean"]["steps"]} == {True}


@pytest.mark.fastvideo
def test_the_grid_of_wan_is_told_from_that_of_diffusers(found: dict[str, Any]) -> None:
    value = found["flow_unipc-signatures"]
    assert value["verdict"] == "fail" and value["first_differing_index"] == 0
    assert "the grid begins at" in " ".join(value["causes"])


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", NAMED)
def test_a_planted_mistake_is_named(name: str, found: dict[str, Any]) -> None:
    value = found[name]
    code, index = NAMED[name]
    assert value["verdict"] == "fail"
    assert value["cause_code"] == code, value["causes"]
    if index is not None:
        assert value["first_differing_index"] == index


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", REWRITES)
def test_a_correct_rewrite_is_not_accused(name: str, found: dict[str, Any]) -> None:
    assert found[name]["verdict"] == "pass", found[name]["findings"]
