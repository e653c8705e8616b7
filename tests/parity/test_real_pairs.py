"""The engine on real models: diffusers and transformers against FastVideo's own code, in FastVideo's interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FAULTS = Path(__file__).resolve().parents[1] / "faults"

# One mistake and one correct rewrite of four of the pairs; `make faults` runs all of them, on all nine.
EDITS = {
    "wan_dit": ("wan_dit-norm_q-epsilon", "wan_dit-rewrite-rmsnorm-division"),
    "umt5": ("umt5-mask-dropped", "umt5-rewrite-softmax-formula"),
    "hunyuanvideo_dit": ("hunyuanvideo_dit-query-norm-epsilon", "hunyuanvideo_dit-rewrite-qkv-unbind"),
    "flow_match_euler": ("flow_match_euler-shift-twice", "flow_match_euler-rewrite-step-order"),
}
THOROUGH = ("hunyuanvideo_dit", "umt5")


@pytest.fixture(scope="module")
def runner(fastvideo_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """``tests/faults/run.py``, loaded by path as a person runs it with ``--warm``."""
    spec = importlib.util.spec_from_file_location("fault_suite", FAULTS / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    warm = module.warm.Warm(tmp_path_factory.mktemp("w"), str(fastvideo_python), module.WARM)
    module.children.subprocess = SimpleNamespace(Popen=warm.popen, PIPE=subprocess.PIPE)
    yield module
    module.children.subprocess = subprocess
    warm.close()


@pytest.mark.fastvideo
@pytest.mark.parametrize(
    "pair", [pytest.param(pair, marks=pytest.mark.thorough) if pair in THOROUGH else pair for pair in EDITS]
)
def test_a_real_port_passes_its_mistake_fails_at_its_place_and_a_rewrite_is_not_accused(
    pair: str, runner: ModuleType, fastvideo_template: Path, fastvideo_python: Path, tmp_path: Path
) -> None:
    """Project: the verdict is right on real models in float32 and bfloat16, on the CPU."""
    suite = runner.Suite(fastvideo_template, str(fastvideo_python), 1, "cpu", tmp_path)
    clean = suite.clean(pair)
    assert clean["verdict"] == "pass", clean.get("error") or clean["findings"]
    assert clean["self_test"]["passed"]
    assert clean["weights"]["tensors"][0] == clean["weights"]["tensors"][1]
    mistake, rewrite = (runner.catalogue.EDITS[name] for name in EDITS[pair])
    red = _row(runner, suite, mistake, fault=True)
    assert red["verdict"] == "fail", red
    assert red["place_right"] is not False, red
    again = _row(runner, suite, rewrite, fault=False)
    assert again["verdict"] == "pass", again


def _row(runner: ModuleType, suite: Any, edit: Any, *, fault: bool) -> dict[str, Any]:
    value = suite.edited(edit)
    assert value["verdict"] != "error", value["error"]
    assert value["reference"]["reused"], "an edit of the port must not run the official side again"
    row: dict[str, Any] = runner.row_of(edit, value, fault, 0.0)
    return row
