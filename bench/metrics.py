"""One comparison of two bfloat16 tensors against the usual ways: `python bench/metrics.py [--device cuda] [--tune]`.

Everything is timed in one run, by CUDA events on a GPU. GB/s counts the bytes of both tensors once; the share is of the
bandwidth of a device copy (bytes read plus bytes written). First a self-check against float64 on the CPU is printed.
With --tune the kernel is also timed in other configurations, the fastest last, and what its parts took.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable

import torch
from fastvideo_port.parity.metrics import Distance, distance, fallback
from fastvideo_port.parity.metrics_chunks import Totals
from timing import measure

Run = Callable[[], object]
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# Seconds after which no further configuration is begun; compiling is most of them.
_TUNE_S = 75


def usual(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """What people write, in float32."""
    x, y = a.float(), b.float()
    gap = (x - y).abs()
    return [
        gap.max().item(),
        gap.mean().item(),
        (gap.norm() / y.norm()).item(),
        torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0).item(),
        torch.isclose(x, y, atol=1e-4, rtol=1e-4).sum().item(),
        torch.isclose(x, y, atol=0.1, rtol=0.1).sum().item(),
        x.isnan().sum().item(),
        y.isnan().sum().item(),
    ]


def same(found: Distance, expected: Distance) -> list[str]:
    """Fields in which two comparisons differ: counts and positions exactly, real numbers by 1e-12."""
    differ = []
    for name, value in expected._asdict().items():
        other = getattr(found, name)
        if isinstance(value, float):
            both_nan = math.isnan(value) and math.isnan(other)
            alike = both_nan or value == other or abs(value - other) <= 1e-12 * max(abs(value), 1e-300)
            alike = alike or (name == "cosine" and abs(value - other) <= 1e-12)
        else:
            alike = value == other
        if not alike:
            differ.append(f"{name} {other} for {value}")
    return differ


def self_check(device: torch.device) -> str:
    """Compare on the device and, in torch on the CPU, in float64."""
    random = torch.Generator().manual_seed(1)
    wrong = []
    cases = 0
    for (first, second), elements in itertools.product(itertools.product(_DTYPES, _DTYPES), (1, 777, 1 << 18, 3000002)):
        if elements > 1 << 18 and first != second:
            continue
        b = torch.randn(elements, generator=random)
        a = b + torch.randn(elements, generator=random) * 0.05
        b[::7] = 0
        variants = {"plain": (a, b), "huge": (a * 1e4, b * 1e-4), "doubled": (2 * b, b), "unaligned": (a[1:], b[1:])}
        broken, other = a.clone(), b.clone()
        broken[elements // 3], broken[elements // 2], other[elements // 2] = math.nan, math.inf, math.inf
        variants["broken"] = (broken, other)
        for name, (x, y) in variants.items():
            x, y = x.to(first), y.to(second)
            cases += 1
            differ = same(distance(x.to(device), y.to(device)), distance(x, y))
            if differ:
                wrong.append(f"  {first}/{second} {elements} {name}: {'; '.join(differ)}\n")
    for dtype in _DTYPES[:2]:
        for name, (x, y) in hard_cases(dtype, random).items():
            cases += 1
            differ = same(distance(x.to(device), y.to(device)), distance(x, y))
            if differ:
                wrong.append(f"  {dtype} {name}: {'; '.join(differ)}\n")
    return f"self-check: {cases} cases, {f'MISMATCH in {len(wrong)}' if wrong else 'ok'}\n" + "".join(wrong[:20])


def hard_cases(dtype: torch.dtype, random: torch.Generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs in a 16-bit dtype, large enough for the kernel that reads words, where a shortcut of it might be wrong."""
    elements = (1 << 21) + 1234
    normal = torch.randn(elements, generator=random)
    some_zero = normal.clone()
    some_zero[::7] = 0
    only_there = some_zero.clone()
    only_there[::7] = 5
    late = torch.zeros(elements)
    late[elements // 2] = 1
    one = torch.rand(elements, generator=random).add(1).to(dtype)
    least = torch.finfo(dtype).smallest_normal / 2 ** (7 if dtype == torch.bfloat16 else 10)
    tiny = torch.randint(1, 5, (elements,), generator=random) * least
    vast = torch.full((elements,), torch.finfo(dtype).max)
    vast[elements // 3] /= 3
    whole, hidden = torch.ones(elements), torch.zeros(elements)
    hidden[elements // 3] = -(2.0**-24)
    any_bits = [
        torch.randint(-32768, 32768, (elements,), generator=random, dtype=torch.int16).view(dtype).nan_to_num(1, 1, 1)
        for _ in range(2)
    ]
    pairs = {
        "equal": (some_zero, some_zero),
        "equal but for one element": (late, torch.zeros(elements)),
        "no expected": (normal, torch.zeros(elements)),
        "no actual": (torch.zeros(elements), some_zero),
        "equal to the first non-zero": (late, late),
        "one unit in the last place": ((one.view(torch.int16) + 1).view(dtype), one),
        "opposite": (-normal, normal),
        "gaps at zeros only": (only_there, some_zero),
        "tiny both": (tiny, tiny.flip(0)),
        "tiny actual": (tiny, one),
        "tiny expected": (one, tiny),
        "vast": (vast.flip(0), vast),
        "vast and opposite": (-vast, vast),
        "a gap that float32 rounds": (whole, hidden),
        "saturated": ((normal * 9).clamp(-1, 1), (normal.flip(0) * 9).clamp(-1, 1)),
        "any bits": (any_bits[0], any_bits[1]),
    }
    return {name: (x.to(dtype), y.to(dtype)) for name, (x, y) in pairs.items()}


def tune(a: torch.Tensor, b: torch.Tensor, copy: float, write: Callable[[str], object]) -> None:
    """Time configurations of the kernel, the fastest last, and the parts of one comparison.

    Args:
        copy: Milliseconds of a device copy of ``a``.
    """
    from fastvideo_port.parity.metrics_triton import Configuration, compare_on_gpu

    begin = time.monotonic()
    kept = compare_on_gpu(a, b)
    rows: list[tuple[float, Configuration, str]] = []

    def attempt(how: Configuration) -> None:
        try:
            found = compare_on_gpu(a, b, how)
            took = measure(lambda: compare_on_gpu(a, b, how), a.device, 9)
            rows.append((took, how, "" if _alike(found, kept) else "OTHER RESULT"))
        except Exception as error:  # A configuration that a card refuses is a row, not the end.
            rows.append((math.inf, how, f"{type(error).__name__}: {error}"[:80]))

    for warps, programs in itertools.product((8, 4, 16), (6, 8, 12, 16, 24, 32, 48)):
        if time.monotonic() - begin < _TUNE_S:
            attempt(Configuration(warps, programs, 64))
    best = sorted(rows, key=lambda row: row[0])[:1]
    for (_, how, _), registers in itertools.product(best, (None, 40, 48, 80)):
        if time.monotonic() - begin < _TUNE_S:
            attempt(Configuration(how.warps, how.programs, registers))
    write(f"\n{'warps':>8}{'programs':>10}{'registers':>11}{'ms':>10}{'GB/s':>9}{'of copy':>9}\n")
    read = 2 * a.numel() * a.element_size()
    for took, how, remark in sorted(rows, key=lambda row: -row[0]):
        write(f"{how.warps:8}{how.programs:10}{how.registers or '-':>11}")
        write(f"{took:10.3f}{read / took / 1e6:9.0f}{copy / took:9.0%}  {remark}\n")
    write(f"{len(rows)} configurations in {time.monotonic() - begin:.0f} s\n{parts(lambda: distance(a, b))}")


def _alike(found: Totals, kept: Totals) -> bool:
    """Counts, maxima and positions equal, sums within rounding."""
    sums = ("difference", "expected_square", "actual_square", "dot")
    return all(
        math.isclose(value, vars(kept)[name], rel_tol=1e-12) if name in sums else value == vars(kept)[name]
        for name, value in vars(found).items()
    )


def parts(run: Run) -> str:
    """Microseconds of every kernel and copy in ``run``, the mean of five, as torch's profiler has them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    rows = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    return "".join(f"{event.device_time_total / 5:10.1f} us  {event.key[:60]}\n" for event in rows)


def main() -> None:
    """Print the self-check and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mib", type=int, help="size of one tensor (default 1024 on a GPU, 32 on a CPU)")
    parser.add_argument("--tune", action="store_true", help="also time each configuration of the kernel")
    options = parser.parse_args()
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    elements = (options.mib or (1024 if on_gpu else 32)) << 19
    random = torch.Generator(device).manual_seed(0)
    b = torch.empty(elements, dtype=torch.bfloat16, device=device).normal_(generator=random)
    a = torch.empty_like(b).normal_(generator=random).mul_(0.01).add_(b)
    write = sys.stdout.write
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    write(f"two tensors of {elements >> 19} MiB in bfloat16 on {where}, torch {torch.__version__}\n")
    if on_gpu:
        write(self_check(device))
    read = 2 * a.numel() * a.element_size()
    copy = measure(lambda: a.clone(), device, 40, 20)
    rows: list[tuple[str, Run, int]] = [
        ("ours", lambda: distance(a, b), 40 if on_gpu else 3),
        ("torch.testing.assert_close", lambda: torch.testing.assert_close(a, b, atol=1.0, rtol=1.0), 3),
        ("usual eager metrics", lambda: usual(a, b), 3),
    ]
    write(f"{'':28}{'ms':>10}{'GB/s':>9}{'of copy':>9}{'ratio':>8}{'extra MiB':>11}\n")
    write(f"{'device copy':28}{copy:10.3f}{read / copy / 1e6:9.0f}{1:9.0%}\n")
    first = None
    for name, run, repeats in rows:
        took = measure(run, device, repeats, repeats // 2 or 1)
        first = first or took
        extra = "n/a"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
            run()
            extra = f"{(torch.cuda.max_memory_allocated(device) - held) / 2**20:.1f}"
        write(f"{name:28}{took:10.3f}{read / took / 1e6:9.0f}{copy / took:9.0%}{took / first:8.1f}{extra:>11}\n")
    if on_gpu:
        write(f"by {'torch: ' + fallback() if fallback() else 'Triton'}\n")
        if options.tune:
            tune(a, b, copy, write)


if __name__ == "__main__":
    main()
