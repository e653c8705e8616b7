"""A mistake planted in a small scheduler is named in words, on the tables or in the code; none is invented."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.parity.scheduler_rehearsal import Rolled, scheduler_in
from fastvideo_port.parity.scheduler_suggestions import suggestions

from . import lab

SOURCE = """
import numpy as np
import torch


class Euler:
    def __init__(self, shift=3.0, num_train_timesteps=1000, solver_order=1):
        self.config = {"shift": shift, "num_train_timesteps": num_train_timesteps, "solver_order": solver_order}
        self.sigma_min = 1 / num_train_timesteps

    def set_timesteps(self, steps, device="cpu"):
        shift = self.config["shift"]
        raw = np.linspace(1, self.sigma_min, steps)
        raw = shift * raw / (1 + (shift - 1) * raw)
        sigmas = torch.from_numpy(raw).to(torch.float32)
        self.timesteps = sigmas * self.config["num_train_timesteps"]
        self.sigmas = torch.cat([sigmas, torch.zeros(1)])
        self.index = 0

    def step(self, model_output, timestep, sample):
        sigma, after = self.sigmas[self.index], self.sigmas[self.index + 1]
        previous = sample + (after - sigma) * model_output
        self.index += 1
        if self.config["solver_order"] == 2 and self.index > 1:
            previous = previous + (after - sigma) * (model_output - self.last) / 2
        self.last = model_output
        return previous
"""
SHIFT = "        raw = shift * raw / (1 + (shift - 1) * raw)\n"
STEP = "sample + (after - sigma) * model_output"
# What is planted -> words of the suggestion, and whether it stands in the code too.
MISTAKES = {
    "shift twice": (SHIFT, SHIFT + SHIFT, "the shift 3 is applied twice: apply it once; in the code: `raw ="),
    "shift missing": (SHIFT, "", "the shift 3 is not applied: apply it"),
    "shift formula": ("(shift - 1) * raw", "shift * raw", "take s u / (1 + (s - 1) u); in the code"),
    "shift constant": ("shift = self", "shift = 5 / 3 * self", "the shift is 5 in place of 3; in the code"),
    "shift default": ("shift=3.0", "shift=5.0", "the shift is 5 in place of 3"),
    "grid": ("steps)\n        raw", "steps + 1)[:-1]\n        raw", "linspace(1, 0.001, "),
    "grid end": ("1, self.sigma_min", "1, 0", "the grid ends at 0 (zero) in place of 0.001"),
    "terminal": ("torch.zeros(1)", "sigmas[-1:]", "the last sigma again in place of 0"),
    "reversed": ("cat([sigmas,", "cat([sigmas.flip(0),", "in the opposite order: turn the table round"),
    "units": ("sigmas * self.config", "sigmas / 1000 * self.config", "0 to 1 in place of 0 to N"),
    "bfloat16": (
        "timesteps = sigmas *",
        "timesteps = sigmas.bfloat16().float() *",
        "`self.timesteps = sigmas.float() *",
    ),
    "direction": (
        "sample + (after",
        "sample - (after",
        "`previous = sample + (after - sigma) * model_output` in place",
    ),
    "index": ("self.sigmas[self.index],", "self.sigmas[self.index - 1],", "self.sigmas[self.index],"),
    "stuck": ("self.index += 1", "self.index += 0", "`self.index += 1` in place of `self.index += 0`"),
    "clean sample": (STEP, "sample + (after - sigma) * (sample - model_output) / sigma", "takes it for the clean"),
}


def _scheduler(folder: Path, name: str, old: str = "", new: str = "") -> Any:
    assert not old or SOURCE.count(old) == 1
    file = folder / f"{name}.py"
    file.write_text(SOURCE.replace(old, new) if old else SOURCE)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.Euler()


def _run(scheduler: Any, steps: int) -> Callable[[], dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(steps)
    start = torch.randn(2, 30, generator=rng)
    outputs = torch.randn(steps, 2, 30, generator=rng)

    def run() -> dict[str, torch.Tensor]:
        scheduler.set_timesteps(steps)
        x, found = start, []
        for output, timestep in zip(outputs, scheduler.timesteps, strict=False):
            x = scheduler.step(output, timestep, x)
            found.append(x)
        return {"timesteps": scheduler.timesteps, "sigmas": scheduler.sigmas, "latents": torch.stack(found)}

    return run


def _suggested(folder: Path, old: str, new: str) -> dict[str, Any]:
    mine, theirs = _scheduler(folder, "planted_scheduler", old, new), _scheduler(folder, "right_scheduler")
    rolled = [Rolled(f"{n}", _run(mine, n), _run(theirs, n)(), {}) for n in (2, 5, 8)]
    return suggestions(mine, rolled)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_planted_mistake_is_named_once_and_takes_the_error_away(name: str, tmp_path: Path) -> None:
    old, new, words = MISTAKES[name]
    found = _suggested(tmp_path, old, new)
    assert found["before"] > 1e-5
    assert len(found["found"]) == 1, found
    row = found["found"][0]
    assert words in row["words"] and row["after"] < 1e-6, row
    assert row["file"] == str(tmp_path / "planted_scheduler.py") and row["line"] > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.from_numpy(raw)", "torch.from_numpy(raw ** 1.01 + 0.002 * np.sin(9 * raw))"),
        (STEP, "sample + (after - sigma) * model_output.flip(0) * 1.1"),
        (SHIFT, SHIFT + SHIFT + "        raw = raw ** 1.02\n"),
    ],
)
def test_what_is_no_usual_mistake_gets_no_suggestion(old: str, new: str, tmp_path: Path) -> None:
    found = _suggested(tmp_path, old, new)
    assert found["before"] > 1e-5 and found["tried"] > 20 and found["found"] == []


def test_a_change_that_mends_one_schedule_and_not_the_others_is_no_suggestion(tmp_path: Path) -> None:
    # Of two steps alone, "every sigma is the one after" and much else fits.
    mine = _scheduler(tmp_path, "planted_scheduler", "1, self.sigma_min", "1, 0.3")
    theirs = _scheduler(tmp_path, "right_scheduler")
    assert suggestions(mine, [Rolled("2", _run(mine, 2), _run(theirs, 2)(), {})])["found"] == []
    both = [Rolled(f"{n}", _run(mine, n), _run(theirs, n)(), {}) for n in (2, 6)]
    assert "the grid ends at 0.3 in place of 0.001" in suggestions(mine, both)["found"][0]["words"]


def test_an_entry_of_the_configuration_is_named_unless_it_is_the_official_one(tmp_path: Path) -> None:
    mine, theirs = (
        _scheduler(tmp_path, "planted_scheduler", "solver_order=1", "solver_order=2"),
        _scheduler(tmp_path, "right_scheduler"),
    )
    rolled = [Rolled(f"{n}", _run(mine, n), _run(theirs, n)(), {}) for n in (2, 5)]
    words = "solver_order=1 in place of 2 in its configuration"
    assert words in suggestions(mine, rolled, {"solver_order": 1})["found"][0]["words"]
    assert words not in suggestions(mine, rolled, {"solver_order": 2})["found"][0]["words"]


def test_a_change_with_which_the_code_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvideo_port.parity.scheduler_suggestions.LONGEST_S", 0.2)
    endless = "        n = 2.0\n        while n != 0:\n            n -= 1.0\n        previous = sample - (after"
    found = _suggested(tmp_path, "        previous = sample + (after", endless)
    assert "`previous = sample + (after - sigma) * model_output`" in found["found"][0]["words"]


def test_the_scheduler_and_its_code_are_as_before_when_the_search_is_over(tmp_path: Path) -> None:
    mine = _scheduler(tmp_path, "planted_scheduler", "self.index += 1", "self.index += 0")
    theirs = _scheduler(tmp_path, "right_scheduler")
    state, code = dict(vars(mine)), type(mine).step.__code__
    text = inspect.getsource(type(mine))
    suggestions(mine, [Rolled("4", _run(mine, 4), _run(theirs, 4)(), {})])
    assert vars(mine) == state and type(mine).step.__code__ is code and inspect.getsource(type(mine)) == text


def test_a_scheduler_is_found_in_a_model_that_holds_one_and_has_no_weights(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Identity())
    assert scheduler_in(model) is None
    scheduler = _scheduler(tmp_path, "right_scheduler")
    vars(model[0])["scheduler"] = scheduler
    assert scheduler_in(model) is scheduler
    assert scheduler_in(torch.nn.Sequential(model, torch.nn.Linear(2, 2))) is None


ADAPTER = """
import torch

