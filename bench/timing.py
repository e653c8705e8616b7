"""How the benches take time: CUDA events on a GPU, the wall clock elsewhere, the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def measure(run: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2) -> float:
    """Median milliseconds of ``repeats`` calls of ``run``, after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(float(begin.elapsed_time(end)))
        else:
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)
