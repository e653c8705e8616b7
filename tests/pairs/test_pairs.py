"""The real pairs agree, measured without the engine; what the engine says of them must agree with this."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
UNIT = 2.0**-24


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_tests_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PAIRS = _load(HERE / "table.py").PAIRS


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_an_adapter_with_the_contract_and_a_builder(name: str) -> None:
    """Project: adapters import nothing but torch and the standard library until a side is loaded."""
    adapter = _load(PAIRS[name].adapter)
    for function in ("load_official", "load_port", "make_inputs", "call_official", "call_port"):
        assert callable(getattr(adapter, function))
    assert {"small", "odd"} <= set(adapter.CASES)
    assert name in _load(HERE / "build_weights.py").BUILDERS


@pytest.mark.fastvideo
def test_the_ports_are_as_exact_as_the_references(
    fastvideo_python: Path, fastvideo_template: Path, tmp_path: Path
) -> None:
    """Project: in float32 a port loses at most 1.3 times what the reference loses, in bfloat16 twice."""
    out = tmp_path / "rows.json"
    command = [str(fastvideo_python), str(HERE / "try_pairs.py"), str(fastvideo_template), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(out.read_text())
    assert {row["pair"] for row in rows} == set(PAIRS)
    for row in rows:
        assert row["port32"] <= 1.3 * max(row["official32"], UNIT), row
        assert row["port16"] <= 2.0 * max(row["official16"], UNIT), row
