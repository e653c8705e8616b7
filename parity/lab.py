"""Processes in which a port that failed is taken apart: official tensors are forced upon it, one experiment a time.

The official side runs once more and keeps all that passes between its modules (the captured tensors). In float64 it
then runs with these tensors forced upon it: each module alone, from the inputs that the float32 model gave it. The port
runs with the same tensors forced upon it, so that every error that its trace shows was made right there: none is
inherited. Further experiments are asked for through files (`lab_requests`), since the model stays loaded.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .arguments import exchanged
from .errors import ParityError
from .handover import announce, await_file
from .items import Item
from .job import Job
from .lab_requests import serve
from .leaves import leaves, swap_leaf
from .outputs import read_outputs
from .passing import Forcer, Keeper, Kept, Where, passing
from .pool import first_tensor
from .reached import tolerant
from .runner import Runner, open_side
from .scheduler_rehearsal import Rolled, scheduler_in
from .scheduler_suggestions import suggestions
from .scheduler_walks import official_config
from .tracing import tracing
from .trials import search

CAPTURE_LIMIT = 4 << 30
"""Bytes of official tensors that are kept; a case that makes more is not taken apart."""


def _item(runner: Runner, key: str) -> Item:
    return next(item for item in runner.items if item.key == key)


def lab_official(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the official process: capture, then the reference trace ``forced`` in float64 (float32 where it fails)."""
    runner = open_side(spec, "official", job)
    model = runner.load(torch.float32)
    item = _item(runner, spec["item"])
    keeper = Keeper(CAPTURE_LIMIT)
    with torch.no_grad(), passing(model, keeper):
        runner.call(model, item, torch.float32)
    path = runner.shared / "captured.safetensors"
    if keeper.complete:
        save_file(keeper.tensors, path)
    announce(runner.shared / "captured.ready", {"complete": keeper.complete})
    if not keeper.complete:
        return {"complete": False, "kind": ""}
    del keeper
    partner = {name: name for name, _ in model.named_modules() if name}
    kind, forcer = "float64", Forcer(Kept(path), partner)
    try:
        model.double()
        with torch.no_grad(), tracing(model) as trace, passing(model, forcer):
            runner.call(model, item, torch.float64)
    except (ParityError, RuntimeError):
        del model
        kind, model = "float32", runner.load(torch.float32)
        with torch.no_grad(), tracing(model) as trace, passing(model, forcer):
            runner.call(model, item, torch.float32)
    trace.save(runner.out / "forced.trace")
    del model, trace, forcer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the port's process needs the room
    announce(runner.shared / "official.0.reply", {})
    answered = serve(runner.shared, "official", {"inject": _Injected(runner, item).inject})
    return {"complete": True, "kind": kind, "answered": answered}


