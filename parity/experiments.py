"""The two processes in which a failing port is taken apart, as the coordinator asks them; their own part is `lab`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .children import Child
from .errors import ParityError
from .handover import announce
from .items import Item
from .job import Job
from .lab_requests import ask
from .local_faults import Fault
from .metrics import distance
from .outputs import read_outputs
from .pairing import Pair
from .passing import Where


class Experiments:
    """The two processes in which experiments are made, and their answers."""

    def __init__(self, spec: dict[str, Any], job: Job, item: Item, partner: Mapping[str, str]) -> None:
        self.root = job.run_dir
        self.item = item
        self.shared = self.root / "lab.shared"
        self.number = 0
        self.injections = 0
        self.partner = dict(partner)
        self.outputs = self.root / "official" / f"{item.key}.float32.safetensors"
        self._prepare()
        common = {**spec, "shared": str(self.shared), "item": item.key, "partner": self.partner, "excuses": []}
        self.children = [
            Child(
                python,
                f"lab_{side}",
                self.root / f"lab_{side}",
                {**common, "side": side, "out": str(self.root / f"lab.{side}")},
                Path(spec["worktree"]),
            )
            for side, python in (("official", spec.get("official_python") or spec["python"]), ("port", spec["python"]))
        ]

    def _prepare(self) -> None:
        """The inputs of the comparison, again under the names that the two processes expect."""
        self.shared.mkdir()
        for path in (self.root / "shared").glob("inputs.*"):
            (self.shared / path.name).hardlink_to(path)

    def begin(self) -> bool:
        """Wait for the forced traces; whether they are there."""
        official = self.children[0]

        def expected() -> bool:
            """The port waits for the captured tensors, so it is given up when the official side ended without them."""
            captured = (self.shared / "captured.ready").exists()
            return self._alive() and (captured or official.process.poll() is None)

        ready = "error" not in ask(self.shared, 0, "", {}, expected)
        if not ready:
            return False
        ask(self.shared, 0, "", {}, lambda: official.process.poll() is None, "official")
        return (self.root / "lab.official" / "forced.json").is_file()

    def reason(self) -> str:
        """Why the experiments did not begin."""
        for child in self.children:
            if child.process.poll() is not None:
                try:
                    child.value()
                except ParityError as error:
                    return f"{error.what} {error.seen}"
        return "its tensors are too many."

    def _alive(self) -> bool:
        return self.children[1].process.poll() is None

    def ask(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Have the port's process do one experiment; an ``error`` in the answer when it could not."""
        self.number += 1
        return ask(self.shared, self.number, action, request, self._alive)

    def healed(self, faults: list[Fault]) -> dict[str, torch.Tensor]:
        """Outputs of the port with the official tensors at these places only; empty when it could not be run."""
        tag = f"heal.{self.number + 1}"
        points = sorted({point for fault in faults for point in fault.points})
        if "error" in self.ask("heal", {"points": points, "tag": tag}):
            return {}
        return read_outputs(self.root / "lab.port", self.item.key, tag)

    def injected(self, points: Sequence[tuple[str, Where]]) -> dict[str, torch.Tensor]:
        """Outputs of the official model with the port's tensors at these places of the port; empty without them."""
        places = [(module, where) for module, where in points if module in self.partner]
        tag, file = f"inject.{self.number + 1}", self.shared / f"port.{self.number + 1}.safetensors"
        kept = self.ask("keep", {"modules": [module for module, _ in places], "file": str(file)})
        if not places or not kept.get("complete"):
            return {}
        self.injections += 1
        request = {
            "points": [(self.partner[module], where) for module, where in places],
            "partner": {self.partner[module]: module for module, _ in places},
            "file": str(file),
            "tag": tag,
        }
        alive = self.children[0].process
        answer = ask(self.shared, self.injections, "inject", request, lambda: alive.poll() is None, "official")
        if not answer.get("forced"):
            return {}
        return read_outputs(self.root / "lab.official", self.item.key, tag)

    def own_error(self) -> float:
        """The official model's own rounding in its outputs; 0 if there is no reference in float64."""
        mine, theirs = (read_outputs(self.root / "official", self.item.key, tag) for tag in ("float32", "reference"))
        return max((distance(mine[name], theirs[name]).relative_l2 for name in theirs if name in mine), default=0.0)

    def end(self) -> None:
        """Stop both processes."""
        if self._alive():
            announce(self.shared / f"lab.{self.number + 1}.request", {"action": "stop"})
        if self.children[0].process.poll() is None:
            announce(self.shared / f"official.{self.injections + 1}.request", {"action": "stop"})
        for child in self.children:
            child.stop()


def partners(pairs: Mapping[str, Pair], dropped: set[str]) -> dict[str, str]:
    """Port module -> official module, where forcing makes sense: no functions, no pairs that turned out wrong."""
    return {name: pair.official for name, pair in pairs.items() if name and "::" not in name and name not in dropped}
