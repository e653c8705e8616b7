"""What the two sides of a component comparison left on disk, read for those who judge it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .items import Item, items
from .metrics import distance
from .observe import Observation
from .outputs import read_outputs
from .trace import Trace
from .verdict import ratio, severity


class Results:
    """Outputs, traces and observations of both sides.

    Attributes:
        root: Folder of the run.
        official, port: What the two processes said.
        judged_side: Folder of the port's results that are judged: ``port``, or ``healed`` with places looked past.
        items: All inputs.
    """

    def __init__(
        self, root: Path, seeds: Sequence[int], official: dict[str, Any], port: dict[str, Any], judged_side: str
    ) -> None:
        self.root = root
        self.official = official
        self.port = port
        self.judged_side = judged_side
        self.items = items(official["cases"], list(seeds))
        self._traces: dict[tuple[str, str, str], Trace] = {}

    def trace(self, side: str, item: Item, tag: str) -> Trace:
        """A trace that a side left; read once, since several conclusions are drawn from each."""
        key = (side, item.key, tag)
        if key not in self._traces:
            self._traces[key] = Trace.load(self.root / side / f"{item.key}.{tag}.trace")
        return self._traces[key]

    def outputs(self, side: str, item: Item, tag: str) -> dict[str, torch.Tensor]:
        """What a side returned, by name; empty when it left nothing under this tag."""
        return read_outputs(self.root / side, item.key, tag)

    def float32_outputs(self, item: Item) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What the port and the official model returned in float32."""
        return self.outputs("port", item, "float32"), self.outputs("official", item, "float32")

    def reference(self, item: Item) -> dict[str, torch.Tensor]:
        """The official outputs that count as exact."""
        return self.outputs("official", item, self.tags(item)[0])

    def tags(self, item: Item) -> tuple[str, str]:
        """Names of the official results that are the reference, and of those that show the official rounding."""
        return ("float32", "rounded") if item.key in self.official["reference"]["float32"] else ("reference", "float32")

    def rounded(self, item: Item) -> dict[str, torch.Tensor]:
        """Official outputs with float32 rounding errors, whose distance from the reference is the official error."""
        return self.outputs("official", item, self.tags(item)[1])

    def own_error(self, item: Item, name: str) -> float:
        """Relative L2 of the official rounding in an output; 0 where it is not known."""
        truth, single = self.reference(item).get(name), self.rounded(item).get(name)
        if truth is None or single is None or truth.shape != single.shape:
            return 0.0
        return distance(single, truth).relative_l2

    def logic_ratios(self, item: Item, outputs: dict[str, torch.Tensor]) -> list[float]:
        """Error of such outputs of the port over the official rounding, for each that has a counterpart."""
        return [
            ratio(distance(mine, truth).relative_l2, self.own_error(item, name))
            for name, mine, truth in _common(outputs, self.reference(item))
        ]

    def worst_ratio(self, item: Item, outputs: dict[str, torch.Tensor]) -> float:
        """Largest logic ratio of such outputs of the port; infinite when one is missing or has another shape."""
        found = self.logic_ratios(item, outputs)
        if len(found) != sum(bool(tensor.numel()) for tensor in self.reference(item).values()):
            return math.inf
        return max(map(severity, found), default=math.inf)

    def observation(self, side: str, dtype: str) -> Observation:
        """In which dtypes and with which attention kernels a side computed."""
        return Observation.load(self.root / side / f"{dtype}.observed.json")


def _common(
    port: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    if len(port) == len(truth) == 1:
        port = {next(iter(truth)): next(iter(port.values()))}
    return [
        (name, port[name], truth[name])
        for name in truth
        if name in port and port[name].shape == truth[name].shape and truth[name].numel()
    ]
