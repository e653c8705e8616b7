"""check_scheduler over real runs: a pair of Euler schedulers, their evidence, and what keeps the gate shut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.components_left_out import only
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import gate
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.check_scheduler import check_scheduler, finish
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

OFFICIAL = """
import numpy as np
import torch


class Euler:
    def __init__(self, num_train_timesteps=1000, shift=1.0):
        self.n, self.shift = num_train_timesteps, shift
        self.config = {"num_train_timesteps": num_train_timesteps, "shift": shift}

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None):
        if sigmas is None:
            sigmas = np.linspace(1, 1 / self.n, num_inference_steps)
        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        self.sigmas = torch.cat([torch.from_numpy(sigmas).float(), torch.zeros(1)])
        self.timesteps = self.sigmas[:-1] * self.n
        self.i = 0

    def step(self, model_output, timestep, sample, return_dict=True):
        dt = self.sigmas[self.i + 1] - self.sigmas[self.i]
        self.i += 1
        return (sample + dt * model_output,)

    def add_noise(self, original_samples, noise, timesteps):
        sigma = (timesteps / self.n).reshape(-1, 1, 1, 1).to(noise.dtype)
        return (1 - sigma) * original_samples + sigma * noise
"""
PORT = "fastvideo/euler.py"
SHIFT = "        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)\n"


@pytest.fixture(scope="module")
def port(tiny: Any) -> Any:
    """The tiny port with a planned scheduler and its configuration among the weights."""
    (tiny.worktree / PORT).write_text(OFFICIAL.lstrip())
    (Path(tiny.port.official_repo) / "official_euler.py").write_text(OFFICIAL.lstrip())
    folder = Path(tiny.port.weights.path).resolve() / "scheduler"
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(json.dumps({"num_train_timesteps": 1000, "shift": 3.0}))
    component = PlanComponent(
        name="scheduler", kind="scheduler", official="official_euler.Euler", port="fastvideo.euler.Euler"
    )
    write_plan(tiny.ctx, tiny.port_id, "A scheduler.", [component])
    return tiny


def item(port: Any) -> tuple[str, str]:
    """State and reason of the gate's item, as if the official model had the scheduler alone."""
    alone = only(port.port, port.port.components[0])
    found = next(row for row in gate(alone, port.entries()) if row.id == "component-parity")
    return found.state, found.why


def run(port: Any, *arguments: Any, **keywords: Any) -> Any:
    """The finished result, however busy the machine is."""
    result = check_scheduler(port.ctx, port.port_id, *arguments, **keywords)
    while result.state in ("queued", "running"):
        run_status(port.ctx, result.run_id, 45)
        result = finish(port.ctx, port.ctx.runs.get(result.run_id))
    return result


def test_a_right_scheduler_passes_and_opens_its_item_until_a_file_changes(port: Any) -> None:
    assert item(port)[0] == "missing"
    result = run(port, "scheduler", num_steps=7)
    assert result.verdict == "pass", (result.findings, result.steps)
    assert {row.first_index for row in result.tables} == {None}
    assert all(row.equal for row in result.steps)
    entry = port.entries()[-1]
    assert (entry.kind, entry.component, entry.verdict, entry.complete) == (
        "check_scheduler",
        "scheduler",
        "pass",
        True,
    )
    assert entry.summary["self_test"] is True and "to the last bit" in entry.summary["reference_kind"]
    assert {"worktree:fastvideo/euler.py", "official:official_euler.py"} <= set(entry.depends_on)
    assert any(key.startswith("path:") and key.endswith("scheduler_config.json") for key in entry.depends_on)
    assert item(port)[0] == "pass"
    count = len(port.entries())
    assert finish(port.ctx, port.ctx.runs.get(result.run_id)) == result and len(port.entries()) == count
    with port.edited(PORT, "np.linspace(1, 1 /", "np.linspace(1, 1  /"):
        state, why = item(port)
        assert state == "stale" and "euler.py" in why
    config = next(key for key in entry.depends_on if key.endswith("scheduler_config.json")).removeprefix("path:")
    before = Path(config).read_text()
    Path(config).write_text(before.replace("3.0", "4.0"))
    assert item(port)[0] == "stale"
    Path(config).write_text(before)
    assert item(port)[0] == "pass"


def test_a_shift_that_is_applied_twice_is_named_and_shuts_the_item(port: Any) -> None:
    with port.edited(PORT, SHIFT, SHIFT + SHIFT):
        result = run(port, "scheduler", num_steps=7)
        assert result.verdict == "fail"
        assert "applied twice" in result.cause and result.first_differing_index is not None
        assert "applied twice" in result.next_step
        state, why = item(port)
        assert state == "fail" and "applied twice" in why


def test_classes_without_a_plan_are_compared_and_are_no_evidence(port: Any) -> None:
    before = len(port.entries())
    (port.worktree / "fastvideo/other.py").write_text(
        OFFICIAL.replace("class Euler", "class Other").replace("sample + dt", "sample - dt")
    )
    result = run(port, "official_euler.Euler", "fastvideo.other.Other", num_steps=3)
    assert result.verdict == "fail" and "the other way" in result.cause, result.findings
    assert len(port.entries()) == before


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("schedule",), "no component of this name"),
        (("scheduler", None, 0), "num_steps is out of range"),
        (("scheduler", None, 10**9), "num_steps is out of range"),
        (("a.B", "diffusers.C"), "not FastVideo's"),
        (("os.system('x').B", "fastvideo.C"), "not an import path"),
        (("fastvideo.C", "fastvideo.C"), "same class"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_run(port: Any, arguments: tuple[Any, ...], match: str) -> None:
    before = port.left()
    with pytest.raises(PortError, match=match) as caught:
        check_scheduler(port.ctx, port.port_id, *arguments)
    assert caught.value.fix and port.left() == before


def test_a_class_that_is_not_there_ends_the_run_with_its_name(port: Any) -> None:
    before = len(port.entries())
    with pytest.raises(PortError) as caught:
        run(port, "official_euler.Eulr", "fastvideo.euler.Euler")
    assert "Eulr" in str(caught.value) and "Euler" in str(caught.value)
    assert len(port.entries()) == before


def test_a_scheduler_has_no_mapping_and_is_sent_here(port: Any) -> None:
    before = port.left()
    with pytest.raises(PortError, match="A scheduler has no weights") as caught:
        check_mapping(port.ctx, port.port_id, "scheduler")
    assert "check_scheduler" in caught.value.fix and port.left() == before
