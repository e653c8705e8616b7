"""HunyuanVideo DiT: diffusers' HunyuanVideoTransformer3DModel (official) against FastVideo's (port).

The pair with merged projections: FastVideo fuses q, k, v (and, in single blocks, the MLP) into one matrix through its
mapping rules. Its modulation is shaped for a batch of one, and it takes no text mask; so the text is unpadded here.
Weights: ``<official_weights>/transformer``.
"""

import json
import os

import torch

CASES = {
    "small": {"frames": 2, "height": 8, "width": 12, "text": 12},
    "odd": {"frames": 3, "height": 6, "width": 10, "text": 7},
}


def load_official(ctx):
    """The official class as its users load it."""
    from diffusers import HunyuanVideoTransformer3DModel

    folder = ctx.official_weights / "transformer"
    return HunyuanVideoTransformer3DModel.from_pretrained(folder, torch_dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo class, built on meta and filled by FastVideo's own strict loader and mapping rules."""
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.configs.models.dits import HunyuanVideoConfig
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel
    from fastvideo.models.dits.hunyuanvideo import HunyuanVideoTransformer3DModel
    from fastvideo.models.loader.fsdp_load import load_model_from_full_model_state_dict, set_default_dtype
    from fastvideo.models.loader.utils import get_param_names_mapping
    from fastvideo.models.loader.weight_utils import safetensors_weights_iterator

    maybe_init_distributed_environment_and_model_parallel(1, 1)
    hf_config = _hf_config(ctx)
    config = HunyuanVideoConfig()
    config.update_model_arch(hf_config)
    with set_default_dtype(ctx.dtype), torch.device("meta"):
        model = HunyuanVideoTransformer3DModel(config, hf_config=hf_config)
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
    """Latents (1, C, F, H, W), text (1, L, D), pooled text (1, P), guidance (1,): float32; timestep (1,): int64."""
    case, config = ctx.case, _hf_config(ctx)
    rng = torch.Generator().manual_seed(ctx.seed)
    latents = (1, config["in_channels"], case["frames"], case["height"], case["width"])
    return {
        "latents": torch.randn(latents, generator=rng),
        "text": torch.randn(1, case["text"], config["text_embed_dim"], generator=rng),
        "pooled": torch.randn(1, config["pooled_projection_dim"], generator=rng),
        # Multiples of 32 below 8192 survive bfloat16; 6000 would become 6016 and shift the embedding.
        "guidance": 32.0 * torch.randint(64, 256, (1,), generator=rng),
        "timestep": torch.randint(1, 1000, (1,), generator=rng),
    }


def call_official(model, inputs, ctx):
    """Predicted velocity (1, C, F, H, W)."""
    return model(
        hidden_states=inputs["latents"].to(ctx.device, ctx.dtype),
        timestep=inputs["timestep"].to(ctx.device),
        encoder_hidden_states=inputs["text"].to(ctx.device, ctx.dtype),
        encoder_attention_mask=torch.ones(inputs["text"].shape[:2], dtype=torch.bool, device=ctx.device),
        pooled_projections=inputs["pooled"].to(ctx.device, ctx.dtype),
        guidance=inputs["guidance"].to(ctx.device, ctx.dtype),
        return_dict=False,
    )[0]


def call_port(model, inputs, ctx):
    """Predicted velocity (1, C, F, H, W)."""
    from fastvideo.forward_context import set_forward_context

    with set_forward_context(current_timestep=0, attn_metadata=None):
        return model(
            inputs["latents"].to(ctx.device, ctx.dtype),
            [inputs["text"].to(ctx.device, ctx.dtype), inputs["pooled"].to(ctx.device, ctx.dtype)],
            inputs["timestep"].to(ctx.device),
            guidance=inputs["guidance"].to(ctx.device, ctx.dtype),
        )


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "transformer" / "config.json").read_text())
