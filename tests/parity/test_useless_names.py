"""Pairing when the official module names say nothing: weights and values have to do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import lab

pytestmark = pytest.mark.usefixtures("warm_sides")
SCRAMBLED = """
def load_official(ctx, honest=load_official):
    import random
    model = honest(ctx)
    names = random.Random(7)
    for module in list(model.modules()):
        children = list(module._modules.items())
        module._modules.clear()
        for name, child in children:
            module.__dict__[name] = child  # its forward still finds it, and nothing else does
            module._modules["m" + format(names.getrandbits(40), "x")] = child
    return model
"""


def test_pairing_stays_whole_when_official_modules_are_renamed_at_random(tmp_path: Path) -> None:
    """Issue C: above 98 % by weights and values."""
    plain = lab.Lab(tmp_path / "plain", cases=["small"]).run()
    scrambled = lab.Lab(tmp_path / "scrambled", cases=["small"], adapter=lab.ADAPTER + SCRAMBLED).run()
    before, after = plain.value["pairing"], scrambled.value["pairing"]
    assert after["paired"] >= 0.98 * before["paired"], (before, after)
    assert scrambled.verdict == "pass", scrambled.explain()


def test_a_mistake_is_still_placed(tmp_path: Path) -> None:
    port = lab.edited(lab.PORT, ("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width)"))
    result = lab.Lab(tmp_path, port=port, cases=["small"], adapter=lab.ADAPTER + SCRAMBLED).run()
    assert result.verdict == "fail" and result.value["culprit"]["module"] == "layers.0.pre_mlp", result.explain()
