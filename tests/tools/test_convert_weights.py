"""convert_weights as a tool: files of the worktree only, placed whole, recorded, believed by check_mapping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.converted import why_unproven
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.freshness import what_changed
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.runs.processes import marked
from fastvideo_port.tools._components import uses_converted, weights_folder
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.check_mapping import CheckMappingResult, check_mapping
from fastvideo_port.tools.check_mapping import finish as finish_mapping
from fastvideo_port.tools.convert_weights import ConvertWeightsResult, convert_weights
from fastvideo_port.tools.convert_weights import finish as finish_conversion
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.fetch_weights import fetch_weights

RULES = {
    "rules": [{"match": r"transformer/(.*)", "to": r"transformer/\1"}],
    "components": {"transformer": {"class": "TinyTransformer", "config": "transformer/config.json"}},
    "model_index": {"_class_name": "TinyPipeline"},
}


def write(worktree: Path, name: str, value: Any) -> str:
    path = worktree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return name


def converted(ctx: ToolContext, port_id: str, **arguments: Any) -> ConvertWeightsResult:
    """The tool's result, however long a busy machine takes."""
    result = convert_weights(ctx, port_id, **arguments)
    return finish_conversion(ctx, ctx.runs.wait(result.run_id, 240))


def mapped(ctx: ToolContext, port_id: str, component: str) -> CheckMappingResult:
    return finish_mapping(ctx, ctx.runs.wait(check_mapping(ctx, port_id, component).run_id, 240))


