"""What tracing costs: `python bench/trace.py --device cuda --fastvideo FOLDER [--tune]`, in one run and one table.

FastVideo's Wan 1.3B with random weights, 480p latents, bfloat16: the forward alone, inside `tracing` with the transfer
and the save, and beside FastVideo's own activation trace. `--device cpu` takes a small geometry.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from fastvideo_port.parity import recorder, sketch, traced_functions, tracing
from fastvideo_port.parity.trace import Trace

say = sys.stdout.write


def build(layers: int, small: bool, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """FastVideo's Wan with seeded random weights, made on the device."""
    from fastvideo.configs.models.dits.wanvideo import WanVideoArchConfig, WanVideoConfig
    from fastvideo.models.dits.wanvideo import WanTransformer3DModel

    heads, size, ffn = (4, 32, 256) if small else (12, 128, 8960)
    arch = WanVideoArchConfig(num_layers=layers, num_attention_heads=heads, attention_head_dim=size, ffn_dim=ffn)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = WanTransformer3DModel(WanVideoConfig(arch_config=arch), hf_config={})
    finally:
        torch.set_default_dtype(before)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    return model.requires_grad_(False).eval()


def prepare(folder: str | None, device: torch.device) -> None:
    """FastVideo's environment for one process."""
    if folder:
        sys.path.insert(0, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    os.environ["FASTVIDEO_ATTENTION_BACKEND"] = "TORCH_SDPA"
    from fastvideo.distributed import maybe_init_distributed_environment_and_model_parallel

    if device.type == "cpu":
        from fastvideo.platforms.cpu import CpuPlatform

        CpuPlatform.get_attn_backend_cls = classmethod(lambda *_, **__: "fastvideo.attention.backends.sdpa.SDPABackend")
    maybe_init_distributed_environment_and_model_parallel(1, 1)


def inputs(shape: tuple[int, ...], text: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Latents, text and timestep."""
    random = torch.Generator().manual_seed(1)
    latents, words = torch.randn(shape, generator=random), torch.randn((1, text, 4096), generator=random)
    return latents.to(device, dtype), words.to(device, dtype), torch.tensor([500], device=device)


def forward(model: torch.nn.Module, bundle: tuple[torch.Tensor, ...]) -> None:
    """One forward as FastVideo calls it."""
    from fastvideo.forward_context import set_forward_context

    with torch.no_grad(), set_forward_context(current_timestep=0, attn_metadata=None):
        model(*bundle)


class Row(NamedTuple):
    """Milliseconds by the wall and by events, and MiB."""

    wall: float
    event: float
    peak: float


class Clock:
    """Milliseconds by the wall (with everything finished) and, on a GPU, by events; the extra peak memory in MiB."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.gpu = device.type == "cuda"

    def __call__(self, run: Callable[[], Any], repeats: int) -> Row:
        """Medians of ``repeats`` runs after one that warms up."""
        return self.in_turns({"": run}, repeats)[""]

    def in_turns(self, runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Row]:
        """The same of several, one after the other in each round: a device that warms up slows all of them alike."""
        rounds = [{name: self.once(run) for name, run in runs.items()} for _ in range(repeats + 1)][1:]
        return {name: Row(*map(statistics.median, zip(*(row[name] for row in rounds), strict=True))) for name in runs}

    def once(self, run: Callable[[], Any]) -> Row:
        """One run."""
        peak = 0.0
        if self.gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        start = time.perf_counter()
        run()
        if self.gpu:
            end.record()
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - held) / 2**20
        wall = (time.perf_counter() - start) * 1e3
        return Row(wall, begin.elapsed_time(end) if self.gpu else wall, peak)


class HostTime:
    """Host seconds spent in hooks, nested ones counted once."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def __enter__(self) -> HostTime:
        self.kept = {name: getattr(recorder.Recorder, name) for name in ("begin", "end")}
        for name, function in self.kept.items():
            setattr(recorder.Recorder, name, self.timed(function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self.kept.items():
            setattr(recorder.Recorder, name, function)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return run


def traced(model: torch.nn.Module, bundle: tuple[torch.Tensor, ...], path: Path | None = None) -> Trace:
    """A traced forward with everything on the host at its end, and saved if a path is given."""
    with tracing.tracing(model) as result:
        forward(model, bundle)
    if path is not None:
        result.save(path)
    return result


def modules_traced(model: torch.nn.Module, bundle: tuple[torch.Tensor, ...]) -> None:
    """The same without attention and norms that are functions: what FastVideo's trace sees, and inputs."""
    with mock.patch.object(
        traced_functions.Functions, "_boundary", lambda _, function, args, more: function(*args, **more)
    ):
        traced(model, bundle)


def compare(model: torch.nn.Module, bundle: tuple[torch.Tensor, ...], clock: Clock, repeats: int, theirs: bool) -> None:
    """The forward alone, traced by us and by FastVideo."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.trace"
        runs = {
            "forward": lambda: forward(model, bundle),
            "forward, traced": lambda: traced(model, bundle),
            "forward, only modules traced": lambda: modules_traced(model, bundle),
            "forward, traced and saved": lambda: traced(model, bundle, path),
        }
        rows = clock.in_turns(runs, repeats)
        if theirs:
            from fastvideo.hooks.activation_trace import attach_activation_trace, detach_activation_trace

            os.environ["FASTVIDEO_TRACE_ACTIVATIONS"] = "1"
            os.environ["FASTVIDEO_TRACE_OUTPUT"] = str(Path(folder) / "theirs.jsonl")
            manager = attach_activation_trace(model)
            rows["forward, FastVideo's trace"] = clock(lambda: forward(model, bundle), 1)
            detach_activation_trace(manager)
        base = rows["forward"]
        say(f"{'':30}{'wall ms':>10}{'event ms':>10}{'ratio':>8}{'peak MiB':>10}{'extra MiB':>10}\n")
        for name, (wall, event, peak) in rows.items():
            say(f"{name:30}{wall:10.1f}{event:10.1f}{wall / base[0]:8.3f}{peak:10.1f}{peak - base[2]:10.1f}\n")
        with HostTime() as host:
            result = traced(model, bundle, path)
        size = sum(path.with_suffix(end).stat().st_size for end in (".json", ".npy")) / 1e6
        ends = sum(len(call.inputs) + len(call.outputs) for call in result.calls)
        say(
            f"{len(result.calls)} calls, {ends} inputs and outputs, {len(result.tensors)} distinct; "
            f"{size:.2f} MB on disk; "
            f"host {host.seconds * 1e3:.1f} ms in {host.calls} hooks ({host.seconds / host.calls * 1e6:.1f} us each)\n"
        )


def self_check(device: torch.device) -> None:
    """Fingerprints on the device equal those on the CPU."""
    random = torch.Generator().manual_seed(2)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    cases = {
        "float32": noise(3, 40000),
        "float64": noise(70001).double(),
        "bfloat16": noise(300001).bfloat16(),
        "float16": noise(90000).half(),
        "2048 values": noise(2048),
        "transposed": noise(700, 5000).bfloat16().t(),
        "heads": noise(1, 700, 6, 64).bfloat16().transpose(1, 2),
        "odd offset": noise(50001).bfloat16()[1:],
        "five dims": noise(2, 3, 14, 15, 60).permute(0, 4, 2, 1, 3),
        "nan": torch.cat([noise(99999), torch.tensor([float("nan")])]).bfloat16(),
        "huge": noise(99999).bfloat16() * 1e30,
        "bool": noise(9000) > 0,
        "int64": torch.arange(90000),
    }
    worst = 0.0
    for name, tensor in cases.items():
        want, got = sketch.fingerprint(tensor), sketch.fingerprint(tensor.to(device))
        limit = 1e-6 if tensor.dtype in sketch.HALVES else 1e-12
        gap = sketch.sketch_distance(got, want)
        lengths = abs(got.norm / want.norm - 1)
        exact = got.non_finite == want.non_finite and got.moments[2:] == want.moments[2:]
        if gap > limit or lengths > limit or not exact:
            raise SystemExit(f"self-check failed: {name}: {gap:.1e}, {lengths:.1e}\n{got.moments}\n{want.moments}")
        worst = max(worst, gap / limit)
    say(f"self-check: {len(cases)} tensors alike on CPU and {device}, at most {worst:.2f} of the limit\n")


def kernel(device: torch.device, clock: Clock, tune: bool) -> None:
    """The sketch alone on 1 GiB against a copy."""
    from fastvideo_port.parity.sketch_device import DeviceSketcher

    half = torch.randn(2**29, device=device, dtype=torch.bfloat16)
    other = torch.empty_like(half)
    copy = 2 * 2**30 / clock(lambda: other.copy_(half), 10)[1] / 1e6
    say(f"copy {copy:.0f} GB/s (read and written)\n")
    kept = DeviceSketcher.sums, DeviceSketcher.warps, DeviceSketcher.per_core
    configurations = [kept]
    if tune:
        configurations += [(s, w, p) for s in (512, 1024) for w in (4, 8) for p in (1, 2)]
    single = other.view(torch.float32)
    single.normal_()
    strided = half.view(32768, 16384).t()
    for configuration in configurations:
        DeviceSketcher.sums, DeviceSketcher.warps, DeviceSketcher.per_core = configuration
        rates = []
        for tensor, narrow in ((half, True), (single, True), (single, False), (strided, True)):
            sketcher = DeviceSketcher(device, narrow=narrow)
            made = sketch.Fingerprint(tuple(tensor.shape), str(tensor.dtype), "cuda")
            rates.append(2**30 / clock(lambda s=sketcher, t=tensor, m=made: s.add(t, True, m), 7)[1] / 1e6)
        names = ("bfloat16", "float32 narrow", "float32", "transposed bfloat16")
        text = ", ".join(f"{name} {rate:.0f} ({rate / copy:.2f})" for name, rate in zip(names, rates, strict=True))
        say(f"sums {configuration[0]}, warps {configuration[1]}, programs {configuration[2]}: GB/s {text}\n")
    DeviceSketcher.sums, DeviceSketcher.warps, DeviceSketcher.per_core = kept


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fastvideo", help="folder that holds the package fastvideo")
    parser.add_argument("--tune", action="store_true", help="other kernel configurations")
    parser.add_argument("--kernel-only", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    if gpu and device.index is None:
        device = torch.device("cuda", 0)
    dtype = torch.bfloat16
    clock = Clock(device)
    say(f"{torch.cuda.get_device_name(device) if gpu else 'CPU'}, torch {torch.__version__}, numpy {np.__version__}\n")
    self_check(device)
    if gpu:
        kernel(device, clock, options.tune)
    if options.kernel_only:
        return
    prepare(options.fastvideo, device)
    model = build(30 if gpu else 3, not gpu, device, dtype)
    shape, text = ((1, 16, 21, 60, 104), 512) if gpu else ((1, 16, 3, 16, 16), 16)
    compare(model, inputs(shape, text, device, dtype), clock, 5 if gpu else 3, True)
    del model
    say("\ndepth series, small input\n")
    small = inputs((1, 16, 5, 32, 32) if gpu else (1, 16, 2, 8, 8), 64, device, dtype)
    for layers in (2, 4, 15, 30, 60) if gpu else (2, 4, 15):
        say(f"{layers} blocks\n")
        compare(build(layers, not gpu, device, dtype), small, clock, 3, False)


if __name__ == "__main__":
    main()
