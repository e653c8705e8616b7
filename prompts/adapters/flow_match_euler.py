"""Flow-matching Euler scheduler: diffusers' FlowMatchEulerDiscreteScheduler (official) against FastVideo's (port).

A scheduler is no module, so each side is wrapped in one that holds it and walks the whole schedule on given velocities.
Configuration: ``<official_weights>/scheduler/scheduler_config.json``; there are no weights.
"""

import json

import torch

CASES = {
    "small": {"steps": 6, "batch": 1},
    "odd": {"steps": 9, "batch": 2},
    "sigmas": {"sigmas": [1.0, 0.8, 0.55, 0.2], "batch": 1},
}


class Rollout(torch.nn.Module):
    """Walks a scheduler through all its steps."""

    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, latents, velocities, **schedule):
        """Timesteps (N,), sigmas (N + 1,) and the latents after each step (N, B, C, F, H, W)."""
        self.scheduler.set_timesteps(device=latents.device, **schedule)
        trajectory = []
        for timestep, velocity in zip(self.scheduler.timesteps, velocities, strict=True):
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            trajectory.append(latents)
        return {
            "timesteps": self.scheduler.timesteps,
            "sigmas": self.scheduler.sigmas,
            "latents": torch.stack(trajectory),
        }


def load_official(ctx):
    """The official scheduler from its configuration file."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return Rollout(FlowMatchEulerDiscreteScheduler.from_pretrained(ctx.official_weights / "scheduler")).eval()


def load_port(ctx):
    """FastVideo's scheduler from the same file."""
    from fastvideo.models.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    config = json.loads((ctx.official_weights / "scheduler" / "scheduler_config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    return Rollout(FlowMatchEulerDiscreteScheduler(**config)).eval()


def make_inputs(ctx):
    """First latents (B, 4, 2, 3, 5) and one velocity for each step (N, B, 4, 2, 3, 5), float32, on the CPU."""
    rng = torch.Generator().manual_seed(ctx.seed)
    steps = ctx.case["steps"] if "steps" in ctx.case else len(ctx.case["sigmas"])
    shape = (ctx.case["batch"], 4, 2, 3, 5)
    return {
        "latents": torch.randn(shape, generator=rng),
        "velocities": torch.randn(steps, *shape, generator=rng),
    }


def call_official(model, inputs, ctx):
    """The whole trajectory."""
    return _walk(model, inputs, ctx)


def call_port(model, inputs, ctx):
    """The whole trajectory."""
    return _walk(model, inputs, ctx)


def param_mapping(ctx):
    """There are no weights."""
    return {}


def _walk(model, inputs, ctx):
    schedule = {"sigmas": ctx.case["sigmas"]} if "sigmas" in ctx.case else {"num_inference_steps": ctx.case["steps"]}
    latents, velocities = (inputs[name].to(ctx.device, ctx.dtype) for name in ("latents", "velocities"))
    return model(latents, velocities, **schedule)
