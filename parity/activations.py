"""Activations that are taken for one another, under the names that a person knows them by."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the exact GELU (erf)": lambda x: F.gelu(x),
    "the tanh GELU": lambda x: F.gelu(x, approximate="tanh"),
    "SiLU": F.silu,
    "the quick GELU (x * sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
