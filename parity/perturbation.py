"""A small seeded change of an input, large enough that every output which depends on the input shows it."""

from __future__ import annotations

import torch

PERTURBATION = 1e-2
"""Size of the self-test's perturbations, relative to the standard deviation of what is perturbed."""


def perturb(tensor: torch.Tensor) -> torch.Tensor:
    """Floats move by 1 % of their spread; integers are mirrored in their range; a mask loses its last element."""
    generator = torch.Generator().manual_seed(20)
    if tensor.is_floating_point():
        spread = tensor.double().std() if tensor.numel() > 1 else tensor.abs().double().mean()
        scale = float(spread) or 1.0
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        return tensor + PERTURBATION * scale * noise
    flat = tensor.reshape(-1)
    if tensor.dtype == torch.bool or (int(flat.min()) >= 0 and int(flat.max()) <= 1):
        last = tensor[..., -1:] if tensor.ndim else tensor
        last.copy_(1 - last.long())
        return tensor
    if int(flat.min()) == int(flat.max()):
        return tensor + 1
    return flat.max() + flat.min() - tensor
