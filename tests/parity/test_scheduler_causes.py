"""Each usual mistake is named from two tables or two rollouts alone, and nothing is named that is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fastvideo_port.parity.scheduler_causes import Tables, shifted, sigma_cause, timestep_cause
from fastvideo_port.parity.scheduler_drive import Walk, fitted, held
from fastvideo_port.parity.scheduler_judge import Judged, first_index
from fastvideo_port.parity.scheduler_steps import compare, step_cause
from fastvideo_port.parity.scheduler_walks import make_walks

N, SHIFT, STEPS = 1000.0, 3.0, 8
LOW = 1 / N


def table(raw: Any, shift: float = SHIFT, end: float | None = 0.0) -> Tables:
    body = shifted(np.asarray(raw, float), shift).astype(np.float32).astype(float)
    sigmas = body if end is None else np.append(body, end)
    return Tables((body.astype(np.float32) * np.float32(N)).astype(float), sigmas)


GRID = np.linspace(1, LOW, STEPS)
OFFICIAL = table(GRID)
FLIPPED = np.append(OFFICIAL.sigmas[:-1][::-1], 0.0)
SIGMAS = {
    "shift-twice": table(shifted(GRID, SHIFT)),
    "shift-missing": table(GRID, 1.0),
    "shift-value": table(GRID, 5.0),
    "shift-formula": table(SHIFT * GRID / (1 + SHIFT * GRID), 1.0),
    "grid-points": table(np.linspace(1, LOW, STEPS + 1)[:-1]),
    "sigma-min-zero": table(np.linspace(1, 0, STEPS)),
    "grid-ends": table(np.linspace(0.999, LOW, STEPS)),
    "terminal": table(GRID, end=None),
    "flipped": Tables(OFFICIAL.timesteps, FLIPPED),
    "inverted": Tables(OFFICIAL.timesteps, np.append(1 - OFFICIAL.sigmas[:-1], 0.0)),
    "scaled": Tables(OFFICIAL.timesteps, OFFICIAL.sigmas * N),
    "off-by-one": Tables(OFFICIAL.timesteps, np.append(OFFICIAL.sigmas[1:], 0.0)),
    "count": table(np.linspace(1, LOW, STEPS + 2)),
}
TIMES = {
    "integer-rounding": np.rint(OFFICIAL.timesteps),
    "timesteps-scaled": OFFICIAL.timesteps / N,
    "timesteps-inverted": N - OFFICIAL.timesteps,
    "flipped": OFFICIAL.timesteps[::-1],
    "timesteps-offset": OFFICIAL.timesteps + 1,
    "timesteps-bfloat16": torch.tensor(OFFICIAL.timesteps).bfloat16().double().numpy(),
}


@pytest.mark.parametrize("code", SIGMAS)
def test_a_mistake_in_the_sigmas_is_named(code: str) -> None:
    found = sigma_cause(SIGMAS[code], OFFICIAL, SHIFT, N, {"sigma_max": 1.0, "sigma_min": LOW})
    assert found is not None and found.code == code, found


@pytest.mark.parametrize("code", TIMES)
def test_a_mistake_in_the_timesteps_is_named(code: str) -> None:
    found = timestep_cause(Tables(np.asarray(TIMES[code], float), OFFICIAL.sigmas), OFFICIAL, N)
    assert found is not None and found.code == code, found


def test_a_grid_in_float32_is_told_from_other_rounding() -> None:
    steps = 9
    official = table(np.linspace(1, LOW, steps))
    grid = np.linspace(N, 1, steps, dtype=np.float32) / np.float32(N)
    single = (np.float32(SHIFT) * grid / (np.float32(1) + np.float32(SHIFT - 1) * grid)).astype(float)
    assert not np.array_equal(single, official.sigmas[:-1])
    facts = {"sigma_max": 1.0, "sigma_min": LOW}
    mine = Tables(official.timesteps, np.append(single, 0.0))
    found = sigma_cause(mine, official, SHIFT, N, facts)
    assert found is not None and found.code == "grid-float32"
    other = official.sigmas.copy()
    other[3] = np.nextafter(np.float32(other[3]), np.float32(1))
    found = sigma_cause(Tables(official.timesteps, other), official, SHIFT, N, facts)
    assert found is not None and found.code == "rounding" and "at most 1" in found.words


def test_an_unknown_table_has_no_invented_cause() -> None:
    other = OFFICIAL.sigmas.copy()
    other[:-1] = np.random.default_rng(0).uniform(0, 1, STEPS)
    assert sigma_cause(Tables(OFFICIAL.timesteps, other), OFFICIAL, SHIFT, N, {}) is None
    assert timestep_cause(Tables(other[:-1] * 900 + 3, OFFICIAL.sigmas), OFFICIAL, N) is None


def test_the_first_index_counts_lengths_and_nan() -> None:
    a = np.array([1.0, 2.0, 3.0])
    assert first_index(a, a) is None
    assert first_index(np.array([1.0, 2.5, 3.0]), a) == 1
    assert first_index(a[:2], a) == 2
    assert first_index(np.array([1.0, 2.0, np.nan]), a) == 2


def rolled(steps: Any) -> torch.Tensor:
    """A rollout whose step ``n`` adds ``steps(n, velocity)``."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, generator=rng)
    velocity = torch.randn(5, 2, 30, generator=rng)
    found = []
    for n in range(5):
        x = x + steps(n, velocity[n])
        found.append(x)
    return torch.stack(found)


