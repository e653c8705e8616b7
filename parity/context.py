"""What an adapter is told: device, dtype, seed, case and where the files are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Context:
    """The ``ctx`` argument of every adapter function.

    Attributes:
        device: Where the model runs.
        dtype: Floating dtype that the model is asked to run in. ``float64`` is asked of the official side only.
        seed: Seed of the inputs of this case.
        case: The chosen entry of the adapter's ``CASES``.
        worktree: Root of the port's worktree.
        official_repo: Clone of the official code, or none.
        official_weights: Folder with the official weights, or none.
        converted_weights: ``<worktree>/converted_weights/<model>``, or none when it does not exist.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int
    case: dict[str, Any]
    worktree: Path
    official_repo: Path | None = None
    official_weights: Path | None = None
    converted_weights: Path | None = None

    def on(self, **changes: Any) -> Context:
        """The same context with some fields changed."""
        return replace(self, **changes)
