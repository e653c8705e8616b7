"""Wan VAE: diffusers' AutoencoderKLWan (official) against FastVideo's AutoencoderKLWan (port), encode and decode.

Both sides use the feature cache; without it FastVideo runs another algorithm. Weights: ``<official_weights>/vae``.
"""

import json

import torch

# Frames come in chunks of 1 + 4 + 4 ...: one chunk, two and three reach different branches of the cache, and what the
# third leaves there is read by the fourth.
CASES = {
    "small": {"batch": 1, "frames": 5, "height": 16, "width": 24},
    "odd": {"batch": 2, "frames": 13, "height": 24, "width": 40},
    "one_frame": {"batch": 1, "frames": 1, "height": 16, "width": 24},
}


def load_official(ctx):
    """The official VAE as its users load it."""
    from diffusers import AutoencoderKLWan

    folder = ctx.official_weights / "vae"
    return AutoencoderKLWan.from_pretrained(folder, torch_dtype=ctx.dtype).to(ctx.device).eval()


def load_port(ctx):
    """The FastVideo VAE; its names equal the official ones, and every one is required here."""
    from fastvideo.configs.models.vaes import WanVAEConfig
    from fastvideo.models.vaes.wanvae import AutoencoderKLWan
    from safetensors.torch import load_file

    config = WanVAEConfig()
    config.update_model_arch(_hf_config(ctx))
    model = AutoencoderKLWan(config)
    weights = {}
    for file in sorted((ctx.official_weights / "vae").glob("*.safetensors")):
        weights.update(load_file(file))
    model.load_state_dict(weights, strict=True)
    return model.to(ctx.device, ctx.dtype).requires_grad_(False).eval()


def make_inputs(ctx):
    """Video (B, 3, F, H, W) in [-1, 1] and latents (B, Z, 1 + (F - 1) / 4, H / 8, W / 8), float32, on the CPU."""
    case, config = ctx.case, _hf_config(ctx)
    rng = torch.Generator().manual_seed(ctx.seed)
    video = torch.rand(case["batch"], 3, case["frames"], case["height"], case["width"], generator=rng) * 2 - 1
    frames = 1 + (case["frames"] - 1) // config["scale_factor_temporal"]
    height, width = (case[axis] // config["scale_factor_spatial"] for axis in ("height", "width"))
    return {
        "video": video,
        "latents": torch.randn(case["batch"], config["z_dim"], frames, height, width, generator=rng),
    }


def call_official(model, inputs, ctx):
    """Mean and log variance of the posterior, and the decoded video."""
    posterior = model.encode(inputs["video"].to(ctx.device, ctx.dtype)).latent_dist
    decoded = model.decode(inputs["latents"].to(ctx.device, ctx.dtype)).sample
    return {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}


def call_port(model, inputs, ctx):
    """The same three; FastVideo's encode returns the distribution itself, its decode a clamped float32 tensor."""
    posterior = model.encode(inputs["video"].to(ctx.device, ctx.dtype))
    decoded = model.decode(inputs["latents"].to(ctx.device, ctx.dtype))
    return {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}


def param_mapping(ctx):
    """Names are equal on both sides."""
    return {}


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "vae" / "config.json").read_text())