def test_wrong_steps_are_named_and_a_rewrite_is_not_accused() -> None:
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.2, 0.0])
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(2, 30, generator=rng)
    velocity = torch.randn(5, 2, 30, generator=rng)
    dt = sigmas[1:] - sigmas[:-1]
    official = rolled(lambda n, v: dt[n] * v)

    def code(steps: Any) -> str | None:
        port = rolled(steps)
        found = compare(port, official, None)
        assert found.verdict == "fail" and found.first is not None
        cause = step_cause(port, official, found.first, start, velocity, sigmas)
        return cause.code if cause else None

    assert code(lambda n, v: -dt[n] * v) == "direction"
    assert code(lambda n, v: dt[n] * v if n < 3 else 0 * v) == "no-step"
    assert code(lambda n, v: (sigmas[n + 1] - sigmas[max(n - 1, 0)]) * v) == "step-index"
    assert code(lambda n, v: dt[n] * v * 1.37) == "step-scaled"
    assert code(lambda n, v: (dt[n] * v).bfloat16().float()) == "step-bfloat16"
    assert code(lambda n, v: dt[n] * v * float("nan")) == "not-finite"
    assert code(lambda n, v: dt[n] * v.flip(0)) is None
    rewrite = compare(rolled(lambda n, v: -(sigmas[n] - sigmas[n + 1]) * v), official, None)
    assert rewrite.verdict == "pass" and rewrite.first is None


def test_of_two_causes_the_longer_walk_speaks_and_rounding_stands_last() -> None:
    from fastvideo_port.parity.scheduler_causes import Cause

    judged = Judged()
    judged.blame(Cause("rounding", "r"), 50)
    judged.blame(Cause("terminal", "short"), 1)
    judged.blame(Cause("terminal", "long"), 20)
    judged.blame(Cause("terminal", "same length"), 20)
    assert [(item.code, item.words) for item in judged.causes] == [("terminal", "long"), ("rounding", "r")]


def test_walks_without_and_with_a_configuration(tmp_path: Any) -> None:
    plain, source = make_walks({"num_steps": 7, "official_weights": None, "adapter": None}, tmp_path)
    assert source is None and {walk.steps for walk in plain} >= {1, 2, 5, 7, 50} and plain[-1].sigmas
    weights = tmp_path / "weights"
    (weights / "scheduler").mkdir(parents=True)
    (weights / "vae").mkdir()
    (weights / "scheduler/scheduler_config.json").write_text('{"flow_shift": 3.0, "a": 1}')
    spec = {"num_steps": 7, "official_weights": str(weights), "adapter": "x", "component": "scheduler"}
    walks, source = make_walks(spec, tmp_path / "variants")
    assert source is not None and source.endswith("scheduler_config.json")
    assert {walk.shift for walk in walks} == {3.0, 1.0, 5.0}
    other = next(walk for walk in walks if walk.shift == 5.0)
    text = (tmp_path / "variants/shift-5/scheduler/scheduler_config.json").read_text()
    assert '"flow_shift": 5.0' in text and '"a": 1' in text and other.weights == str(tmp_path / "variants/shift-5")
    assert (tmp_path / "variants/shift-5/vae").is_dir()
    assert '"flow_shift": 3.0' in (weights / "scheduler/scheduler_config.json").read_text()


def test_a_shift_finds_its_other_name_and_what_is_no_scheduler_is_refused() -> None:
    class Wan:
        def __init__(self, shift: float = 1.0) -> None:
            self.shift = shift

    assert fitted(Wan.__init__, {"flow_shift": 3.0, "beta": 1, "_class_name": "x"}) == {"shift": 3.0}
    from fastvideo_port.parity.errors import ParityError

    with pytest.raises(ParityError, match="gives no scheduler"):
        held(Wan(), "port")
    assert Walk("2", 2).to_json()["steps"] == 2
