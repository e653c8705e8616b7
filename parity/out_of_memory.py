"""What to say when a GPU has no memory left: how much there was, who held it, what to change."""

from __future__ import annotations

import os
import subprocess
import sys

ADVICE = (
    "End the other processes named, or use a smaller case, a shorter or smaller video, or a card with more memory; "
    "a float64 reference needs four times the memory of bf16."
)

_QUERY = ("nvidia-smi", "--query-compute-apps=gpu_bus_id,pid,process_name,used_memory", "--format=csv,noheader")


def report() -> list[str]:
    """Lines about each visible card and the processes that hold memory on the machine's cards; empty without CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    lines = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        own = torch.cuda.memory_reserved(index)
        lines.append(
            f"cuda:{index}: {free / 2**30:.2f} GiB free of {total / 2**30:.2f} GiB; this process holds "
            f"{own / 2**30:.2f} GiB"
        )
    return [*lines, *holders()]


def holders() -> list[str]:
    """One line for each process with memory on a card, as nvidia-smi tells; empty where it does not."""
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_holders(told.stdout, os.getpid())


def parse_holders(text: str, own_pid: int) -> list[str]:
    """nvidia-smi's ``bus id, pid, name, memory`` lines in words, at most ten."""
    lines = []
    for row in text.splitlines()[:10]:
        parts = [part.strip() for part in row.split(",")]
        if len(parts) >= 4 and parts[1].isdecimal():
            mine = " (this process)" if int(parts[1]) == own_pid else ""
            lines.append(f"GPU {parts[0]}: process {parts[1]}{mine}, {', '.join(parts[2:-1])}, holds {parts[-1]}")
    return lines
