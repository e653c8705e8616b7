"""One pass of a side serves two checks, and only where it would have said the same alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastvideo_port.parity.weights_used import weights_used

from . import lab

pytestmark = pytest.mark.usefixtures("warm_sides")

_RETURN = "return self.proj_out(self.norm_out(h))"


def _port(factor: str) -> str:
    """The port with its output times a factor."""
    return lab.edited(lab.PORT, (_RETURN, f"{_RETURN} * ({factor})"))


def test_the_watched_pass_is_the_control_only_if_it_has_the_bits_of_the_first(tmp_path: Path) -> None:
    watched = "1 + 1e-3 * (torch._C._len_torch_dispatch_stack() > 0)"
    result = lab.Lab(tmp_path, port=_port(watched)).run()
    assert result.verdict == "pass", result.explain()
    control, first = (tmp_path / "run 0" / "port" / f"0-0.{tag}.safetensors" for tag in ("control", "float32"))
    assert control.read_bytes() == first.read_bytes(), "run again, unwatched"


def test_a_port_that_differs_from_itself_is_unstable(tmp_path: Path) -> None:
    draws = "1 + 1e-3 * __import__('random').random()"
    result = lab.Lab(tmp_path, port=_port(draws)).run()
    assert "port-unstable" in result.codes and result.verdict != "pass", result.explain()


def test_an_input_that_is_ignored_shows_although_the_pass_with_gradients_rounds_otherwise(tmp_path: Path) -> None:
    used = (
        'return model(inputs["x"].to(ctx.device, ctx.dtype), inputs["t"].to(ctx.device), inputs["mask"].to(ctx.device))'
    )
    official, port = lab.ADAPTER.split("def call_port")
    port = lab.edited(port, (used, used.replace('inputs["x"]', 'torch.ones_like(inputs["x"])')))
    rounded = _port("1 + 1e-6 * torch.is_grad_enabled()")
    result = lab.Lab(tmp_path, port=rounded, adapter=f"{official}def call_port{port}", cases=["small"]).run()
    assert "port-ignores-input" in result.codes, result.explain()


def test_weights_with_a_gradient_are_used_and_the_model_is_left_as_it_was() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "idle": torch.nn.Linear(3, 2)}).requires_grad_(False)
    model["late"] = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model["late"].weight[:] = 0
        model["late"].weight[1, 1] = 1  # no gradient in the first row of what comes before
    held = model["late"].bias.grad = torch.ones(2)
    seen = torch.randn(4, 3)

    def forward() -> torch.Tensor:
        found: torch.Tensor = model["late"](model["used"](seen))
        return found

    used, output = weights_used(model, forward)
    names = {f"{part}.{kind}" for part in ("used", "late") for kind in ("weight", "bias")}
    assert used == {name: name in names for name, _ in model.named_parameters()}
    assert torch.equal(output, forward())
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    assert model["late"].bias.grad is held and model["used"].weight.grad is None
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_what_lets_no_gradient_through_says_nothing_of_its_weights() -> None:
    model = torch.nn.Linear(2, 2)

    def broken() -> torch.Tensor:
        raise RuntimeError("no gradients here")

    with torch.no_grad():
        assert weights_used(model, lambda: model(torch.ones(1, 2)).detach())[0] is None
        assert weights_used(model, broken) == (None, None)
        assert weights_used(torch.nn.ReLU(), lambda: 1) == (None, None)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
