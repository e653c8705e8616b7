"""What scaffold_component writes for FastVideo's classes: red as it is, green with its marked places filled in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity import children
from fastvideo_port.parity.component_job import component_parity
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.job import Job
from fastvideo_port.parity.mapping_job import check_mapping
from fastvideo_port.parity.scheduler_job import check_scheduler
from fastvideo_port.parity.signature_job import signatures
from fastvideo_port.port.records import ComponentRecord
from fastvideo_port.port.scaffold import scaffold_files

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parity")]
import warm  # noqa: E402
from table import PAIRS, Pair  # noqa: E402

WARM = (
    "torch",
    "safetensors.torch",
    "torch._dynamo",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "transformers.models.umt5.modeling_umt5",
    "fastvideo.models.dits.wanvideo",
    "fastvideo.models.encoders.t5",
    "fastvideo.models.schedulers.scheduling_flow_match_euler_discrete",
    "fastvideo.models.loader.fsdp_load",
)
CONFIG = 'fill_in("the entries of config.json under FastVideo\'s names, usually hf_config as it is")'
SHAPES = {
    "hidden_states": 'torch.randn(case["batch"], config["in_channels"], 2, 8, 12, generator=rng)',
    "timestep": 'torch.randint(1, 1000, (case["batch"],), generator=rng)',
    "encoder_hidden_states": 'torch.randn(case["batch"], 7, config["text_dim"], generator=rng)',
    "input_ids": 'torch.randint(2, config["vocab_size"], (case["batch"], 9), generator=rng)',
    "attention_mask": 'torch.arange(9).lt(torch.tensor([[9], [5]])[: case["batch"]]).long()',
}
SCHEDULER = 'fill_in("the entries of config under FastVideo\'s names, usually config as it is")'
KINDS = {"text_encoder": "encoder"}


@pytest.fixture(scope="module")
def bench(
    fastvideo_template: Path, fastvideo_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A worktree of FastVideo, and children that have it imported already."""
    root = tmp_path_factory.mktemp("scaffold")
    worktree = root / "worktree"
    shutil.copytree(fastvideo_template / "fastvideo", worktree / "fastvideo")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(worktree))
    process = warm.Warm(root, str(fastvideo_python), WARM)
    patch.setattr(children, "subprocess", types.SimpleNamespace(Popen=process.popen, PIPE=subprocess.PIPE))
    yield {"root": root, "worktree": worktree, "python": str(fastvideo_python)}
    patch.undo()
    process.close()


def spec_of(bench: dict[str, Any], pair: Pair, adapter: str) -> dict[str, Any]:
    weights = bench["root"] / "weights" / pair.name
    if not weights.exists():
        command = [bench["python"], str(HERE / "build_weights.py"), pair.name, str(weights), "0"]
        subprocess.run(command, check=True, capture_output=True)
    folder = weights / pair.folder
    return {
        "adapter": str(bench["worktree"] / adapter),
        "worktree": str(bench["worktree"]),
        "official_repo": None,
        "official_weights": str(weights),
        "converted_weights": None,
        "weights_folder": str(folder) if list(folder.glob("*.safetensors")) else None,
        "official_class": pair.official,
        "port_class": pair.port,
        "component": pair.folder,
        "num_steps": 7,
        "python": bench["python"],
        "official_python": None,
        "cases": None,
        "seeds": [0, 1],
        "dtypes": ["float32"],
        "device": "cpu",
        "patches": ["cpu-attention"],
        "threads": 1,
        "reference_cache": None,
        "trusted_references": [],
        "diagnose": False,
    }


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", ["flow_match_euler", "umt5", pytest.param("wan_dit", marks=pytest.mark.thorough)])
def test_a_real_scaffold_is_red_and_passes_with_its_places_filled_in(name: str, bench: dict[str, Any]) -> None:
    pair = PAIRS[name]
    path = f"tests/local_tests/{name}/parity_{pair.folder}.py"
    component = ComponentRecord(
        name=pair.folder,
        kind=KINDS.get(pair.kind, pair.kind),  # type: ignore[arg-type]
        official=pair.official,
        port=pair.port,
        adapter=path,
    )
    spec, count = spec_of(bench, pair, path), iter(range(100))

    def job() -> Job:
        folder = bench["root"] / f"{name}-{next(count)}"
        folder.mkdir()
        return Job(folder)

    facts = signatures(spec, job())
    assert not facts["official"]["error"] and not facts["port"]["error"]
    files = scaffold_files(component, pair.folder, f"../weights/{name}", facts, ["cpu-attention"])
    for file in files:
        (bench["worktree"] / file.path).parent.mkdir(parents=True, exist_ok=True)
        (bench["worktree"] / file.path).write_text(file.text)
        compile(file.text, file.path, "exec")
    checks = [check_scheduler, component_parity] if pair.kind == "scheduler" else [check_mapping, component_parity]
    for check in checks:
        try:
            value = check(spec, job())
        except ParityError as error:
            assert "fill in:" in str(error), error
        else:
            assert value["verdict"] == "fail" and "fill in:" in str(value["load_error"]), value
    text = files[0].text.replace(CONFIG, "hf_config").replace(SCHEDULER, "config")
    for line in [line for line in text.splitlines() if '": fill_in("' in line]:
        key = line.strip().split('"')[1]
        text = text.replace(line, f'        "{key}": {SHAPES[key]},')
    assert 'fill_in("' not in text, text
    (bench["worktree"] / path).write_text(text)
    for check in checks:
        value = check(spec, job())
        assert value["verdict"] == "pass", (check.__name__, value.get("findings"), value.get("missing"))
    if pair.kind == "scheduler":
        (bench["worktree"] / "fastvideo/registry.py").touch()
        done = subprocess.run(
            [bench["python"], "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1].path],
            cwd=bench["worktree"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-500:]
    else:
        mapping = next(file.text for file in files if file.role == "mapping")
        assert "state dict on meta" in mapping and "headers of the files" in mapping
