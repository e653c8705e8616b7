"""Tables that a port keeps are made again in a trial, and a wrong number in their making is named."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.parity.memoised import Memoised
from fastvideo_port.parity.passing import Forcer, Keeper, Kept, passing
from fastvideo_port.parity.trials import search
from safetensors.torch import save_file
from torch import nn

WIDTH = 8


def _frequencies(width: int, theta: float) -> torch.Tensor:
    return 1.0 / theta ** (torch.arange(0, width, 2) / width)


limited = functools.lru_cache(maxsize=4)(_frequencies)
unlimited = functools.cache(_frequencies)
plain = functools.lru_cache(lambda text: (text, len(text)))


class Angles(nn.Module):
    @staticmethod
    @functools.lru_cache(maxsize=2)
    def pair(width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
        table = _frequencies(width, theta)
        return table.cos(), table.sin()

    def __init__(self, theta: float, kept: Any) -> None:
        super().__init__()
        self.theta = theta
        self.kept = kept
        self.last = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(x * self.kept(WIDTH, self.theta))
        return result


@pytest.mark.parametrize("kept", [limited, unlimited])
def test_a_wrong_theta_in_a_table_that_a_function_keeps_is_named(kept: Any, tmp_path: Path) -> None:
    kept.cache_clear()
    official, port = Angles(10000.0, kept), Angles(256.0, kept)
    x, keeper = torch.randn(3, WIDTH // 2), Keeper(1 << 20)
    with torch.no_grad():
        with passing(official, keeper):
            official(x)
        port(x)  # the table is there before the trials
        save_file(keeper.tensors, tmp_path / "kept.safetensors")
        tensors, partner = Kept(tmp_path / "kept.safetensors"), {"last": "last"}
        place: Any = {"scope": "", "deep": False, "target": ("last", 0, "inputs"), "reach": 2e-6}
        found = search(port, lambda: port(x), Forcer(tensors, partner), tensors, partner, **place)
        assert "a base (theta) of 10000 in place of 256" in found["found"][0]["words"], found
        assert torch.equal(kept(WIDTH, 256.0), _frequencies(WIDTH, 256.0))  # no trial's table is left behind


def test_only_functions_that_hold_tensors_are_made_to_forget() -> None:
    limited.cache_clear()
    unlimited(WIDTH, 5.0)
    Angles.pair(WIDTH, 5.0)
    plain("a")
    memoised = Memoised(Angles(5.0, unlimited))
    assert unlimited in memoised.functions and Angles.pair in memoised.functions
    assert plain not in memoised.functions and limited not in memoised.functions
    with memoised.forgotten():
        assert unlimited.cache_info().currsize == 0 and plain.cache_info().currsize == 1
        unlimited(WIDTH, 6.0)
    assert unlimited.cache_info().currsize == 0


def test_a_dictionary_holds_afterwards_what_it_held_before(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"a": torch.ones(2)}
    monkeypatch.setattr(sys.modules[__name__], "_TABLE_CACHE", table, raising=False)
    with Memoised(Angles(5.0, unlimited)).forgotten():
        assert not table
        table["b"] = torch.zeros(2)
    assert list(table) == ["a"]
