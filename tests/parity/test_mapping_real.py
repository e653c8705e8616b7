"""The weight mappings of the real pairs: every official tensor arrives, and headers alone never say otherwise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAIRS = Path(__file__).resolve().parents[1] / "pairs"
WITH_WEIGHTS = ("wan_dit", "wan_vae", "umt5", "t5", "clip_text", "clip_vision", "hunyuanvideo_dit")


def _check(side: str, python: Path, worktree: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """One side of the check for all pairs, in one process."""
    out = folder / f"{side}.json"
    command = [str(python), str(PAIRS / "check_mappings.py"), side, str(worktree), str(folder / "weights"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return found


@pytest.mark.fastvideo
def test_every_official_tensor_of_the_real_pairs_arrives_and_headers_never_say_otherwise(
    fastvideo_python: Path, fastvideo_template: Path, tmp_path: Path
) -> None:
    """Project: FastVideo's own loaders on sharded and single checkpoints, with merges, padding and layers left out.

    Two processes for all pairs: importing FastVideo is what takes the time.
    """
    values = _check("values", fastvideo_python, fastvideo_template, tmp_path)
    headers = _check("headers", fastvideo_python, fastvideo_template, tmp_path)
    for pair in WITH_WEIGHTS:
        value = values[pair]
        assert value["verdict"] == "pass", (pair, value)
        assert value["tensors"][0] == value["tensors"][1] > 20 and value["how"] == {"rule": value["tensors"][0]}
        assert bool(value["unused_on_purpose"]) == (pair == "clip_vision")
        assert headers[pair]["headers"] == "names and shapes may fit", (pair, headers[pair])
    assert {values[name]["verdict"] for name in ("flow_match_euler", "flow_unipc")} == {"inconclusive"}, "no weights"
