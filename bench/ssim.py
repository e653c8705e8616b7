"""Speed and exactness of the per-frame metrics, in one table: `python bench/ssim.py [--device cuda] [--frames 81]`.

Ours against a loop over pytorch_msssim (what FastVideo does), its batched form, and scikit-image. On a GPU times are
CUDA events over frames that already lie there; "cold" rows include the copy to it. The ratio is taken within one run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from fastvideo_port.parity.ssim import Scorer
from timing import measure

Run = Callable[[], torch.Tensor]


def clip(frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A moving textured clip and a noisy copy: uint8 ``[frames, height, width, 3]``."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pictures = []
    for index in range(frames):
        red = 127 + 90 * torch.sin((x + 7 * index) / 9) + 30 * torch.sin(y / 5)
        green = 127 + 90 * torch.sin((y + 5 * index) / 11 + x / 17)
        pictures.append(torch.stack([red, green, ((x + 2 * y + 9 * index) % 256).float()], -1).clamp(0, 255).byte())
    reference = torch.stack(pictures)
    noise = torch.randint(-12, 13, reference.shape, generator=random, dtype=torch.int16)
    return reference, (reference.short() + noise).clamp(0, 255).byte()


def msssim_loop(reference: torch.Tensor, candidate: torch.Tensor, name: str) -> torch.Tensor:
    """pytorch_msssim frame by frame, as FastVideo's tests call it."""
    import pytorch_msssim

    function = getattr(pytorch_msssim, name)
    scores = []
    for a, b in zip(reference, candidate, strict=True):
        planes = [side.permute(2, 0, 1)[None].float() / 255 for side in (a, b)]
        scores.append(function(planes[0], planes[1], data_range=1.0))
    return torch.stack(scores).double()


def scikit_image(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """scikit-image's defaults, frame by frame on the CPU."""
    from skimage.metrics import structural_similarity

    pairs = zip(reference.cpu().numpy(), candidate.cpu().numpy(), strict=True)
    similarity: Callable[..., float] = structural_similarity
    return torch.tensor([similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs], dtype=torch.float64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 832), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    frames = options.frames or (81 if on_gpu else 6)
    repeats = options.repeats or (20 if on_gpu else 3)
    on_cpu = clip(frames, *options.size)
    reference, candidate = (side.to(device) for side in on_cpu)
    scorers = {metric: Scorer(metric, device) for metric in ("ssim", "ssim_gaussian", "ms_ssim")}
    eager = Scorer("ssim", device, fallback="asked for")
    rows: list[tuple[str, Run, str, int]] = [
        ("ours: ssim", lambda: scorers["ssim"](reference, candidate), "ssim", repeats),
        ("ours: ssim, without Triton", lambda: eager(reference, candidate), "ssim", repeats),
        ("ours: ssim, cold (from host)", lambda: scorers["ssim"](*on_cpu), "ssim", repeats),
        ("scikit-image", lambda: scikit_image(*on_cpu), "ssim", 1),
        ("ours: ssim_gaussian", lambda: scorers["ssim_gaussian"](reference, candidate), "", max(1, repeats // 4)),
        ("ours: ms_ssim", lambda: scorers["ms_ssim"](reference, candidate), "ms_ssim", repeats),
        ("pytorch_msssim.ms_ssim, loop", lambda: msssim_loop(reference, candidate, "ms_ssim"), "ms_ssim", 3),
        ("pytorch_msssim.ssim, loop", lambda: msssim_loop(reference, candidate, "ssim"), "", 3),
    ]
    expected = {"ssim": scikit_image(*on_cpu), "ms_ssim": msssim_loop(reference, candidate, "ms_ssim").cpu()}
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    write = sys.stdout.write
    write(f"{frames} frames of {options.size[1]}x{options.size[0]} on {where}, torch {torch.__version__}\n")
    write(f"{'':32} {'ms':>10} {'ms/frame':>10} {'ratio':>8} {'max |difference|':>18}\n")
    first = None
    for name, run, kind, times in rows:
        took = measure(run, device, times, warm_up=2 if times > 1 else 0)
        first = first or took
        gap = f"{np.abs(run().cpu().numpy() - expected[kind].numpy()).max():.1e}" if kind else ""
        write(f"{name:32} {took:10.2f} {took / frames:10.3f} {took / first:8.1f} {gap:>18}\n")
    write(f"ssim by {scorers['ssim'].backend}{': ' + scorers['ssim'].fallback if scorers['ssim'].fallback else ''}\n")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        scorers["ssim"](reference, candidate)
        write(f"extra GPU memory of ssim: {(torch.cuda.max_memory_allocated(device) - held) / 2**20:.1f} MiB\n")


if __name__ == "__main__":
    main()
