"""A small video transformer twice, an official package and a port below ``fastvideo/``, and the real job run on both.

The port renames every module, fuses q, k and v, and computes in another order; texts are edited to plant faults.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvideo_port.parity.component_job import component_parity
from fastvideo_port.parity.job import Job

OFFICIAL = """
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x, mask):
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.to_out(y.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ff_in = nn.Linear(width, 2 * width)
        self.ff_out = nn.Linear(2 * width, width)

    def forward(self, x, temb, mask):
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(F.silu(temb))[:, None].chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale_a) + shift_a
        x = x + gate_a * self.attn(h, mask)
        h = self.norm2(x) * (1 + scale_f) + shift_f
        return x + gate_f * self.ff_out(F.gelu(self.ff_in(h), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, width=32, heads=4, layers=3, channels=8):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.time = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, channels)

    def forward(self, x, t, mask):
        angle = t[:, None] * torch.exp(torch.arange(8, device=t.device) * -1.0)
        temb = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1).to(x.dtype))
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, temb, mask)
        return self.head(self.norm(h))
"""

PORT = '''
import torch
import torch.nn.functional as F
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.o = nn.Linear(width, width)

    def forward(self, x, mask):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.o(y.transpose(1, 2).reshape(b, n, c))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        h = self.up(x)
        h = F.gelu(h, approximate="tanh")
        return self.down(h)


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ada = nn.Linear(width, 6 * width)
        self.pre_attn = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.pre_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, x, temb, mask):
        table = self.ada(F.silu(temb))[:, None]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = table.chunk(6, dim=-1)
        h = self.pre_attn(x)
        h = torch.addcmul(shift_a, h, 1 + scale_a)
        y = self.attention(h, mask)
        x = x + gate_a * y
        h = self.pre_mlp(x)
        h = torch.addcmul(shift_f, h, 1 + scale_f)
        y = self.mlp(h)
        x = x + gate_f * y
        return x


class ToyTransformer(nn.Module):
    param_names_mapping = {
        r"^embed\\.(.*)$": r"patch.\\1",
        r"^time\\.(.*)$": r"condition.\\1",
        r"^blocks\\.(\\d+)\\.modulation\\.(.*)$": r"layers.\\1.ada.\\2",
        r"^blocks\\.(\\d+)\\.norm1\\.(.*)$": r"layers.\\1.pre_attn.\\2",
        r"^blocks\\.(\\d+)\\.norm2\\.(.*)$": r"layers.\\1.pre_mlp.\\2",
        r"^blocks\\.(\\d+)\\.attn\\.to_q\\.(.*)$": (r"layers.\\1.attention.qkv.\\2", 0, 3),
        r"^blocks\\.(\\d+)\\.attn\\.to_k\\.(.*)$": (r"layers.\\1.attention.qkv.\\2", 1, 3),
        r"^blocks\\.(\\d+)\\.attn\\.to_v\\.(.*)$": (r"layers.\\1.attention.qkv.\\2", 2, 3),
        r"^blocks\\.(\\d+)\\.attn\\.to_out\\.(.*)$": r"layers.\\1.attention.o.\\2",
        r"^blocks\\.(\\d+)\\.ff_in\\.(.*)$": r"layers.\\1.mlp.up.\\2",
        r"^blocks\\.(\\d+)\\.ff_out\\.(.*)$": r"layers.\\1.mlp.down.\\2",
        r"^norm\\.(.*)$": r"norm_out.\\1",
        r"^head\\.(.*)$": r"proj_out.\\1",
    }

    def __init__(self, width=32, heads=4, layers=3, channels=8):
        super().__init__()
        self.patch = nn.Linear(channels, width)
        self.condition = nn.Linear(16, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, channels)

    def forward(self, x, t, mask):
        angle = torch.exp(torch.arange(8, device=t.device) * -1.0) * t[:, None]
        temb = self.condition(torch.cat([angle.cos(), angle.sin()], dim=-1).to(x.dtype))
        h = self.patch(x)
        for layer in self.layers:
            h = layer(h, temb, mask)
        return self.proj_out(self.norm_out(h))


def load_weights(model, official):
    """As FastVideo's loader does: rename, then merge on dimension 0."""
    import re

    state, parts = {}, {}
    for name, value in official.items():
        for pattern, template in model.param_names_mapping.items():
            if re.match(pattern, name):
                if isinstance(template, tuple):
                    target = re.sub(pattern, template[0], name)
                    parts.setdefault(target, {})[template[1]] = value
                else:
                    state[re.sub(pattern, template, name)] = value
                break
    state |= {name: torch.cat([found[i] for i in sorted(found)]) for name, found in parts.items()}
    model.load_state_dict(state, strict=False)
    return model
