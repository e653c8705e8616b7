"""Prepare a process for one side: threads, paths, what FastVideo's distributed set-up reads, the patches."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import torch

from .adapter import Side
from .attention import align_environment
from .patches import apply_patches


def single_process_environment() -> None:
    """What FastVideo's distributed set-up reads, for a group of one; what is already set stays."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    defaults = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def prepare(spec: dict[str, Any], side: Side) -> list[str]:
    """Prepare this process for one side: threads, paths, FastVideo's environment; returns what was patched."""
    torch.set_num_threads(max(1, int(spec.get("threads", 1))))
    align_environment(spec)
    if side == "official":
        if spec.get("official_repo"):
            sys.path.insert(0, spec["official_repo"])
        return []
    single_process_environment()
    return apply_patches(spec["patches"])