def test_check_mapping_reads_converted_weights_while_their_proof_holds(tiny: Any) -> None:
    worktree, component = tiny.worktree, tiny.port.components[0]
    official = weights_folder(tiny.port, component)
    assert official is not None and "official_weights" in official
    result = converted(tiny.ctx, tiny.port_id, rules=write(worktree, "rules.json", RULES))
    assert result.verdict == "pass" and result.layout == "diffusers", result
    assert result.path == str(worktree / "converted_weights" / tiny.port.slug)
    assert result.proof is not None and result.proof.tensors == [6, 6] and "check_mapping" in result.next_step
    assert weights_folder(tiny.port, component) == f"{result.path}/transformer"
    mapping = mapped(tiny.ctx, tiny.port_id, "transformer")
    assert mapping.verdict == "pass" and "converted_weights" in mapping.source
    entry = tiny.entries()[-1]
    assert entry.depends_on["converted"] == uses_converted(tiny.port) and what_changed(entry, tiny.port) == []
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=worktree, capture_output=True, text=True, check=True
    ).stdout
    assert "converted_weights" not in done

    shard = next(Path(result.path).rglob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert "changed after the conversion" in why_unproven(tiny.port)
    assert weights_folder(tiny.port, component) == official
    assert "no longer count" in " ".join(what_changed(entry, tiny.port))

    again = converted(tiny.ctx, tiny.port_id, rules="rules.json")
    assert again.verdict == "pass" and why_unproven(tiny.port) == ""
    assert what_changed(entry, tiny.port) == [], "the same bytes again: the evidence holds"


def test_a_folder_made_by_hand_is_not_believed(tiny: Any) -> None:
    tiny.ctx.ports.update(tiny.port_id, lambda port: port.model_copy(update={"converted": None, "conversions": 0}))
    folder = tiny.worktree / "converted_weights" / tiny.port.slug / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.safetensors").write_bytes(b"")
    assert "official_weights" in str(weights_folder(tiny.port, tiny.port.components[0]))
    (folder / "x.safetensors").unlink()


def test_the_evidence_goes_stale_with_its_script_and_a_failure_is_evidence_too(tiny: Any) -> None:
    script = (
        "import os, pathlib, shutil\nout = pathlib.Path(os.environ['FASTVIDEO_PORT_OUTPUT'])\n"
        "shutil.copytree(os.environ['FASTVIDEO_PORT_SOURCE'], out, dirs_exist_ok=True)\n"
        '(out / \'model_index.json\').write_text(\'{"_class_name": "P", "transformer": ["diffusers", "T"]}\')\n'
    )
    name = write(tiny.worktree, "scripts/convert.py", script)
    result = converted(tiny.ctx, tiny.port_id, script=name)
    assert result.verdict == "pass", result
    assert any("Diffusers layout" in note for note in result.notes), "the rule: it loads already, do not convert"
    entry = next(entry for entry in reversed(tiny.entries()) if entry.run_id == result.run_id)
    assert entry.kind == "convert_weights" and what_changed(entry, tiny.port) == []
    write(tiny.worktree, "scripts/convert.py", script + "\n")
    assert what_changed(entry, tiny.port) == ["scripts/convert.py changed"]
    write(tiny.worktree, "scripts/convert.py", script.split("(out /")[0])
    failed = converted(tiny.ctx, tiny.port_id, script=name)
    assert failed.verdict == "fail" and failed.findings[0].code == "no-model-index" and failed.layout == "unknown"
    assert tiny.entries()[-1].verdict == "fail" and uses_converted(tiny.port) is not None


def test_a_script_that_raises_is_an_error_with_its_last_words(tiny: Any) -> None:
    before = len(tiny.entries())
    name = write(tiny.worktree, "scripts/broken.py", "raise KeyError('blocks.0')\n")
    with pytest.raises(PortError, match="ended with status 1") as caught:
        converted(tiny.ctx, tiny.port_id, script=name)
    assert "blocks.0" in caught.value.seen and len(tiny.entries()) == before


def test_a_conversion_that_drops_everything_proves_nothing(tiny: Any) -> None:
    rules = {**RULES, "rules": [{"match": ".*", "drop": "not needed"}]}
    result = converted(tiny.ctx, tiny.port_id, rules=write(tiny.worktree, "rules/none.json", rules))
    assert result.verdict == "fail" and [row.code for row in result.findings] == ["nothing-arrived"]


LEFT_BEHIND = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(3600)
"""


def test_a_process_that_a_script_left_behind_is_not_waited_for(tiny: Any) -> None:
    result = converted(tiny.ctx, tiny.port_id, script=write(tiny.worktree, "scripts/fork.py", LEFT_BEHIND))
    assert (result.state, result.verdict) == ("done", "fail")


@pytest.mark.parametrize("put", ["os.symlink({away!r}, out)", "open(out, 'w').close()", "pass"])
def test_a_script_that_replaces_its_output_folder_is_told_and_the_next_one_works(
    tiny: Any, tmp_path: Path, put: str
) -> None:
    placed = put.format(away=str(tmp_path))
    script = f"import os\nout = os.environ['FASTVIDEO_PORT_OUTPUT']\nos.rmdir(out)\n{placed}\n"
    with pytest.raises(PortError, match="something else in its place"):
        converted(tiny.ctx, tiny.port_id, script=write(tiny.worktree, "scripts/replace.py", script))
    assert tmp_path.is_dir()
    nothing = converted(tiny.ctx, tiny.port_id, script=write(tiny.worktree, "scripts/nothing.py", "pass\n"))
    assert nothing.verdict == "fail" and nothing.path.endswith(".rejected")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a script or rules"),
        ({"rules": "../secret.json"}, "leaves the folder"),
        ({"script": "/etc/passwd"}, "leaves the folder"),
        ({"script": ".git/hooks/x"}, ""),
        ({"rules": "absent.json"}, "cannot be used"),
        ({"rules": "bad/list.json"}, "cannot be read"),
        ({"rules": "bad/key.json"}, "unknown key"),
        ({"rules": "bad/name.json"}, "component of the rule file is not legal"),
        ({"rules": "bad/config.json"}, "leaves the folder"),
        ({"rules": "bad/form.toml"}, "another form"),
        ({"rules": "bad/fifo.json"}, "neither a file nor a folder"),
        ({"rules": "rules.json", "script": "bad/list.json"}, "rules may only drop"),
        ({"rules": "rules.json", "args": ["x"]}, "args are for a script"),
        ({"script": "bad/list.json", "args": ["a\0"]}, "cannot be handed on"),
    ],
)
def test_what_cannot_be_a_conversion_starts_nothing(tiny: Any, arguments: dict[str, Any], words: str) -> None:
    write(tiny.worktree, "rules.json", RULES)
    write(tiny.worktree, "bad/list.json", "[]")
    write(tiny.worktree, "bad/key.json", {"rule": []})
    write(tiny.worktree, "bad/name.json", {"rules": [], "components": {"../x": {}}})
    write(tiny.worktree, "bad/config.json", {"rules": [], "components": {"x": {"config": "/etc/passwd"}}})
    write(tiny.worktree, "bad/form.toml", "rules = 3\n")
    if not (tiny.worktree / "bad/fifo.json").exists():
        os.mkfifo(tiny.worktree / "bad/fifo.json")
    before = tiny.left()
    with pytest.raises(PortError, match=words) as caught:
        convert_weights(tiny.ctx, tiny.port_id, **arguments)
    assert caught.value.fix and tiny.left() == before


def test_a_toml_file_says_the_same_as_a_json_file(tiny: Any) -> None:
    text = """
[[rules]]
match = 'transformer/(.*)'
to = 'transformer/\\1'
[components.transformer]
class = "TinyTransformer"
config = "transformer/config.json"
[model_index]
_class_name = "TinyPipeline"
"""
    one = converted(tiny.ctx, tiny.port_id, rules=write(tiny.worktree, "rules.toml", text))
    other = converted(tiny.ctx, tiny.port_id, rules=write(tiny.worktree, "rules.json", RULES))
    assert one.verdict == other.verdict == "pass" and one.proof is not None and other.proof is not None
    assert one.proof.digest == other.proof.digest


def test_killed_in_the_middle_nothing_half_stands_under_the_name_and_it_starts_again(tiny: Any) -> None:
    """kill -9 of the worker while the script has written half."""
    target = tiny.worktree / "converted_weights" / tiny.port.slug
    converted(tiny.ctx, tiny.port_id, rules=write(tiny.worktree, "rules.json", RULES))
    whole = sorted(path.name for path in target.rglob("*"))
    name = write(
        tiny.worktree,
        "scripts/slow.py",
        "import os, pathlib, time\nout = pathlib.Path(os.environ['FASTVIDEO_PORT_OUTPUT'])\n"
        "(out / 'transformer').mkdir()\n(out / 'model_index.json').write_text('{')\ntime.sleep(120)\n",
    )
    run = convert_weights(tiny.ctx, tiny.port_id, script=name, wait_s=0)
    deadline = time.monotonic() + 240
    while not list(target.parent.glob(".converting-*/model_index.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = list(marked(run.run_id))
    assert workers
    for process in workers:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(PortError, match="killed by SIGKILL"):
        _ended(tiny, run.run_id)
    assert sorted(path.name for path in target.rglob("*")) == whole, "the earlier conversion stands untouched"
    again = converted(tiny.ctx, tiny.port_id, rules="rules.json")
    assert again.verdict == "pass"
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", tiny.port.slug]


def _ended(tiny: Any, run_id: str) -> None:
    from fastvideo_port.tools._finish import finish

    tiny.ctx.runs.wait(run_id, 60)
    finish(tiny.ctx, tiny.ctx.runs.get(run_id))


def test_a_result_that_nobody_asked_for_counts_when_the_next_tool_comes(tiny: Any) -> None:
    run = convert_weights(tiny.ctx, tiny.port_id, rules=write(tiny.worktree, "rules.json", RULES), wait_s=0)
    tiny.ctx.runs.wait(run.run_id, 240)
    check_mapping(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
    assert tiny.port.converted is not None and tiny.port.converted.conversion == tiny.port.conversions
    assert Ledger(tiny.ctx.home).verify() == []


@pytest.mark.fastvideo
def test_a_monolithic_wan_is_converted_and_loads_as_diffusers_does(
    fastvideo: Path, tmp_path: Path, wan_checkpoint: Path, fastvideo_python: Path
) -> None:
    """The real small Wan in one file with fused qkv and original names, by rules, loaded by diffusers itself."""
    make = tmp_path / "make.py"
    make.write_text(MONOLITHIC)
    source = tmp_path / "monolithic"
    source.mkdir()
    command = [str(fastvideo_python), str(make), str(wan_checkpoint / "transformer"), str(source)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    home = tmp_path / "state"
    home.mkdir()
    ctx = ToolContext(home=home, cwd=fastvideo)
    port_id = create_worktree(ctx, "Wan mono", python=sys.executable).port_id
    fetched = fetch_weights(ctx, port_id, str(source))
    assert fetched.layout == "single-file" and fetched.needs_conversion
    worktree = Path(ctx.ports.get(port_id).worktree)
    config = json.loads((wan_checkpoint / "transformer/config.json").read_text())
    fused = [r"transformer/blocks.\1.attn\2.to_" + part + r".\3" for part in "qkv"]
    rules = {
        "rules": [
            {"match": r"model\.diffusion_model\.blocks\.(\d+)\.attn([12])\.qkv\.(weight|bias)", "to": fused},
            {"match": r"model\.diffusion_model\.(.*)", "to": r"transformer/\1"},
        ],
        "components": {"transformer": {"class": "WanTransformer3DModel", "config": config}},
        "model_index": {"_class_name": "WanPipeline"},
        "shard_gb": 0.001,
    }
    result = converted(ctx, port_id, rules=write(worktree, "rules.json", rules))
    assert result.verdict == "pass", result
    assert result.proof is not None and result.proof.tensors[0] == result.proof.tensors[1] > 40
    assert result.notes == []
    compare = tmp_path / "compare.py"
    compare.write_text(COMPARE)
    command = [str(fastvideo_python), str(compare), str(wan_checkpoint / "transformer"), f"{result.path}/transformer"]
    said = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    assert "equal" in said


MONOLITHIC = """
import pathlib, sys, torch
from safetensors.torch import load_file, save_file

made, out = {}, {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    made.update(load_file(path))
for name, tensor in made.items():
    if ".to_q." in name:
        parts = [made[name.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
        out["model.diffusion_model." + name.replace("to_q", "qkv")] = torch.cat(parts)
    elif ".to_k." not in name and ".to_v." not in name:
        out["model.diffusion_model." + name] = tensor
save_file(out, sys.argv[2] + "/wan.safetensors")
"""
COMPARE = """
import sys, torch
from diffusers import WanTransformer3DModel

one, two = (WanTransformer3DModel.from_pretrained(path).state_dict() for path in sys.argv[1:])
assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
print("equal")
"""
