"""A port of a tiny model: a repository with FastVideo's markers, an official package, weights and an adapter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastvideo_port.port.ledger import Entry, Ledger
from fastvideo_port.port.records import PortRecord
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.fetch_weights import fetch_weights
from fastvideo_port.tools.run_component_parity import RunComponentParityResult, finish, run_component_parity
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

OFFICIAL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16, eps=1e-6)
        self.second = nn.Linear(16, 8)

    def forward(self, x):
        h = self.norm(torch.tanh(self.first(x)))
        return x + self.second(h)
"""

PORT = """
import torch
from torch import nn

from fastvideo.layers import residual


class TinyNet(nn.Module):
    param_names_mapping = {r"^first\\.(.*)$": r"up.\\1", r"^second\\.(.*)$": r"down.\\1"}

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16, eps=1e-6)
        self.down = nn.Linear(16, 8)

    def forward(self, x):
        h = self.norm(torch.tanh(self.up(x)))
        return residual(x, self.down(h))
"""

LAYERS = """
import json
from pathlib import Path

TABLE = json.loads(Path(__file__).with_name("layers.json").read_text())


def residual(x, y):
    return x + y
"""

ADAPTER = """
import re

from safetensors.torch import load_file

CASES = {"small": {"n": 3}, "odd": {"n": 5}}


def weights(ctx):
    return load_file(ctx.official_weights / "transformer" / "model.safetensors")


def load_official(ctx):
    from tiny_official import Net

    model = Net()
    model.load_state_dict(weights(ctx))
    return model.to(ctx.device, ctx.dtype).eval()


def load_port(ctx):
    from fastvideo.tiny import TinyNet

    model, state = TinyNet(), {}
    for name, value in weights(ctx).items():
        for pattern, template in model.param_names_mapping.items():
            if re.match(pattern, name):
                name = re.sub(pattern, template, name)
                break
        state[name] = value
    model.load_state_dict(state)
    return model.to(ctx.device, ctx.dtype).eval()


def make_inputs(ctx):
    import torch

    generator = torch.Generator().manual_seed(ctx.seed)
    return {"x": torch.randn(ctx.case["n"], 8, generator=generator)}


def call_official(model, inputs, ctx):
    return model(inputs["x"].to(ctx.device, ctx.dtype))


def call_port(model, inputs, ctx):
    return model(inputs["x"].to(ctx.device, ctx.dtype))
"""

ADAPTER_PATH = "tests/local_tests/tiny/parity_transformer.py"
NAME = "transformer"


@dataclass
class Tiny:
    """The port and what its tests ask of it."""

    ctx: ToolContext
    port_id: str
    worktree: Path

    @property
    def port(self) -> PortRecord:
        """Its record now."""
        return self.ctx.ports.get(self.port_id)

    def entries(self) -> list[Entry]:
        """Its evidence."""
        return Ledger(self.ctx.home).entries(self.port_id)

    def left(self) -> tuple[int, int, int]:
        """What an error must not change: runs, their folders, entries of the ledger."""
        return len(self.ctx.runs.list()), len(list(self.ctx.home.glob("runs/*"))), len(self.entries())

    @contextmanager
    def edited(self, path: str, old: str, new: str) -> Iterator[None]:
        """The file of the worktree with ``old`` replaced, and as it was afterwards."""
        file = self.worktree / path
        before = file.read_text()
        assert before.count(old) == 1
        file.write_text(before.replace(old, new))
        try:
            yield
        finally:
            file.write_text(before)


def make(folder: Path) -> Tiny:
    """Everything below ``folder``, through the real tools; the official clone, which has no tool, is written in."""
    repository, official, checkpoint = folder / "Fast Video", folder / "official", folder / "checkpoint"
    _write(repository / "fastvideo/__init__.py", "")
    _write(repository / "fastvideo/registry.py", "REGISTRY = {}\n")
    _write(official / "tiny_official.py", OFFICIAL)
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "--", "."], ["commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, stdin=subprocess.DEVNULL)
    home = folder / "home"
    home.mkdir()
    ctx = ToolContext(home=home, cwd=repository)
    made = create_worktree(ctx, "Tiny", python=sys.executable)
    worktree = Path(made.worktree)
    _write(worktree / "fastvideo/tiny.py", PORT)
    _write(worktree / "fastvideo/layers.py", LAYERS)
    _write(worktree / "fastvideo/layers.json", '{"scale": 1}')
    _write(worktree / "fastvideo/unused.json", '{"scale": 1}')
    _write(worktree / "fastvideo/unused.py", "X = 1\n")
    _write(worktree / ADAPTER_PATH, ADAPTER)
    ctx.ports.update(made.port_id, lambda port: port.model_copy(update={"official_repo": str(official)}))
    _checkpoint(checkpoint / "transformer")
    fetch_weights(ctx, made.port_id, str(checkpoint))
    component = PlanComponent(
        name=NAME, kind="dit", official="tiny_official.Net", port="fastvideo.tiny.TinyNet", adapter=ADAPTER_PATH
    )
    write_plan(ctx, made.port_id, "The network.", [component])
    return Tiny(ctx, made.port_id, worktree)


def full_run(tiny: Tiny, component: str) -> RunComponentParityResult:
    """The run that the gate asks for; longer than one wait if the machine is busy."""
    result = run_component_parity(tiny.ctx, tiny.port_id, component, device="cpu")
    while result.state in ("queued", "running"):
        run_status(tiny.ctx, result.run_id, 45)
        result = finish(tiny.ctx, tiny.ctx.runs.get(result.run_id))
    return result


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.lstrip("\n"))


def _checkpoint(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    shapes = {
        "first.weight": (16, 8),
        "first.bias": (16,),
        "norm.weight": (16,),
        "norm.bias": (16,),
        "second.weight": (8, 16),
        "second.bias": (8,),
    }
    values = {name: random.normal(0.1, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "TinyTransformer"}')