CASES = {"small": {"steps": 5}, "odd": {"steps": 8}}


class Rollout(torch.nn.Module):
    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, latents, velocities):
        found = []
        for velocity, timestep in zip(velocities, self.scheduler.timesteps):
            latents = self.scheduler.step(velocity, timestep, latents)
            found.append(latents)
        return {"timesteps": self.scheduler.timesteps, "sigmas": self.scheduler.sigmas, "latents": torch.stack(found)}


def load_official(ctx):
    from toyofficial.model import Euler
    return Rollout(Euler()).eval()


def load_port(ctx):
    from fastvideo.models.dits.toy import Euler
    return Rollout(Euler()).eval()


def make_inputs(ctx):
    rng = torch.Generator().manual_seed(ctx.seed)
    return {"latents": torch.randn(2, 30, generator=rng),
            "velocities": torch.randn(ctx.case["steps"], 2, 30, generator=rng)}


def call_official(model, inputs, ctx):
    model.scheduler.set_timesteps(ctx.case["steps"])
    return model(inputs["latents"].to(ctx.dtype), inputs["velocities"].to(ctx.dtype))


call_port = call_official


def param_mapping(ctx):
    return {}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (SHIFT, SHIFT + SHIFT, "the shift 3 is applied twice: apply it once"),
        ("timesteps = sigmas *", "timesteps = sigmas.bfloat16().float() *", "`self.timesteps = sigmas.float() *"),
        ("sample + (after", "sample - (after", "`previous = sample + (after - sigma) * model_output` in place"),
        ("", "", ""),
    ],
)
def test_component_parity_names_what_is_wrong_with_a_scheduler(
    old: str, new: str, words: str, tmp_path: Path, warm_sides: None
) -> None:
    port = lab.edited(SOURCE, (old, new)) if old else SOURCE
    result = lab.Lab(tmp_path, official=SOURCE, port=port, adapter=ADAPTER, trials=True).run()
    found = [row for trial in result.value["trials"] for row in trial["found"]]
    if not words:
        assert result.verdict == "pass" and not found, result.explain()
        return
    assert result.verdict == "fail" and len(found) == 1 and words in found[0]["words"], result.explain()
    assert result.value["culprit"]["module"] == "" and found[0]["file"] == str(result.port_file)