'''

ADAPTER = """
import torch

CASES = {"small": {"tokens": 6}, "odd": {"tokens": 9, "padded": 3}}


def weights():
    from toyofficial.model import Model

    generator = torch.Generator().manual_seed(1)
    model = Model()
    for name, value in model.state_dict().items():
        spread = 0.3 if "norm" in name else 0.2
        value.copy_(torch.randn(value.shape, generator=generator) * spread + ("norm" in name and "weight" in name))
    return model


def load_official(ctx):
    return weights().to(ctx.device, ctx.dtype).eval()


def load_port(ctx):
    import sys

    sys.path.insert(0, str(ctx.official_repo))  # the checkpoint is made by code here; a real one is a file
    state = weights().state_dict()
    sys.path.remove(str(ctx.official_repo))
    from fastvideo.models.dits.toy import ToyTransformer, load_weights

    return load_weights(ToyTransformer(), state).to(ctx.device, ctx.dtype).eval()


def make_inputs(ctx):
    generator = torch.Generator().manual_seed(ctx.seed)
    n = ctx.case["tokens"]
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[1, n - ctx.case.get("padded", 0):] = False
    return {"x": torch.randn(2, n, 8, generator=generator), "t": torch.rand(2, generator=generator) * 9, "mask": mask}


def call_official(model, inputs, ctx):
    return model(inputs["x"].to(ctx.device, ctx.dtype), inputs["t"].to(ctx.device), inputs["mask"].to(ctx.device))


def call_port(model, inputs, ctx):
    return model(inputs["x"].to(ctx.device, ctx.dtype), inputs["t"].to(ctx.device), inputs["mask"].to(ctx.device))
"""


def edited(text: str, *edits: tuple[str, str]) -> str:
    """``text`` with each ``(old, new)`` applied; an edit whose old text is not there exactly once is a mistake."""
    for old, new in edits:
        assert text.count(old) == 1, f"{text.count(old)} times: {old}"
        text = text.replace(old, new)
    return text


@dataclass
class Result:
    """What one run of the job concluded."""

    value: dict[str, Any]
    port_file: Path

    @property
    def verdict(self) -> str:
        return str(self.value["verdict"])

    @property
    def codes(self) -> set[str]:
        return {row["code"] for row in self.value["findings"]}

    def line(self, text: str) -> int:
        """Number of the only line of the port's file that holds ``text``."""
        lines = [number for number, line in enumerate(self.port_file.read_text().splitlines(), 1) if text in line]
        assert len(lines) == 1, (text, lines)
        return lines[0]

    def explain(self) -> str:
        """For the message of a failing assertion."""
        rows = [f"{row['verdict']}: {row['code']}: {row['message']}" for row in self.value["findings"]]
        ratios = [
            f"{row['case']}/{row['seed']} {row['verdict']} {row.get('logic_ratio')}" for row in self.value["cases"]
        ]
        return "\n".join([self.verdict, *rows, *ratios, str(self.value["culprit"])])


@dataclass
class Lab:
    """Folders of one comparison. ``run`` writes the texts and runs the job in real processes."""

    root: Path
    official: str = OFFICIAL
    port: str = PORT
    adapter: str = ADAPTER
    cases: list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    dtypes: list[str] = field(default_factory=lambda: ["float32"])
    trusted: list[str] = field(default_factory=list)
    trials: bool = False
    align_backends: bool = False
    official_python: str | None = None
    job: Callable[[dict[str, Any], Job], dict[str, Any]] = component_parity

    def run(self) -> Result:
        repo, worktree = self.root / "official repo", self.root / "worktree"
        port_file = worktree / "fastvideo" / "models" / "dits" / "toy.py"
        adapter = worktree / "tests" / "local_tests" / "toy" / "parity_transformer.py"
        texts = {
            repo / "toyofficial" / "__init__.py": "",
            repo / "toyofficial" / "model.py": self.official,
            port_file: self.port,
            adapter: self.adapter,
        }
        for folder in (worktree / "fastvideo", worktree / "fastvideo" / "models", port_file.parent):
            texts[folder / "__init__.py"] = ""
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = textwrap.dedent(text).lstrip("\n")
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
        run_dir = self.root / f"run {len(list(self.root.glob('run *')))}"
        run_dir.mkdir()
        spec: dict[str, Any] = {
            "adapter": str(adapter),
            "worktree": str(worktree),
            "official_repo": str(repo),
            "official_weights": None,
            "converted_weights": None,
            "python": sys.executable,
            "official_python": self.official_python,
            "cases": self.cases,
            "seeds": self.seeds,
            "dtypes": self.dtypes,
            "device": "cpu",
            "patches": [],
            "align_backends": self.align_backends,
            "threads": 1,
            "trials": self.trials,
            "reference_cache": str(self.root / "references"),
            "trusted_references": self.trusted,
        }
        return Result(self.job(spec, Job(run_dir)), port_file)
