"""Prove by names and by values that the official weights are in the port."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from .arrivals import Prover
from .mapping import Plan
from .proof import Proof
from .values import Values
from .weights import Entry


def prove(
    official: Mapping[str, Entry],
    port: Mapping[str, torch.Tensor],
    plan: Plan | None,
    official_values: Mapping[str, torch.Tensor] | None = None,
    *,
    asked: torch.dtype = torch.float32,
    buffers: Collection[str] = (),
    unused: Collection[str] = (),
) -> Proof:
    """Prove that every official tensor arrived.

    Args:
        official: Entries of the checkpoint (or of the official model's state dict); with digests, unless
            ``official_values`` is given.
        port: The port's state dict.
        plan: What the port's rules do with the official names, or none if it loads in another way.
        official_values: The official tensors, read when they are asked for; then they are compared directly.
        asked: The dtype that the port was asked to be loaded in: rounding to it is no damage.
        buffers: Port tensors that code may compute for itself: they are not missing.
        unused: Official names that are declared to be left out on purpose.
    """
    prover = Prover(Values(official, official_values, port), asked, frozenset(unused))
    if plan is not None:
        prover.by_rules(plan)
    prover.by_value()
    return prover.finish(plan, frozenset(buffers))