class _Injected:
    """The official model, loaded again when it is first asked for."""

    def __init__(self, runner: Runner, item: Item) -> None:
        self.runner = runner
        self.item = item
        self.model: torch.nn.Module | None = None

    def inject(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run freely, with the port's tensors (``file``) at the points only; the outputs are kept under the tag."""
        if self.model is None:
            self.model = self.runner.load(torch.float32)
        points: list[tuple[str, Where]] = [(module, where) for module, where in request["points"]]
        forcer = Forcer(Kept(Path(request["file"])), request["partner"], points)
        with torch.no_grad(), passing(self.model, forcer, {module for module, _ in points}):
            outputs = self.runner.call(self.model, self.item, torch.float32)
        self.runner.keep(outputs, self.item, request["tag"])
        return {"forced": forcer.forced}


def lab_port(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of the port's process: the trace ``forced``, then whatever experiments are asked for until ``stop``."""
    runner = open_side(spec, "port", job)
    model = runner.load(torch.float32)
    await_file(runner.shared / "captured.ready", "the official run")
    if not json.loads((runner.shared / "captured.ready").read_text())["complete"]:
        return {"answered": 0}
    lab = _Lab(runner, model, _item(runner, spec["item"]), spec["partner"])
    lab.forced_trace()
    announce(runner.shared / "lab.0.reply", {})
    return {
        "answered": serve(
            runner.shared,
            "lab",
            {
                "keep": lab.keep,
                "heal": lab.heal,
                "trials": lab.trials,
                "arguments": lab.arguments,
                "through": lab.through,
            },
        )
    }


class _Lab:
    def __init__(self, runner: Runner, model: torch.nn.Module, item: Item, partner: dict[str, str]) -> None:
        self.runner = runner
        self.model = model
        self.item = item
        self.partner = partner
        self.kept = Kept(runner.shared / "captured.safetensors")

    def _run(self) -> Any:
        return self.runner.call(self.model, self.item, torch.float32)

    def forced_trace(self) -> None:
        forcer = Forcer(self.kept, self.partner)
        with torch.no_grad(), tracing(self.model) as trace, passing(self.model, forcer):
            self._run()
        trace.save(self.runner.out / "forced.trace")
        (self.runner.out / "forced.masks.json").write_text(json.dumps(forcer.other_masks))

    def heal(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run freely, with official tensors at the points only; the outputs are kept under the request's tag."""
        points: list[tuple[str, Where]] = [(module, where) for module, where in request["points"]]
        forcer = Forcer(self.kept, self.partner, points)
        with torch.no_grad(), passing(self.model, forcer, {module for module, _ in points}):
            self.runner.keep(self._run(), self.item, request["tag"])
        return {"forced": forcer.forced}

    def keep(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run freely and keep what passes through some modules, in ``file``."""
        keeper = Keeper(CAPTURE_LIMIT)
        with torch.no_grad(), passing(self.model, keeper, set(request["modules"])):
            self._run()
        if keeper.complete:
            save_file(keeper.tensors, request["file"])
        return {"complete": keeper.complete}

    def through(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run freely, with what a module (``beside``) is handed or returns (``where``) passed through another one.

        The outputs are kept under the request's tag.
        """
        module, running = self.model.get_submodule(request["module"]), False

        def act(_: str, __: int, where: Where, values: Any) -> Any:
            nonlocal running
            if where != request["where"]:
                return None
            leaf, tensor = next(pair for pair in leaves(values) if pair[1].is_floating_point() and pair[1].ndim)
            running = True
            made = first_tensor(module.forward(tensor))
            running = False
            if made is None or made.shape != tensor.shape:
                raise ValueError(f"{request['module']} makes something else of it")
            return swap_leaf(values, leaf, made)

        with torch.no_grad(), passing(self.model, act, {request["beside"]}, paused=lambda: running):
            self.runner.keep(self._run(), self.item, request["tag"])
        return {}

    def arguments(self, request: dict[str, Any]) -> dict[str, Any]:
        """Hand a call other tensors; see `exchanged`."""
        with torch.no_grad():
            return exchanged(self.model, self._run, Forcer(self.kept, self.partner), self.kept, self.partner, **request)

    def trials(self, request: dict[str, Any]) -> dict[str, Any]:
        """Try the usual mistakes on a suspect; see `search`. The ``outputs`` of a request are a file.

        Measured at the outputs, the scheduler that a model holds comes first; see `suggestions`.
        """
        if "outputs" in request:
            answer = self._of_scheduler(Path(request["outputs"]).parent)
            if answer.get("found"):
                return answer
            request = {**request, "outputs": load_file(request["outputs"])}
        with torch.no_grad():
            return search(self.model, self._run, Forcer(self.kept, self.partner), self.kept, self.partner, **request)

    def _of_scheduler(self, official: Path) -> dict[str, Any]:
        """What is suggested for the scheduler that the model holds; nothing without one."""
        scheduler = scheduler_in(self.model)
        if scheduler is not None:
            with torch.no_grad(), tolerant():
                return suggestions(scheduler, self._rolled(official), official_config(self.runner.spec)[1])
        return {}

    def _rolled(self, official: Path) -> list[Rolled]:
        """All inputs with what the official side made of them, the smallest first."""
        rows = []
        for item in self.runner.items:
            made = read_outputs(official, item.key, "float32")
            if made:
                run = partial(self.runner.call, self.model, item, torch.float32, self.runner.inputs(item))
                rows.append(Rolled(item.key, run, made, read_outputs(official, item.key, "reference")))
        return sorted(rows, key=lambda row: sum(tensor.numel() for tensor in row.official.values()))
