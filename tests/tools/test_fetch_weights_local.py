"""fetch_weights from local folders: what it reads, what it names, what it refuses."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.weights import read_weights
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.fetch_weights import FetchWeightsResult, fetch_weights
from fastvideo_port.tools.write_plan import PlanComponent, write_plan
from safetensors.numpy import save_file


@pytest.fixture
def port_id(context: ToolContext) -> str:
    """A port whose worktree waits for weights."""
    return create_worktree(context, "Wan 2.1", python=sys.executable).port_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, outside the worktree, with a space in its name."""
    folder = tmp_path / "my weights"
    folder.mkdir()
    return folder


def save(path: Path, *keys: str, dtype: Any = np.float32, size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.full((size,), 0.5, dtype) for key in keys}, path)


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def component(folder: Path, *, class_name: str = "WanTransformer3DModel") -> None:
    """One Diffusers component in two shards with their index."""
    put(folder / "config.json", {"_class_name": class_name})
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save(folder / names[0], "a.weight", "b.weight")
    save(folder / names[1], "c.weight", dtype=np.float16, size=6)
    weight_map = {"a.weight": names[0], "b.weight": names[0], "c.weight": names[1]}
    put(folder / "diffusion_pytorch_model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def pipeline(folder: Path) -> None:
    """A Diffusers pipeline with a DiT, a VAE, a text encoder, a tokenizer and a scheduler."""
    put(
        folder / "model_index.json",
        {
            "_class_name": "WanPipeline",
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLWan"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "image_encoder": [None, None],
        },
    )
    component(folder / "transformer")
    put(folder / "vae/config.json", {"_class_name": "AutoencoderKLWan"})
    save(folder / "vae/diffusion_pytorch_model.safetensors", "d", dtype=np.float16)
    put(folder / "text_encoder/config.json", {"architectures": ["UMT5EncoderModel"], "model_type": "umt5"})
    save(folder / "text_encoder/model.safetensors", "shared.weight")
    put(folder / "scheduler/scheduler_config.json", {"_class_name": "UniPCMultistepScheduler"})


def test_a_component_in_shards_is_linked_and_described(context: ToolContext, port_id: str, folder: Path) -> None:
    component(folder)
    result = fetch_weights(context, port_id, str(folder))
    link = Path(context.ports.get(port_id).worktree) / "official_weights/wan-2-1"
    assert Path(result.path) == link
    assert link.is_symlink()
    assert link.resolve() == folder
    assert (result.layout, result.needs_conversion, result.revision) == ("diffusers", False, None)
    (dit,) = result.components
    assert (dit.name, dit.kind, dit.class_name) == ("transformer", "dit", "WanTransformer3DModel")
    assert (dit.files, dit.tensors, dit.parameters, dit.dtypes) == (2, 3, 14, {"F16": 6, "F32": 8})
    assert (result.counts["tensors"], result.counts["parameters"]) == (3, 14)
    assert (result.missing, result.index_faults, result.duplicates, result.unsafe_files) == ([], [], [], [])
    assert result.counts["bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    known = context.ports.get(port_id).weights
    assert known is not None
    assert (known.path, known.source, known.digest) == (str(link), str(folder), result.digest)
    assert json.loads(Path(result.details).read_text())["digest"] == result.digest
    assert "write_plan" in result.next_step


def test_a_pipeline_has_its_components_in_order_with_their_kinds(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    pipeline(folder)
    result = fetch_weights(context, port_id, str(folder))
    assert result.layout == "diffusers"
    assert not result.needs_conversion
    assert [(item.name, item.kind, item.tensors) for item in result.components] == [
        ("transformer", "dit", 3),
        ("vae", "vae", 1),
        ("text_encoder", "encoder", 1),
        ("tokenizer", "tokenizer", 0),
        ("scheduler", "scheduler", 0),
    ]


def sharded(folder: Path) -> None:
    component(folder)
    (folder / "config.json").unlink()


def monolithic(folder: Path) -> None:
    save(folder / "all.safetensors", "model.diffusion_model.a", "first_stage_model.b")


def transformers(folder: Path) -> None:
    put(folder / "config.json", {"architectures": ["UMT5EncoderModel"], "model_type": "umt5"})
    save(folder / "model.safetensors", "shared.weight")


def mixed_pipeline(folder: Path) -> None:
    pipeline(folder)
    monolithic(folder)


def loose(folder: Path) -> None:
    save(folder / "one.safetensors", "a")
    save(folder / "two.safetensors", "b")


@pytest.mark.parametrize(
    ("build", "layout"),
    [
        (sharded, "sharded"),
        (monolithic, "monolithic"),
        (transformers, "transformers"),
        (lambda folder: save(folder / "wan.safetensors", "blocks.0.a", "blocks.1.a"), "single-file"),
        (loose, "mixed"),
        (lambda folder: (folder / "wan.pth").write_bytes(b"x"), "unknown"),
    ],
)
def test_each_layout_is_told_from_the_others(
    tmp_path: Path, folder: Path, build: Callable[[Path], None], layout: str
) -> None:
    build(folder)
    report = read_weights(folder, tmp_path)
    assert (report.layout, report.needs_conversion) == (layout, True)
    assert report.why


def test_a_whole_diffusers_layout_needs_no_conversion_whatever_lies_beside_it(tmp_path: Path, folder: Path) -> None:
    """The rule: Diffusers format exists and loads, so nothing is converted; without a component it does not load."""
    mixed_pipeline(folder)
    report = read_weights(folder, tmp_path)
    assert (report.layout, report.needs_conversion) == ("mixed", False) and "the top folder" in report.why
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert read_weights(folder, tmp_path).needs_conversion
    save(folder / "vae/diffusion_pytorch_model-00002-of-00002.safetensors", "d")
    assert read_weights(folder, tmp_path).needs_conversion


def test_a_single_file_is_a_source(context: ToolContext, port_id: str, folder: Path) -> None:
    save(folder / "wan.safetensors", "a")
    result = fetch_weights(context, port_id, str(folder / "wan.safetensors"))
    assert (Path(result.path) / "wan.safetensors").resolve() == folder / "wan.safetensors"
    assert (result.layout, list(result.files)) == ("single-file", ["wan.safetensors"])


def test_an_absent_shard_is_named(context: ToolContext, port_id: str, folder: Path) -> None:
    component(folder)
    gone = folder / "diffusion_pytorch_model-00002-of-00002.safetensors"
    gone.unlink()
    assert fetch_weights(context, port_id, str(folder)).missing == [gone.name]
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    result = fetch_weights(context, port_id, str(folder))
    assert result.missing == [gone.name]  # the number of the other shard tells
    assert "fetch_weights again" in result.next_step


def test_an_index_that_disagrees_with_the_headers_is_named(context: ToolContext, port_id: str, folder: Path) -> None:
    component(folder)
    save(folder / "diffusion_pytorch_model-00002-of-00002.safetensors", "other.weight")
    faults = fetch_weights(context, port_id, str(folder)).index_faults
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    assert faults == [
        f"c.weight: not in {shard}, though the index says so",
        f"other.weight: in {shard}, but not in the index",
    ]


def test_a_tensor_in_two_files_is_named_with_what_the_index_says(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    component(folder)
    save(folder / "diffusion_pytorch_model-00002-of-00002.safetensors", "c.weight", "a.weight")
    save(folder / "extra.safetensors", "z")
    save(folder / "more.safetensors", "z")
    result = fetch_weights(context, port_id, str(folder))
    first, second = (f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))
    indexed, loose = sorted(result.duplicates)
    assert indexed.startswith(f"a.weight: {first}, {second}"[:100])
    assert loose == "z: extra.safetensors, more.safetensors"
    known = json.loads(Path(result.details).read_text())["duplicates"]
    assert {item["key"]: item["listed_in"] for item in known} == {"a.weight": first, "z": None}


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def test_pickles_are_named_and_never_opened(context: ToolContext, port_id: str, folder: Path, tmp_path: Path) -> None:
    component(folder)
    mark = tmp_path / "ran"
    suffixes = (".bin", ".pt", ".ckpt", ".pkl", ".pth")
    for suffix in suffixes:
        (folder / f"model{suffix}").write_bytes(pickle.dumps(Bomb(mark)))
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    report = read_weights(folder, context.home)
    assert {Path(file.path).suffix for file in report.unsafe_files} == set(suffixes)
    assert any(name.endswith(".safetensors") for name in opened)  # the watch works
    assert not any(name.endswith(suffixes) for name in opened)
    assert len(fetch_weights(context, port_id, str(folder)).unsafe_files) == len(suffixes)
    assert not mark.exists()


def test_custom_code_is_named_and_not_run(context: ToolContext, port_id: str, folder: Path, tmp_path: Path) -> None:
    component(folder)
    config = {"_class_name": "X", "auto_map": {"AutoModel": "modeling.X"}}
    put(folder / "config.json", config)
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    result = fetch_weights(context, port_id, str(folder))
    assert result.custom_code == ["config.json: auto_map", "modeling.py"]
    assert not (tmp_path / "ran").exists()


def test_the_digest_follows_content_and_a_second_call_reads_nothing_again(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    component(folder)
    first = fetch_weights(context, port_id, str(folder))
    shard = folder / next(iter(first.files))
    steps: list[float] = []
    again = read_weights(folder, context.home, lambda done, total, text: steps.append(done))
    assert again.digest == first.digest
    assert steps == sorted(steps)
    assert len(steps) == 2  # a file whose hash is known is told in one step
    status = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time: the change time tells
    changed = fetch_weights(context, port_id, str(folder))
    assert changed.digest != first.digest


def test_progress_names_the_file_never_falls_and_ends_complete(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    save(folder / "big.safetensors", "a", size=6 << 20)
    size = (folder / "big.safetensors").stat().st_size
    steps: list[tuple[float, float | None, str]] = []
    read_weights(folder, context.home, lambda *step: steps.append(step))
    assert len(steps) > 4
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)
    assert steps[-1][:2] == (size, size)
    assert all("big.safetensors" in step[2] for step in steps)
    seen: list[tuple[float, float | None, str]] = []
    watched = ToolContext(context.home, context.cwd, lambda *step: seen.append(step))
    fetch_weights(watched, port_id, str(folder))
    assert seen[-1][:2] == (size, size)
    assert "big.safetensors" in seen[-1][2]


def broken(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        component(folder)
        path = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
        if name == "truncated":
            path.write_bytes(path.read_bytes()[:-3])
        elif name == "huge header":
            path.write_bytes(struct.pack("<Q", 2 << 30) + b"{}")
        elif name == "fifo":
            path.unlink()
            os.mkfifo(path)
        elif name == "config":
            (folder / "config.json").write_text("{nonsense")
        elif name == "index outside":
            index = {"weight_map": {"a": "../../secret.safetensors"}}
            put(folder / "diffusion_pytorch_model.safetensors.index.json", index)
        else:
            put(folder / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": ["a"]})

    return build


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (broken("truncated"), "ends before its last tensor"),
        (broken("huge header"), "larger than any"),
        (broken("config"), "config.json is not a readable JSON"),
        (broken("index outside"), "not a plain file name"),
        (broken("index"), "no weight_map"),
        (lambda folder: None, "holds no weights"),
    ],
)
def test_an_unsound_source_is_refused_and_changes_nothing(
    context: ToolContext, port_id: str, folder: Path, build: Callable[[Path], None], what: str
) -> None:
    build(folder)
    with pytest.raises(PortError, match=what):
        fetch_weights(context, port_id, str(folder))
    assert context.ports.get(port_id).weights is None
    assert list((Path(context.ports.get(port_id).worktree) / "official_weights").iterdir()) == []


def test_a_fifo_among_the_shards_is_passed_over_and_named(context: ToolContext, port_id: str, folder: Path) -> None:
    broken("fifo")(folder)
    result = fetch_weights(context, port_id, str(folder))
    assert any("not a regular file" in note for note in result.notes)
    assert result.missing == ["diffusion_pytorch_model-00001-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("", "is empty"),
        ("/dev/zero", "neither a file nor a folder"),
        ("{tmp}/fifo", "neither a file nor a folder"),
        ("/no/such", "cannot be used"),
        ("../../x", "cannot be used"),
        ("~/none", "cannot be used"),
        ("a\x00b", "control character"),
        ("{tmp}", "contains the port's own worktree"),
        ("{tmp}/a.pth", "must be a safetensors file"),
        ("x" * 5000, "too long"),
    ],
)
def test_a_path_that_cannot_be_weights_is_refused(
    context: ToolContext, port_id: str, tmp_path: Path, source: str, what: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(PortError, match=what):
        fetch_weights(context, port_id, source.format(tmp=tmp_path))


def test_hub_options_for_a_local_path_are_refused(context: ToolContext, port_id: str, folder: Path) -> None:
    component(folder)
    for options in ({"revision": "main"}, {"allow_patterns": ["*"]}, {"ignore_patterns": ["*"]}):
        with pytest.raises(PortError, match="are for the hub"):
            fetch_weights(context, port_id, str(folder), **options)  # type: ignore[arg-type]


def test_other_weights_take_the_place_of_the_link_only(
    context: ToolContext, port_id: str, folder: Path, tmp_path: Path
) -> None:
    component(folder)
    other = tmp_path / "other"
    save(other / "x.safetensors", "a")
    fetch_weights(context, port_id, str(folder))
    result = fetch_weights(context, port_id, str(other))
    assert Path(result.path).resolve() == other
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize("kind", ["link", "file", "own folder"])
def test_what_stands_in_the_way_is_kept_and_named(
    context: ToolContext, port_id: str, folder: Path, tmp_path: Path, kind: str
) -> None:
    component(folder)
    root = Path(context.ports.get(port_id).worktree) / "official_weights"
    if kind == "link":
        root.symlink_to(tmp_path)
    elif kind == "file":
        root.write_text("mine")
    else:
        (root / "wan-2-1").mkdir(parents=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PortError, match=r"not a folder of its own|Something stands"):
        fetch_weights(context, port_id, str(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_unknown_port_is_named_with_its_nearest(context: ToolContext, port_id: str, folder: Path) -> None:
    with pytest.raises(PortError, match="no port with this id") as caught:
        fetch_weights(context, port_id[:-1], str(folder))
    assert port_id in caught.value.seen


def test_a_result_stays_small_for_a_monster_and_the_file_has_it_all(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    for number in range(120):
        name = f"component-{number:03d}-" + "x" * 100
        put(folder / name / "config.json", {"_class_name": "Y" * 300, "auto_map": {}})
        save(folder / name / "a.safetensors", "k" * 400)
        save(folder / name / "b.safetensors", "k" * 400)
        (folder / name / "c.pth").write_bytes(b"")
    result: FetchWeightsResult = fetch_weights(context, port_id, str(folder))
    assert len(result.model_dump_json()) < 30_000
    names = ("components", "files", "duplicates", "unsafe_files", "custom_code")
    assert [result.counts[name] for name in names] == [120, 240, 120, 120, 120]
    assert len(json.loads(Path(result.details).read_text())["files"]) == 240


def test_weights_that_are_fetched_again_do_not_ask_for_another_plan(
    context: ToolContext, port_id: str, folder: Path
) -> None:
    """Project: an agent that followed the next step wrote its plan twice."""
    component(folder)
    assert "write_plan" in fetch_weights(context, port_id, str(folder)).next_step
    dit = PlanComponent(name="transformer", kind="dit", official="diffusers.A", port="fastvideo.models.dits.a.A")
    write_plan(context, port_id, "T2V", [dit])
    save(folder / "diffusion_pytorch_model-00001-of-00002.safetensors", "a.weight", "b.weight", size=5)
    assert fetch_weights(context, port_id, str(folder)).next_step.startswith("Call gate_status: the plan stands")
