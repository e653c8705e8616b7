"""A port that has the official output in its hands and returns another tensor."""

from __future__ import annotations

import pytest
import torch
from fastvideo_port.parity.returned import returned_instead
from fastvideo_port.parity.tracing import tracing
from torch import nn


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class Model(nn.Module):
    """Returns one of the hidden states, perhaps with a norm that the official model does not apply to it."""

    def __init__(self, which: int, norm: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.norm = nn.LayerNorm(6)
        self.which, self.norm_it, self.scale = which, norm, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state: torch.Tensor = self.encoder(x)[self.which] * self.scale
        return self.norm(state) if self.norm_it else state


def _found(port: Model) -> str | None:
    torch.manual_seed(0)
    official = Model(-2)
    port.load_state_dict(official.state_dict())
    x = torch.randn(2, 3, 6)
    with torch.no_grad(), tracing(port) as trace:
        mine = port(x)
    with torch.no_grad():
        instead = returned_instead(trace, {}, {"hidden": mine}, {"hidden": official(x)})
    culprit = instead and instead.culprit
    assert culprit is None or (culprit.kind, culprit.confidence) == ("glue", "certain")
    if instead is not None:
        (row,) = instead.trial["found"]
        assert row["words"] == "what `encoder.layers.1` returns in the place of the output 'hidden'"
        assert row["after"] < 1e-5 < 1e-3 < instead.trial["before"]
    return culprit and f"{culprit.module}: {culprit.why.split(' (')[0]}"


@pytest.mark.parametrize("port", [Model(-1), Model(-1, norm=True), Model(0), Model(-2, norm=True)])
def test_the_caller_of_the_layer_that_returned_the_official_output_is_named(port: Model) -> None:
    assert _found(port) == "encoder: What encoder.layers.1"


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(x)
        return result


class Vae(nn.Module):
    """Clamps what its decoder returned, in a method that is not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(self.decoder(x), min=0.0)


def test_a_module_that_hands_on_what_it_got_is_passed_by_and_the_model_around_is_named() -> None:
    torch.manual_seed(0)
    port, x = Vae(), torch.randn(2, 6)
    with torch.no_grad(), tracing(port) as trace:
        mine = port.decode(x)
    with torch.no_grad():
        instead = returned_instead(trace, {}, {"decoded": mine}, {"decoded": port.decoder(x)})
    culprit = instead and instead.culprit
    assert culprit is not None and (culprit.module, culprit.kind) == ("", "glue")
    assert culprit.why.startswith("What decoder (Decoder)") and culprit.line > 0


def test_a_right_port_has_nothing_to_answer_for() -> None:
    assert _found(Model(-2)) is None


def test_an_output_that_no_call_returned_is_another_matter() -> None:
    torch.manual_seed(0)
    port, x = Model(-1), torch.randn(2, 3, 6)
    with torch.no_grad(), tracing(port) as trace:
        mine = port(x)
    assert returned_instead(trace, {}, {"hidden": mine}, {"hidden": torch.randn(2, 3, 6)}) is None
    assert returned_instead(trace, {}, {"hidden": mine}, {"hidden": torch.randn(2, 6)}) is None


def test_outputs_in_the_place_of_each_other_are_named() -> None:
    port, x = Model(-1), torch.randn(2, 3, 6)
    with torch.no_grad(), tracing(port) as trace:
        port(x)
    mean, spread, third = (torch.randn(2, 3, 6) for _ in range(3))
    mine = {"mean": mean, "spread": spread, "third": third}
    found = returned_instead(trace, {}, mine, {"mean": spread, "spread": mean, "third": third})
    assert found is not None and (found.culprit.module, found.culprit.kind) == ("", "glue")
    assert found.trial["found"][0]["words"].startswith("the output 'spread' in the place of the output 'mean'")
    zeros = torch.zeros(2, 3, 6)
    mine, theirs = {"mean": zeros, "spread": mean}, {"mean": mean, "spread": zeros}
    assert returned_instead(trace, {}, mine, theirs) is None, "zeros are no evidence"
    assert returned_instead(trace, {}, {"mean": mean, "spread": mean}, {"mean": spread, "spread": third}) is None
