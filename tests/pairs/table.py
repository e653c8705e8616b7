"""The real pairs: what is compared with what, and through which adapter. Data only; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ADAPTERS = Path(__file__).resolve().parents[2] / "prompts" / "adapters"


@dataclass(frozen=True)
class Pair:
    """One official component and its port.

    Attributes:
        name: Also the stem of its adapter and the name of its weight builder.
        kind: dit, vae, text_encoder, image_encoder or scheduler.
        official: Import path of the official class.
        port: Import path of FastVideo's class.
        folder: Component folder below the official weights.
        modules: Worktree files that define the port, for whoever edits or scans them.
    """

    name: str
    kind: str
    official: str
    port: str
    folder: str
    modules: tuple[str, ...]

    @property
    def adapter(self) -> Path:
        """The adapter file."""
        return ADAPTERS / f"{self.name}.py"


PAIRS: dict[str, Pair] = {
    pair.name: pair
    for pair in (
        Pair(
            "wan_dit",
            "dit",
            "diffusers.WanTransformer3DModel",
            "fastvideo.models.dits.wanvideo.WanTransformer3DModel",
            "transformer",
            ("fastvideo/models/dits/wanvideo.py", "fastvideo/configs/models/dits/wanvideo.py"),
        ),
        Pair(
            "wan_vae",
            "vae",
            "diffusers.AutoencoderKLWan",
            "fastvideo.models.vaes.wanvae.AutoencoderKLWan",
            "vae",
            ("fastvideo/models/vaes/wanvae.py", "fastvideo/configs/models/vaes/wanvae.py"),
        ),
        Pair(
            "umt5",
            "text_encoder",
            "transformers.UMT5EncoderModel",
            "fastvideo.models.encoders.t5.UMT5EncoderModel",
            "text_encoder",
            ("fastvideo/models/encoders/t5.py", "fastvideo/configs/models/encoders/t5.py"),
        ),
        Pair(
            "t5",
            "text_encoder",
            "transformers.T5EncoderModel",
            "fastvideo.models.encoders.t5.T5EncoderModel",
            "text_encoder",
            ("fastvideo/models/encoders/t5.py", "fastvideo/configs/models/encoders/t5.py"),
        ),
        Pair(
            "clip_text",
            "text_encoder",
            "transformers.CLIPTextModel",
            "fastvideo.models.encoders.clip.CLIPTextModel",
            "text_encoder",
            ("fastvideo/models/encoders/clip.py", "fastvideo/configs/models/encoders/clip.py"),
        ),
        Pair(
            "clip_vision",
            "image_encoder",
            "transformers.CLIPVisionModel",
            "fastvideo.models.encoders.clip.CLIPVisionModel",
            "image_encoder",
            ("fastvideo/models/encoders/clip.py", "fastvideo/configs/models/encoders/clip.py"),
        ),
        Pair(
            "hunyuanvideo_dit",
            "dit",
            "diffusers.HunyuanVideoTransformer3DModel",
            "fastvideo.models.dits.hunyuanvideo.HunyuanVideoTransformer3DModel",
            "transformer",
            ("fastvideo/models/dits/hunyuanvideo.py", "fastvideo/configs/models/dits/hunyuanvideo.py"),
        ),
        Pair(
            "flow_match_euler",
            "scheduler",
            "diffusers.FlowMatchEulerDiscreteScheduler",
            "fastvideo.models.schedulers.scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler",
            "scheduler",
            ("fastvideo/models/schedulers/scheduling_flow_match_euler_discrete.py",),
        ),
        Pair(
            "flow_unipc",
            "scheduler",
            "diffusers.UniPCMultistepScheduler",
            "fastvideo.models.schedulers.scheduling_flow_unipc_multistep.FlowUniPCMultistepScheduler",
            "scheduler",
            ("fastvideo/models/schedulers/scheduling_flow_unipc_multistep.py",),
        ),
    )
}
