"""What the outputs depend on: one run for each input perturbed, and for some of the weights."""

from __future__ import annotations

from typing import Any

import torch

from .component_runner import ComponentRunner
from .errors import ParityError
from .items import Item
from .leaves import leaves, replace_leaf
from .metrics import distance
from .outputs import moved, read_outputs, storable
from .perturbation import PERTURBATION, perturb
from .weights_used import weights_used

_MOST_INPUTS = 16
_OTHER_KERNEL = 1e-4
"""Relative distance that two correct kernels do not reach in float32; a perturbation of 1 % passes it by far."""


def input_names(runner: ComponentRunner) -> list[str]:
    """The leaves of the inputs that are perturbed, one at a time."""
    return [name for name, tensor in leaves(runner.inputs(runner.items[0])) if tensor.numel()][:_MOST_INPUTS]


def responses(runner: ComponentRunner, model: torch.nn.Module) -> dict[str, bool] | None:
    """Outputs with each input perturbed: an input that one side ignores and the other uses is a finding.

    The run of the first floating input also tells which weights the output depends on. With gradients a model may
    choose other kernels, so that output is kept only if it moved by far more than rounding; else the input runs again.

    Returns:
        What `weights_used` says.
    """
    item = runner.items[0]
    names = input_names(runner)
    floats = {name for name, tensor in leaves(runner.inputs(item)) if tensor.is_floating_point() and tensor.numel() > 1}
    shared = next((name for name in names if name in floats), None)

    def forward(inputs: Any) -> tuple[dict[str, bool] | None, Any]:
        return weights_used(model, lambda: runner.call(model, item, torch.float32, inputs))

    used = None if shared else forward(None)[0]
    for number, name in enumerate(names):
        inputs, tag = replace_leaf(runner.inputs(item), name, perturb), f"input.{number}"
        if name == shared:
            used, output = forward(inputs)
            if output is not None:
                runner.keep(output, item, tag)
                if _far(runner, item, tag):
                    continue
        runner.run(model, item, torch.float32, tag, inputs)
    return used


def moves(runner: ComponentRunner, model: torch.nn.Module) -> bool:
    """Whether the first input gives another output than the one that was kept, or none."""
    item = runner.items[0]
    try:
        with torch.no_grad():
            output = leaves(runner.call(model, item, torch.float32))
    except ParityError:
        return True
    found = {name or "output": storable(tensor, name) for name, tensor in output}
    return moved(found, read_outputs(runner.out, item.key, "float32"))


def perturb_weights(runner: ComponentRunner, model: torch.nn.Module, used: dict[str, bool] | None) -> list[str]:
    """Run the port with one weight perturbed at a time: the first, a middle and the last one that is used."""
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.numel() and (used is None or used.get(name))
    ]
    if not named:
        return []
    chosen = sorted({0, len(named) // 2, len(named) - 1})
    item = runner.items[0]
    for number, index in enumerate(chosen):
        parameter = named[index][1]
        before = parameter.detach().clone()
        with torch.no_grad():
            spread = float(before.double().std()) if before.numel() > 1 else 0.0
            scale = spread or float(before.abs().double().mean()) or 1.0
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(before.shape, generator=generator).to(before.device, before.dtype)
            parameter.add_(PERTURBATION * scale * noise)
        runner.run(model, item, torch.float32, f"weight.{number}")
        with torch.no_grad():
            parameter.copy_(before)
    return [named[index][0] for index in chosen]


def _far(runner: ComponentRunner, item: Item, tag: str) -> bool:
    """Whether every output is further from the unperturbed one than another kernel could bring it."""
    before, after = (read_outputs(runner.out, item.key, name) for name in ("float32", tag))
    return before.keys() == after.keys() and all(
        after[name].shape == tensor.shape and distance(after[name], tensor).relative_l2 > _OTHER_KERNEL
        for name, tensor in before.items()
    )
