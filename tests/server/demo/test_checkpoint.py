"""The small official checkpoint shows what a fresh model would hide."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.fastvideo
ROOT = Path(__file__).resolve().parents[3]


def _tensors(checkpoint: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    return {
        name: tensor
        for shard in sorted(checkpoint.glob("*/*.safetensors"))
        for name, tensor in load_file(shard).items()
    }


def test_layout_is_diffusers_with_an_index_and_several_shards(wan_checkpoint: Path) -> None:
    transformer = wan_checkpoint / "transformer"
    index = json.loads((transformer / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in transformer.glob("*.safetensors"))
    assert len(shards) >= 2
    assert sorted(set(index["weight_map"].values())) == shards
    assert set(index["weight_map"]) <= set(_tensors(wan_checkpoint))
    assert json.loads((wan_checkpoint / "model_index.json").read_text())["transformer"] == [
        "diffusers",
        "WanTransformer3DModel",
    ]
    assert json.loads((transformer / "config.json").read_text())["_class_name"] == "WanTransformer3DModel"


def test_every_component_of_a_text_to_video_pipeline_is_there(wan_checkpoint: Path) -> None:
    index = json.loads((wan_checkpoint / "model_index.json").read_text())
    components = {name for name in index if not name.startswith("_")}
    assert components == {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert all((wan_checkpoint / name).is_dir() for name in components)


def test_norms_are_not_ones_and_biases_not_zeros(wan_checkpoint: Path) -> None:
    import torch

    for name, tensor in _tensors(wan_checkpoint).items():
        assert isinstance(tensor, torch.Tensor)
        assert tensor.std() > 0.001, name
        if "norm" in name and name.endswith(".weight"):
            assert (tensor - 1).abs().mean() > 0.1, name


def test_the_same_seed_gives_the_same_bytes(wan_checkpoint: Path, fastvideo_python: Path, tmp_path: Path) -> None:
    for seed, same in (("0", True), ("1", False)):
        folder = tmp_path / seed
        command = [str(fastvideo_python), str(ROOT / "server" / "demo" / "checkpoint.py"), str(folder), seed]
        subprocess.run(command, check=True, capture_output=True)
        pairs = [
            (path.read_bytes(), (folder / path.relative_to(wan_checkpoint)).read_bytes())
            for path in wan_checkpoint.glob("*/*.safetensors")
        ]
        assert all(first == second for first, second in pairs) is same


def test_another_geometry_can_be_asked_for(fastvideo_python: Path, tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "text_dim": 48}
    command = [str(fastvideo_python), str(ROOT / "server" / "demo" / "checkpoint.py"), str(tmp_path), "0"]
    subprocess.run([*command, json.dumps({"transformer": sizes})], check=True, capture_output=True)
    written = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert {name: written[name] for name in sizes} == sizes
