"""Wan DiT: diffusers' WanTransformer3DModel (official) against FastVideo's WanTransformer3DModel (port).

Each side imports its own library inside its functions, because the two run in separate processes and may run in
separate interpreters. Weights: ``<official_weights>/transformer`` (config.json and safetensors shards).
"""

import json
import os

import torch

CASES = {
    "small": {"batch": 1, "frames": 2, "height": 8, "width": 12, "text": 16},
    # Patch grid 3 x 3 x 5 with a batch of two: no two axes can be mistaken for each other.
    "odd": {"batch": 2, "frames": 3, "height": 6, "width": 10, "text": 7},
}


def load_official(ctx):
    """The official class as its users load it (diffusers keeps norms and the time embedder in float32)."""
    from diffusers import WanTransformer3DModel

    folder = ctx.official_weights / "transformer"
    return WanTransformer3DModel.from_pretrained(folder, torch_dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo class, built on meta and filled by FastVideo's own strict loader and mapping rules."""
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.configs.models.dits.wanvideo import WanVideoConfig
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel
    from fastvideo.models.dits.wanvideo import WanTransformer3DModel
    from fastvideo.models.loader.fsdp_load import load_model_from_full_model_state_dict, set_default_dtype
    from fastvideo.models.loader.utils import get_param_names_mapping
    from fastvideo.models.loader.weight_utils import safetensors_weights_iterator

    maybe_init_distributed_environment_and_model_parallel(1, 1)
    hf_config = _hf_config(ctx)
    config = WanVideoConfig()
    config.update_model_arch(hf_config)
    with set_default_dtype(ctx.dtype), torch.device("meta"):
        model = WanTransformer3DModel(config, hf_config=hf_config)
    files = sorted(str(file) for file in (ctx.official_weights / "transformer").glob("*.safetensors"))
    load_model_from_full_model_state_dict(
        model,
        safetensors_weights_iterator(files, to_cpu=True),
        ctx.device,
        ctx.dtype,
        strict=True,
        param_names_mapping=get_param_names_mapping(model.param_names_mapping),
        training_mode=False,
    )
    return model.requires_grad_(False).eval()


def make_inputs(ctx):
    """Latents (B, C, F, H, W) and text (B, L, D) in float32, timesteps (B,) in int64, on the CPU."""
    case, config = ctx.case, _hf_config(ctx)
    rng = torch.Generator().manual_seed(ctx.seed)
    latents = (case["batch"], config["in_channels"], case["frames"], case["height"], case["width"])
    return {
        "latents": torch.randn(latents, generator=rng),
        "text": torch.randn(case["batch"], case["text"], config["text_dim"], generator=rng),
        "timestep": torch.randint(1, 1000, (case["batch"],), generator=rng),
    }


def call_official(model, inputs, ctx):
    """Predicted velocity (B, C, F, H, W)."""
    return model(
        hidden_states=inputs["latents"].to(ctx.device, ctx.dtype),
        timestep=inputs["timestep"].to(ctx.device),
        encoder_hidden_states=inputs["text"].to(ctx.device, ctx.dtype),
        return_dict=False,
    )[0]


def call_port(model, inputs, ctx):
    """Predicted velocity (B, C, F, H, W); note FastVideo's order: latents, text, time."""
    from fastvideo.forward_context import set_forward_context

    with set_forward_context(current_timestep=0, attn_metadata=None):
        return model(
            inputs["latents"].to(ctx.device, ctx.dtype),
            inputs["text"].to(ctx.device, ctx.dtype),
            inputs["timestep"].to(ctx.device),
        )


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "transformer" / "config.json").read_text())
