"""The official side in another interpreter, with its own packages and its own version of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import lab

SECOND = "FASTVIDEO_PORT_SECOND_PYTHON"
"""An interpreter with another version of torch, numpy and safetensors, for the second half of these tests."""
MISTAKE = ("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width)")


def _said(python: str, expression: str) -> str:
    command = [python, "-c", f"import sys, torch; print({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _judge(official_python: str, tmp_path: Path) -> None:
    """Both verdicts; each side runs in its own environment and says with which torch."""
    prefix = _said(official_python, "sys.prefix")
    at_home = f"""
def load_official(ctx, honest=load_official):
    import sys
    assert sys.prefix == {prefix!r}, sys.prefix
    return honest(ctx)

def load_port(ctx, honest=load_port):
    import sys
    assert sys.prefix == {sys.prefix!r}, sys.prefix
    return honest(ctx)
"""
    settings = {
        "adapter": lab.ADAPTER + at_home,
        "cases": ["small"],
        "dtypes": ["float32", "bfloat16"],
        "official_python": official_python,
    }
    right = lab.Lab(tmp_path / "right", **settings).run()
    assert right.verdict == "pass", right.explain()
    seen = right.value["environment"]
    assert seen["official"]["torch"] == _said(official_python, "torch.__version__")
    assert seen["port"]["torch"] == _said(sys.executable, "torch.__version__")
    wrong = lab.Lab(tmp_path / "wrong", port=lab.edited(lab.PORT, MISTAKE), **settings).run()
    assert wrong.verdict == "fail" and wrong.value["culprit"]["module"] == "layers.0.pre_mlp", wrong.explain()
    assert wrong.value["confirmed"]


@pytest.mark.fastvideo
def test_the_official_side_in_an_environment_of_its_own(fastvideo_python: Path, tmp_path: Path) -> None:
    _judge(str(fastvideo_python), tmp_path)


def test_the_official_side_with_another_version_of_torch(tmp_path: Path) -> None:
    second = os.environ.get(SECOND)
    if not second:
        pytest.skip(f"{SECOND} names no interpreter with another version of torch")
    assert _said(second, "torch.__version__") != _said(sys.executable, "torch.__version__")
    _judge(second, tmp_path)
