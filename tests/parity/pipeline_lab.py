"""A small diffusion pipeline twice, official and port, and the real job run on both in processes of their own."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvideo_port.parity.job import Job
from fastvideo_port.parity.pipeline_job import pipeline_parity

MODELS = """
import torch
from torch import nn


class {encoder}(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.out = nn.Linear(16, 16)

    def forward(self, ids):
        return self.out(torch.tanh(self.table(ids)))


class {dit}(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Linear(4, 16)
        self.t = nn.Linear(1, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x, text, t):
        time = self.t((t / 1000).to(x.dtype).view(1, 1))
        h = torch.tanh(self.x(x) + time + {mean})
        return self.head(h)


class {vae}(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 12)

    def forward(self, z):
        return self.up(z)
"""

OFFICIAL = (
    MODELS.format(encoder="Encoder", dit="Net", vae="Decoder", mean="text.mean(1, keepdim=True)")
    + '''

class Scheduler:
    def __init__(self, shift):
        self.shift = shift

    def set_timesteps(self, count):
        sigmas = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        self.sigmas = (self.shift * sigmas / (1 + (self.shift - 1) * sigmas)).float()
        self.timesteps = self.sigmas[:-1] * 1000

    def step(self, velocity, index, x):
        return x + (self.sigmas[index + 1] - self.sigmas[index]).to(x.dtype) * velocity


class Pipeline:
    """Calls ``show(stage, tensor, step)`` and goes on with what it returns."""

    def __init__(self):
        self.encoder, self.net, self.vae, self.scheduler = Encoder(), Net(), Decoder(), Scheduler(3.0)

    def __call__(self, ids, negative, noise, steps, scale, show):
        text = show("text", self.encoder(ids))
        other = show("text.negative", self.encoder(negative))
        self.scheduler.set_timesteps(steps)
        timesteps = show("timesteps", self.scheduler.timesteps)
        x = show("latents", noise.to(text.dtype))
        for i, t in enumerate(timesteps):
            good, bad = self.net(x, text, t), self.net(x, other, t)
            v = show("denoising.model", bad + scale * (good - bad), i)
            x = show("denoising", self.scheduler.step(v, i, x), i)
        return show("decode", self.vae(x * 2.0 + 0.5))
'''
)

PORT = (
    MODELS.format(
        encoder="TextEncoder", dit="Transformer", vae="VideoDecoder", mean="text.sum(1, keepdim=True) / text.shape[1]"
    )
    + """

class FlowScheduler:
    def __init__(self, shift):
        self.shift = shift

    def set_timesteps(self, count):
        grid = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        self.sigmas = (self.shift * grid / (1 + (self.shift - 1) * grid)).float()
        self.timesteps = self.sigmas[:-1] * 1000

    def step(self, velocity, index, x):
        delta = self.sigmas[index + 1] - self.sigmas[index]
        return delta.to(x.dtype) * velocity + x


class ToyPipeline:
    def __init__(self):
        self.modules = {"text_encoder": TextEncoder(), "transformer": Transformer(), "vae": VideoDecoder()}
        self.scheduler = FlowScheduler(3.0)

    def run(self, ids, negative, noise, steps, scale, show):
        encoder, net, vae = self.modules.values()
        positive = show("text", encoder(ids))
        uncond = show("text.negative", encoder(negative))
        x = show("latents", noise.to(positive.dtype))
        self.scheduler.set_timesteps(steps)
        timesteps = show("timesteps", self.scheduler.timesteps)
        for i, t in enumerate(timesteps):
            pred = net(x, positive, t)
            pred_uncond = net(x, uncond, t)
            pred = pred_uncond + scale * (pred - pred_uncond)
            pred = show("denoising.model", pred, i)
            x = show("denoising", self.scheduler.step(pred, i, x), i)
        z = x * 2.0 + 0.5
        return show("decode", vae(z))
"""
)

ADAPTER = """
import torch

CASES = {"small": {"tokens": 5, "steps": 4}}


def fill(models):
    generator = torch.Generator().manual_seed(1)
    for model in models:
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)


def load_official(ctx):
    from toyofficial.pipeline import Pipeline

    pipeline = Pipeline()
    fill([pipeline.encoder, pipeline.net, pipeline.vae])
    for model in (pipeline.encoder, pipeline.net, pipeline.vae):
        model.to(ctx.dtype).eval()
    return pipeline


def load_port(ctx):
    from fastvideo.pipelines.toy import ToyPipeline

    pipeline = ToyPipeline()
    fill(pipeline.modules.values())
    for model in pipeline.modules.values():
        model.to(ctx.dtype).eval()
    return pipeline


def make_inputs(ctx):
    generator = torch.Generator().manual_seed(ctx.seed)
    ids = torch.randint(0, 20, (2, 1, ctx.case["tokens"]), generator=generator)
    return {"ids": ids[0], "negative": ids[1], "noise": torch.randn(1, 6, 4, generator=generator) * 1.1}


def noise(inputs):
    return inputs["noise"] + 0.25


def call_official(pipeline, inputs, ctx):
    pipeline(inputs["ids"], inputs["negative"], noise(inputs), ctx.case["steps"], 4.0, ctx.record)


def call_port(pipeline, inputs, ctx):
    pipeline.run(inputs["ids"], inputs["negative"], noise(inputs), ctx.case["steps"], 4.0, ctx.record)
"""


@dataclass
class Result:
    """What one run of the job concluded."""

    value: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.value["verdict"])

    @property
    def codes(self) -> set[str]:
        """Codes of the findings that are no mere remarks."""
        return {row["code"] for row in self.value["findings"] if row["verdict"] != "pass"}

    @property
    def guilty(self) -> list[str]:
        return [str(row["name"]) for row in self.value["guilty"]]

    def explain(self) -> str:
        rows = [f"{row['verdict']}: {row['code']}: {row['message']}" for row in self.value["findings"]]
        stages = [
            f"{row['name']} {row['verdict']} {row['logic_ratio']} {row['precision']}" for row in self.value["stages"]
        ]
        return "\n".join([self.verdict, *rows, *stages, str(self.value["cases"])[:1500]])


@dataclass
class Lab:
    """Folders of one comparison. ``run`` writes the texts and runs the job in real processes."""

    root: Path
    official: str = OFFICIAL
    port: str = PORT
    adapter: str = ADAPTER
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    dtypes: list[str] = field(default_factory=lambda: ["float32", "bfloat16"])

    def run(self) -> Result:
        repo, worktree = self.root / "official repo", self.root / "worktree"
        adapter = worktree / "tests" / "local_tests" / "toy" / "parity_pipeline.py"
        port_file = worktree / "fastvideo" / "pipelines" / "toy.py"
        texts = {
            repo / "toyofficial" / "__init__.py": "",
            repo / "toyofficial" / "pipeline.py": self.official,
            worktree / "fastvideo" / "__init__.py": "",
            worktree / "fastvideo" / "pipelines" / "__init__.py": "",
            port_file: self.port,
            adapter: self.adapter,
        }
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        run_dir = self.root / f"run {len(list(self.root.glob('run *')))}"
        run_dir.mkdir()
        spec: dict[str, Any] = {
            "adapter": str(adapter),
            "worktree": str(worktree),
            "official_repo": str(repo),
            "official_weights": None,
            "converted_weights": None,
            "python": sys.executable,
            "official_python": None,
            "cases": None,
            "seeds": self.seeds,
            "dtypes": self.dtypes,
            "device": "cpu",
            "patches": [],
            "threads": 1,
        }
        return Result(pipeline_parity(spec, Job(run_dir)))
