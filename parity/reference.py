"""The reference: the official model in float64, or where it cannot be run so, its rounding in float32."""

from __future__ import annotations

from typing import Any

import torch

from .component_runner import ComponentRunner
from .errors import ParityError
from .items import Item
from .leaves import map_tensors
from .lift import lifted


def run_reference(runner: ComponentRunner, model: torch.nn.Module) -> dict[str, Any]:
    """Run the official model in float64 (its own casts kept); where that cannot be, learn its rounding in float32.

    Returns:
        ``kind`` (``float64``, ``float32`` or ``mixed``), ``why``, and ``float32``: keys of the inputs without float64.
    """
    failed: list[Item] = []
    why = ""
    model.double()
    for item in runner.items:
        try:
            runner.run_traced(model, item, torch.float64, "reference")
        except (ParityError, RuntimeError) as error:
            seen = error.seen if isinstance(error, ParityError) else str(error)
            why = why or (seen.strip().splitlines()[0][:200] if seen.strip() else type(error).__name__)
            failed.append(item)
    exact = [item for item in runner.items if item not in failed]
    if exact:
        _without_casts(runner, model, exact)
    full = "official weights and inputs in float64, the official code's own casts kept"
    if not failed:
        return {"kind": "float64", "why": full, "float32": []}
    _rounded(runner, model, failed)
    where = sorted({item.case for item in failed})
    runner.remark("no-float64", f"The official model does not run in float64 (case {', '.join(where)}): {why}")
    rest = "the float32 output is the reference, its rounding measured by changing last bits of weights and inputs"
    text = f"{rest}, since float64 failed: {why}"
    if exact:
        text = f"{full}; in case {', '.join(where)} {text}"
    return {"kind": "mixed" if exact else "float32", "why": text, "float32": [item.key for item in failed]}


def _rounded(runner: ComponentRunner, model: torch.nn.Module, chosen: list[Item]) -> None:
    """Run the official model with the last bits of weights and inputs changed at random: an estimate of its rounding.

    Random rounding of the data in place of the arithmetic (Monte Carlo arithmetic, Parker 1997).
    """
    model.float()  # the values came from float32, so nothing was lost on the way through float64
    generator = torch.Generator().manual_seed(11)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        signs = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor.device, torch.float32)
        return tensor * (1 + 2.0**-23 * signs)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    for item in chosen:
        runner.run_traced(model, item, torch.float32, "rounded", inputs=map_tensors(runner.inputs(item), change))


def _without_casts(runner: ComponentRunner, model: torch.nn.Module, chosen: list[Item]) -> None:
    """Run the float64 model once more with its casts lifted; where that fails there is no second reference.

    Only the adapter's call is lifted: what is around it resets the default dtype.
    """
    try:
        for item in chosen:
            runner.run_traced(model, item, torch.float64, "lifted", around=lifted)
    except (ParityError, RuntimeError) as error:
        seen = error.seen if isinstance(error, ParityError) else str(error)
        reason = seen.strip().splitlines()[0][:200] if seen.strip() else type(error).__name__
        runner.remark("no-lifted-reference", f"The official model does not run with its casts lifted: {reason}")
