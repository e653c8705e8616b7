"""Flow-matching UniPC: diffusers' UniPCMultistepScheduler (official) against FastVideo's FlowUniPC (port).

FastVideo ports the Wan repository's grid, which runs from 0.999 to 0; diffusers' own grid differs from it by up to six
timesteps. So the official side is given that grid, and what is compared is the shift and the solver.
Configuration: ``<official_weights>/scheduler/scheduler_config.json``; there are no weights.
"""

import json

import numpy
import torch

CASES = {
    "small": {"steps": 6, "batch": 1},
    "odd": {"steps": 9, "batch": 2},
    "few": {"steps": 2, "batch": 1},
}


class Rollout(torch.nn.Module):
    """Walks a scheduler through all its steps."""

    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, latents, velocities):
        """Timesteps (N,), sigmas (N + 1,) and the latents after each step (N, B, C, F, H, W)."""
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
    from diffusers import UniPCMultistepScheduler

    return Rollout(UniPCMultistepScheduler.from_pretrained(ctx.official_weights / "scheduler")).eval()


def load_port(ctx):
    """FastVideo's scheduler, unshifted: a shift given here and in set_timesteps would be applied twice."""
    from fastvideo.models.schedulers.scheduling_flow_unipc_multistep import FlowUniPCMultistepScheduler

    return Rollout(FlowUniPCMultistepScheduler(shift=1.0)).eval()


def make_inputs(ctx):
    """First latents (B, 4, 2, 3, 5) and one velocity for each step (N, B, 4, 2, 3, 5), float32, on the CPU."""
    rng = torch.Generator().manual_seed(ctx.seed)
    shape = (ctx.case["batch"], 4, 2, 3, 5)
    return {
        "latents": torch.randn(shape, generator=rng),
        "velocities": torch.randn(ctx.case["steps"], *shape, generator=rng),
    }


def schedule_official(scheduler, steps, ctx):
    """Sets the timesteps, on the grid of the Wan repository."""
    first = float(numpy.float32(1 - 1 / _hf_config(ctx)["num_train_timesteps"]))
    scheduler.set_timesteps(device=ctx.device, sigmas=numpy.linspace(first, 0.0, steps + 1)[:-1])


def schedule_port(scheduler, steps, ctx):
    """Sets the timesteps; the shift is given here and nowhere else."""
    scheduler.set_timesteps(steps, device=ctx.device, shift=_hf_config(ctx)["flow_shift"])


def call_official(model, inputs, ctx):
    """The whole trajectory."""
    schedule_official(model.scheduler, ctx.case["steps"], ctx)
    return _walk(model, inputs, ctx)


def call_port(model, inputs, ctx):
    """The whole trajectory."""
    schedule_port(model.scheduler, ctx.case["steps"], ctx)
    return _walk(model, inputs, ctx)


def param_mapping(ctx):
    """There are no weights."""
    return {}


def _walk(model, inputs, ctx):
    latents, velocities = (inputs[name].to(ctx.device, ctx.dtype) for name in ("latents", "velocities"))
    return model(latents, velocities)


def _hf_config(ctx):
    return json.loads((ctx.official_weights / "scheduler" / "scheduler_config.json").read_text())
