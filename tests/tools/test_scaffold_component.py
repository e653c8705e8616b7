"""scaffold_component over real runs: what it writes is red, then green when filled in, and overwrites nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.check_mapping import finish as finish_mapping
from fastvideo_port.tools.run_component_parity import finish as finish_parity
from fastvideo_port.tools.run_component_parity import run_component_parity
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.scaffold_component import finish, scaffold_component
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

FOLDER = "tests/local_tests/tiny"
ADAPTER, TEST, MAPPING = (
    f"{FOLDER}/{name}" for name in ("parity_transformer.py", "test_transformer_parity.py", "mapping_transformer.py")
)
CONTEXT = "import contextlib\n\n\n@contextlib.contextmanager\ndef set_forward_context(**kw):\n    yield\n"


def waited(tiny: Any, result: Any, end: Any) -> Any:
    """The finished result, however busy the machine is."""
    while result.state in ("queued", "running"):
        run_status(tiny.ctx, result.run_id, 45)
        result = end(tiny.ctx, tiny.ctx.runs.get(result.run_id))
    return result


def scaffold(tiny: Any) -> Any:
    return waited(tiny, scaffold_component(tiny.ctx, tiny.port_id, "transformer"), finish)


def error_of(tiny: Any, call: Any, end: Any) -> str:
    with pytest.raises(PortError) as caught:
        waited(tiny, call(tiny.ctx, tiny.port_id, "transformer"), end)
    return str(caught.value)


def test_a_scaffold_is_red_until_it_is_filled_in_and_then_passes(tiny: Any) -> None:
    (tiny.worktree / ADAPTER).unlink()
    (tiny.worktree / "fastvideo/forward_context.py").write_text(CONTEXT)
    result = scaffold(tiny)
    assert result.written == [ADAPTER, TEST, MAPPING] and not result.kept
    assert result.signatures["port"].endswith("fastvideo/tiny.py:7")
    assert any("x" in place for place in result.fill_in) and len(result.fill_in) >= 3
    mapping = (tiny.worktree / MAPPING).read_text()
    assert r"^first\.weight$" in mapping and "up.weight" in mapping
    compile(mapping, MAPPING, "exec")

    before = len(tiny.entries())
    said = error_of(tiny, run_component_parity, finish_parity)
    assert "of the adapter raised" in said  # the places of either side, or FastVideo's loaders, which are not here
    text = (tiny.worktree / ADAPTER).read_text()
    mapped = waited_or_error(tiny)
    assert mapped != "pass"
    assert all(entry.verdict != "pass" for entry in tiny.entries()[before:])

    start, end = (
        text.index('    os.environ["FASTVIDEO_ATTENTION_BACKEND"]'),
        text.index("def make_inputs"),
    )
    port = (
        "    from fastvideo.tiny import TinyNet\n\n"
        '    folder = ctx.official_weights / "transformer"\n    model = TinyNet()\n    state = {}\n'
        "    for name, value in _weights(folder).items():\n"
        '        name = name.replace("first.", "up.").replace("second.", "down.")\n        state[name] = value\n'
        "    model.load_state_dict(state)\n    return model.to(ctx.device, ctx.dtype).eval()\n\n\n"
    )
    text = text[:start] + port + text[end:]
    text = text.replace(_place(text, "    model = Net("), "    model = Net()")
    text = text.replace(_place(text, '"x": fill_in('), '"x": torch.randn(2 + case["batch"], 8, generator=rng),')
    text = text.replace("case, config = ctx.case, _hf_config(ctx)", "case = ctx.case")
    (tiny.worktree / ADAPTER).write_text(text)
    assert waited(tiny, check_mapping(tiny.ctx, tiny.port_id, "transformer"), finish_mapping).verdict == "pass"
    parity = waited(tiny, run_component_parity(tiny.ctx, tiny.port_id, "transformer", device="cpu"), finish_parity)
    assert parity.verdict == "pass", parity.findings

    again = scaffold(tiny)
    assert again.kept == [ADAPTER] and again.written == [TEST, MAPPING]
    assert (tiny.worktree / ADAPTER).read_text() == text
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST]
    environment = {"PYTHONPATH": f"{tiny.worktree}:{tiny.port.official_repo}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tiny.worktree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "2 passed" in done.stdout
    with tiny.edited("fastvideo/tiny.py", "eps=1e-6", "eps=1e-1"):
        done = subprocess.run(command, cwd=tiny.worktree, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "2 failed" in done.stdout


def waited_or_error(tiny: Any) -> str:
    try:
        result = waited(tiny, check_mapping(tiny.ctx, tiny.port_id, "transformer"), finish_mapping)
        return str(result.verdict)
    except PortError:
        return "error"


def _place(text: str, begin: str) -> str:
    start = text.index(begin)
    return text[start : text.index("\n", start)]


def test_a_link_out_of_the_worktree_and_a_folder_in_its_place_are_refused(tiny: Any, tmp_path: Path) -> None:
    adapter = tiny.worktree / ADAPTER
    before = adapter.read_text() if adapter.is_file() else None
    adapter.unlink(missing_ok=True)
    outside = tmp_path / "outside.py"
    outside.write_text("x = 1\n")
    adapter.symlink_to(outside)
    left = tiny.left()
    with pytest.raises(PortError, match="leaves the worktree"):
        scaffold_component(tiny.ctx, tiny.port_id, "transformer")
    adapter.unlink()
    adapter.mkdir()
    with pytest.raises(PortError, match="is taken"):
        scaffold_component(tiny.ctx, tiny.port_id, "transformer")
    adapter.rmdir()
    assert outside.read_text() == "x = 1\n" and tiny.left() == left
    if before is not None:
        adapter.write_text(before)


def test_an_unknown_component_is_refused(tiny: Any) -> None:
    with pytest.raises(PortError, match="no component of this name"):
        scaffold_component(tiny.ctx, tiny.port_id, "transfomer")
    assert json.loads(json.dumps(tiny.port.components[0].name)) == "transformer"


def planned_as(tiny: Any, **changed: str) -> None:
    """The plan with other classes for the transformer."""
    record = tiny.port.component("transformer")
    values = {**record.model_dump(include={"name", "kind", "official", "port", "adapter"}), **changed}
    write_plan(tiny.ctx, tiny.port_id, "The network.", [PlanComponent(**values)])


def test_an_official_class_that_does_not_exist_is_refused_with_the_nearest_and_nothing_is_written(tiny: Any) -> None:
    """The module has its names like diffusers, which imports them when they are asked for."""
    right = tiny.port.component("transformer").official
    lazy = Path(tiny.port.official_repo) / "tiny_lazy.py"
    lazy.write_text(
        "def __dir__():\n    return ['Net']\n\n\n"
        "def __getattr__(name):\n    if name == 'Net':\n        from tiny_official import Net\n\n        return Net\n"
        "    raise AttributeError(name)\n"
    )
    (tiny.worktree / ADAPTER).unlink(missing_ok=True)
    try:
        planned_as(tiny, official="tiny_lazy.Nett")
        said = error_of(tiny, scaffold_component, finish)
        assert "no tiny_lazy.Nett" in said and "nearest: Net" in said and "write_plan" in said
        assert not (tiny.worktree / ADAPTER).exists()
        planned_as(tiny, official="tiny_lazy.Net")
        assert ADAPTER in scaffold(tiny).written
    finally:
        planned_as(tiny, official=right)
        lazy.unlink()


def test_a_class_that_cannot_be_read_leads_the_next_step(tiny: Any) -> None:
    right = tiny.port.component("transformer").port
    (tiny.worktree / ADAPTER).unlink(missing_ok=True)
    try:
        planned_as(tiny, port="fastvideo.tiny.TinyNett")
        result = scaffold(tiny)
        assert result.next_step.startswith("fastvideo.tiny.TinyNett could not be read")
        assert "nearest: TinyNet" in result.signatures["port"]
        # FastVideo's base class asks every DiT for it; an adapter that leaves it out fails when the class is written.
        assert "TinyNett(config, hf_config=hf_config)" in (tiny.worktree / ADAPTER).read_text()
    finally:
        planned_as(tiny, port=right)
