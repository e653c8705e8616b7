"""A small FastVideo with a complete port in it, as text: what check_integration reads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ID = "org/Tiny-T2V-Diffusers"

BASE = {
    "fastvideo/__init__.py": "",
    "fastvideo/models/__init__.py": "",
    "fastvideo/configs/models/dits/__init__.py": "from fastvideo.configs.models.dits.other import OtherConfig\n",
    "fastvideo/configs/models/dits/base.py": """
class DiTArchConfig:
    param_names_mapping: dict = field(default_factory=dict)


class DiTConfig:
    arch_config: DiTArchConfig = field(default_factory=DiTArchConfig)
""",
    "fastvideo/configs/models/dits/other.py": """
class OtherConfig(DiTConfig):
    pass
""",
    "fastvideo/configs/pipelines/other.py": """
class OtherPipelineConfig(PipelineConfig):
    dit_config = field(default_factory=OtherConfig)
""",
    "fastvideo/registry.py": """
from fastvideo.configs.pipelines.other import OtherPipelineConfig


def _register_configs():
    register_configs(
        pipeline_config_cls=OtherPipelineConfig,
        hf_model_paths=["org/Other"],
        model_family="other",
        default_preset="other_t2v",
    )


def _register_presets():
    pass
""",
    "fastvideo/old.py": "from transformers import T5EncoderModel\nprint('upstream')\n",
    "docs/inference/support_matrix.md": "# Matrix\n\n| Model | Id |\n| --- | --- |\n| Other | `org/Other` |\n",
    ".gitignore": "outputs/\n",
}

PORT = {
    "fastvideo/models/dits/tiny.py": """
from fastvideo.attention import DistributedAttention, LocalAttention
from fastvideo.configs.models.dits import TinyConfig


class TinyCrossAttention(nn.Module):
    def __init__(self):
        self.attn = LocalAttention(num_heads=2)


class TinyBlock(nn.Module):
    def __init__(self):
        self.attn1 = DistributedAttention(num_heads=2)
        self.attn2 = TinyCrossAttention()


class TinyTransformer3DModel(BaseDiT):
    pass


EntryClass = TinyTransformer3DModel
""",
    "fastvideo/configs/models/dits/__init__.py": """
from fastvideo.configs.models.dits.other import OtherConfig
from fastvideo.configs.models.dits.tiny import TinyConfig
""",
    "fastvideo/configs/models/dits/tiny.py": """
class TinyArchConfig(DiTArchConfig):
    param_names_mapping: dict = field(default_factory=lambda: {r"^a$": "b"})


class TinyConfig(DiTConfig):
    arch_config: DiTArchConfig = field(default_factory=TinyArchConfig)
""",
    "fastvideo/configs/pipelines/tiny.py": """
class TinyT2VConfig(PipelineConfig):
    dit_config = field(default_factory=TinyConfig)
""",
    "fastvideo/registry.py": """
from fastvideo.configs.pipelines.other import OtherPipelineConfig
from fastvideo.configs.pipelines.tiny import TinyT2VConfig


def _register_configs():
    register_configs(
        pipeline_config_cls=OtherPipelineConfig,
        hf_model_paths=["org/Other"],
        model_family="other",
        default_preset="other_t2v",
    )
    register_configs(
        pipeline_config_cls=TinyT2VConfig,
        hf_model_paths=["org/Tiny-T2V-Diffusers"],
        model_family="tiny",
        default_preset="tiny_t2v",
        workload_types=(WorkloadType.T2V,),
    )


def _register_presets():
    from fastvideo.pipelines.basic.tiny.presets import ALL_PRESETS as TINY_PRESETS
""",
    "fastvideo/pipelines/basic/tiny/presets.py": """
TINY = InferencePreset(name="tiny_t2v", model_family="tiny", defaults={"num_frames": 9})
ALL_PRESETS = (TINY,)
""",
    "fastvideo/pipelines/basic/tiny/tiny_pipeline.py": """
from transformers import AutoTokenizer


class TinyPipeline(ComposedPipelineBase):
    _required_config_modules = ["text_encoder", "tokenizer", "vae", "transformer", "scheduler"]

    def create_pipeline_stages(self, args):
        self.add_stage(stage_name="denoising", stage=DenoisingStage(self.get_module("transformer")))
        self.add_stage(stage_name="decoding", stage=DecodingStage(self.get_module("vae")))


EntryClass = TinyPipeline
""",
    "tests/local_tests/tiny/test_transformer_parity.py": """
def test_parity():
    from official_tiny import Net
    from fastvideo.models.dits.tiny import TinyTransformer3DModel

    torch.testing.assert_close(theirs, ours)
""",
    "tests/local_tests/tiny/PORT_STATUS.md": "# Tiny\n\n"
    + "\n".join(
        f"## {heading}\n\nSaid here.\n"
        for heading in (
            "Summary", "Current Phase", "Component Matrix", "Conversion State", "Parity Commands", "Open Questions",
            "Issues And Blockers", "Escape Hatches", "Decisions", "Handoff Notes",
        )
    ),
    "fastvideo/tests/ssim/test_tiny_similarity.py": 'TINY_MODEL_TO_PARAMS = {"Tiny-T2V-Diffusers": {}}\n',
    "examples/inference/basic/basic_tiny.py": """
from fastvideo import VideoGenerator

generator = VideoGenerator.from_pretrained("org/Tiny-T2V-Diffusers")
""",
    "docs/inference/support_matrix.md": (
        "# Matrix\n\n| Model | Id |\n| --- | --- |\n| Other | `org/Other` |\n| Tiny | `org/Tiny-T2V-Diffusers` |\n"
    ),
    "docs/inference/tiny.md": """
# Tiny

`org/Tiny-T2V-Diffusers` makes short videos.

```bash
python examples/inference/basic/basic_tiny.py
```

## Constraints

Height and width must be multiples of 16.

## Memory and speed

It needs 6 GB of GPU memory; a step takes 1.2 s on an H200.

Tried with TORCH_SDPA and FLASH_ATTN.
""",
}  # fmt: skip


def write(root: Path, files: dict[str, str]) -> None:
    """Put files below ``root``."""
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.lstrip("\n"), encoding="utf-8")


def git(root: Path, *arguments: str) -> str:
    """Git with an identity and no configuration of this machine."""
    alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=root, env=alone, check=True, capture_output=True, text=True).stdout.strip()


def make(root: Path) -> str:
    """FastVideo without the port in one commit, whose hash is returned; then the port, not committed."""
    root.mkdir(parents=True)
    write(root, BASE)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "begin")
    base = git(root, "rev-parse", "HEAD")
    write(root, PORT)
    return base
