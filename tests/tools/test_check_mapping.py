"""check_mapping over real runs of the engine, and what it refuses before one begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools.check_mapping import check_mapping, finish
from fastvideo_port.tools.run_component_parity import run_component_parity
from fastvideo_port.tools.run_status import run_status

ADAPTER = "tests/local_tests/tiny/parity_transformer.py"


def test_a_mapping_that_carries_every_tensor_passes_and_is_evidence(tiny: Any) -> None:
    result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert (result.state, result.verdict) == ("done", "pass")
    assert result.coverage is not None and result.coverage.tensors == result.coverage.tensors_total == 6
    entry = tiny.entries()[-1]
    assert (entry.run_id, entry.kind, entry.verdict, entry.complete) == (result.run_id, "check_mapping", "pass", True)
    assert {"worktree:fastvideo/tiny.py", "worktree:fastvideo/layers.py", f"adapter:{ADAPTER}"} <= set(entry.depends_on)
    assert "worktree:fastvideo/unused.py" not in entry.depends_on
    assert entry.depends_on["weights"] == tiny.port.weights.digest
    count = len(tiny.entries())
    assert finish(tiny.ctx, tiny.ctx.runs.get(result.run_id)) == result
    assert run_status(tiny.ctx, result.run_id, 0).result == result.model_dump(mode="json")
    assert len(tiny.entries()) == count  # a run is evidence once


def test_a_rule_that_is_missing_fails_and_names_the_tensors(tiny: Any) -> None:
    with tiny.edited("fastvideo/tiny.py", r', r"^second\.(.*)$": r"down.\1"', ""):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert result.verdict == "fail"
    assert "down.weight" in result.missing and "second.weight" in result.unexpected
    assert result.headers == "names and shapes cannot fit; no value was read" and result.headers_s is not None
    assert any('r"^second\\.(.*)$": r"down.\\1" (2 tensors' in text for text in result.suggestions), result.suggestions
    assert tiny.entries()[-1].verdict == "fail"


def test_a_loader_that_needs_values_is_judged_by_values_alone(tiny: Any) -> None:
    """Project: what fails without values for another reason than names and shapes is no verdict."""
    edit = "model, state = TinyNet(), {}\n"
    with tiny.edited(ADAPTER, edit, edit + '    assert float(weights(ctx)["first.bias"].sum()) != 1e9\n'):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert result.verdict == "pass" and result.headers.startswith("no answer (the loader cannot be run without values")


def test_weights_left_out_on_purpose_pass_and_are_shown(tiny: Any) -> None:
    """Project: a declaration of the adapter, in the result and in the evidence; a false one fails."""
    start, store = "CASES = {", "        state[name] = value\n"
    declared = 'UNUSED = (r"^norm\\.",)\nCASES = {'
    with (
        tiny.edited("fastvideo/tiny.py", "eps=1e-6)", "eps=1e-6, elementwise_affine=False)"),
        tiny.edited(ADAPTER, store, '        if not name.startswith("norm"):\n    ' + store),
    ):
        refused = check_mapping(tiny.ctx, tiny.port_id, "transformer")
        assert refused.verdict == "fail" and "UNUSED" in refused.next_step
        with tiny.edited(ADAPTER, start, declared):
            result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert result.verdict == "pass" and result.unused_on_purpose == ["norm.bias", "norm.weight"], result
    assert result.coverage is not None and result.coverage.tensors_total == 4
    assert "2 official tensors are left out on purpose" in result.next_step
    assert tiny.entries()[-1].summary["unused_names"] == ["norm.bias", "norm.weight"]
    with tiny.edited(ADAPTER, start, declared):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert result.verdict == "fail" and "unused-arrives" in {row.code for row in result.suspects}


def test_an_index_that_names_a_file_that_is_not_there_fails_before_a_value_is_read(tiny: Any) -> None:
    folder = Path(tiny.port.weights.path) / "transformer"
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"first.weight": "model.safetensors", "third.weight": "model-2.safetensors"}}')
    try:
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    finally:
        index.unlink()
    assert result.verdict == "fail" and result.suspects[0].code == "shard-absent", result
    assert "model-2.safetensors" in result.next_step


def test_another_adapter_is_no_evidence_for_the_gate(tiny: Any) -> None:
    other = tiny.worktree / "tests/other.py"
    other.write_text((tiny.worktree / ADAPTER).read_text())
    result = check_mapping(tiny.ctx, tiny.port_id, "transformer", adapter="tests/other.py")
    assert result.verdict == "pass"
    assert tiny.entries()[-1].complete is False


def test_a_run_is_left_to_go_on_and_then_recorded_by_whoever_asks(tiny: Any) -> None:
    result = check_mapping(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
    assert result.state in ("queued", "running") and result.verdict is None
    assert result.run_id in result.next_step
    assert tiny.entries() == [] or tiny.entries()[-1].run_id != result.run_id
    status = run_status(tiny.ctx, result.run_id, 45)
    assert status.result is not None and status.result["verdict"] == "pass"
    assert tiny.entries()[-1].run_id == result.run_id


def test_the_plan_of_the_runs_beginning_is_what_its_evidence_stands_on(tiny: Any) -> None:
    """A plan that is changed while a run goes on must not adopt that run's evidence."""
    from fastvideo_port.port.freshness import what_changed

    result = check_mapping(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
    before = tiny.port.components
    planned = before[0].model_copy(update={"port": "fastvideo.tiny.Another"})
    tiny.ctx.ports.update(tiny.port_id, lambda port: port.model_copy(update={"components": [planned]}))
    try:
        run_status(tiny.ctx, result.run_id, 45)
        assert "the plan names other classes" in " ".join(what_changed(tiny.entries()[-1], tiny.port))
    finally:
        tiny.ctx.ports.update(tiny.port_id, lambda port: port.model_copy(update={"components": before}))
    assert what_changed(tiny.entries()[-1], tiny.port) == []


TOOLS = pytest.mark.parametrize("tool", [check_mapping, run_component_parity])


@TOOLS
def test_an_unknown_port_or_component_is_named_with_the_nearest(tiny: Any, tool: Any) -> None:
    before = tiny.left()
    with pytest.raises(PortError, match="no port with this id") as caught:
        tool(tiny.ctx, tiny.port_id + "x", "transformer")
    assert tiny.port_id in caught.value.seen
    with pytest.raises(PortError, match="no component of this name") as caught:
        tool(tiny.ctx, tiny.port_id, "transfomer")
    assert "'transformer'" in caught.value.fix
    assert tiny.left() == before


@pytest.fixture
def traps(tiny: Any, tmp_path: Path) -> Path:
    """A folder in the worktree with everything that is no adapter; a secret outside."""
    folder: Path = tiny.worktree / "traps"
    if not folder.exists():
        folder.mkdir()
        secret = tiny.worktree.parent / "secret.py"
        secret.write_text("raise SystemExit('the file outside was run')\n")
        (folder / "link.py").symlink_to(secret)
        (folder / "folder.py").mkdir()
        os.mkfifo(folder / "fifo.py")
        (folder / "out").symlink_to(tiny.worktree.parent, target_is_directory=True)
    return folder


@TOOLS
@pytest.mark.parametrize(
    "adapter",
    [
        "../secret.py",
        "traps/../../secret.py",
        "traps/link.py",
        "traps/out/secret.py",
        "traps/folder.py",
        "traps/fifo.py",
        "traps/absent.py",
        "/etc/passwd",
        "~/x.py",
        ".git/config",
        "",
        "a\x00b.py",
        "x" * 5000,
        "/dev/zero",
    ],
)
def test_an_adapter_that_is_no_file_of_the_worktree_starts_nothing(
    tiny: Any, traps: Path, tool: Any, adapter: str
) -> None:
    before = tiny.left()
    with pytest.raises(PortError) as caught:
        tool(tiny.ctx, tiny.port_id, "transformer", adapter=adapter)
    assert caught.value.what and caught.value.fix
    assert "the file outside" not in str(caught.value)
    assert tiny.left() == before


@TOOLS
def test_a_component_without_an_adapter_says_what_to_write(tiny: Any, tool: Any) -> None:
    before = tiny.left()
    path = tiny.worktree / ADAPTER
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(PortError, match="no adapter yet") as caught:
            tool(tiny.ctx, tiny.port_id, "transformer")
    finally:
        path.with_suffix(".away").rename(path)
    assert "load_official(ctx)" in caught.value.fix and ADAPTER in caught.value.seen
    assert tiny.left() == before


@TOOLS
@pytest.mark.parametrize("wait_s", [float("nan"), -1, 99, float("inf")])
def test_a_wait_out_of_range_starts_nothing(tiny: Any, tool: Any, wait_s: float) -> None:
    before = tiny.left()
    with pytest.raises(PortError, match="wait_s is out of range"):
        tool(tiny.ctx, tiny.port_id, "transformer", wait_s=wait_s)
    assert tiny.left() == before


def test_a_port_that_does_not_load_fails_with_its_reason(tiny: Any) -> None:
    with tiny.edited("fastvideo/tiny.py", "import torch\n", "import torhc\n"):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert result.verdict == "fail"
    assert "torhc" in result.suspects[0].message and "torhc" in result.next_step


def test_a_port_that_cannot_be_built_says_nothing_of_the_mapping(tiny: Any) -> None:
    """Project: half a model holds half of the names, which would accuse the rules of what the constructor did."""
    with tiny.edited("fastvideo/tiny.py", "self.down = ", 'raise ValueError("no such head")\n        self.down = '):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert (result.verdict, result.unexpected, result.missing) == ("fail", [], [])
    assert "param_names_mapping" not in result.next_step and result.likely_causes == []
    for part in ("was not judged", "no such head", "fastvideo/tiny.py:", "Repair load_port in "):
        assert part in result.next_step, result.next_step


def test_a_place_of_the_adapter_that_is_not_written_yet_is_named_and_no_rule_is_accused(tiny: Any) -> None:
    edit = "model, state = TinyNet(), {}\n"
    with tiny.edited(ADAPTER, edit, 'raise NotImplementedError("fill in: the entries")\n    ' + edit):
        result = check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert (result.verdict, result.unexpected, result.missing) == ("fail", [], [])
    assert "fill in: the entries" in result.next_step and "param_names_mapping" not in result.next_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fastvideo_that_wants_a_gpu_is_answered_with_the_patches_and_not_with_a_repair_of_the_port(tiny: Any) -> None:
    """Project: the patches are chosen when a port begins; an agent that was told to repair load_port worked around."""
    line = "self.down = "
    message = 'raise ValueError("Invalid attention backend for CPU")'
    with tiny.edited("fastvideo/tiny.py", line, f"{message}\n        {line}"):
        mapping = check_mapping(tiny.ctx, tiny.port_id, "transformer")
        with pytest.raises(PortError) as caught:
            run_component_parity(tiny.ctx, tiny.port_id, "transformer")
    for told in (mapping.next_step, caught.value.fix):
        assert "create_worktree(environment_patches=['cpu-attention'" in told, told


def test_an_adapter_that_breaks_is_an_error_and_no_evidence(tiny: Any) -> None:
    before = len(tiny.entries())
    with tiny.edited(ADAPTER, "import re\n", "import ree\n"), pytest.raises(PortError) as caught:
        check_mapping(tiny.ctx, tiny.port_id, "transformer")
    assert "ree" in str(caught.value) and caught.value.fix
    assert len(tiny.entries()) == before
