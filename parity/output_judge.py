"""The verdict on one output, from the errors of both sides against the reference."""

from __future__ import annotations

import math
from typing import Any

import torch

from .component_results import Results
from .items import Item
from .metrics import distance
from .verdict import OUTPUT_FAIL, OUTPUT_PASS, Findings, Verdict, judge, ratio


def match_outputs(
    item: Item, port: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], findings: Findings
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """``(name, the port's, the expected)`` of one name and shape; what has no counterpart is a failure."""
    if len(port) == len(expected) == 1 and (_unnamed(next(iter(port))) or _unnamed(next(iter(expected)))):
        name = next(iter(expected))
        port = {name: next(iter(port.values()))}
    where = f"case {item.case!r}, seed {item.seed}"
    missing, extra = sorted(set(expected) - set(port)), sorted(set(port) - set(expected))
    if missing:
        findings.say("missing-output", "fail", f"The port does not return {missing} ({where}).")
    if extra:
        findings.say("extra-output", "fail", f"The port returns {extra}, which the official side does not ({where}).")
    found = []
    for name in expected:
        if name not in port:
            continue
        if port[name].shape != expected[name].shape:
            findings.say(
                "shape-mismatch",
                "fail",
                f"Output {name!r} has shape {tuple(port[name].shape)}, "
                f"the official one {tuple(expected[name].shape)} ({where}).",
            )
        elif port[name].numel():
            found.append((name, port[name], expected[name]))
    return found


def judge_output(
    item: Item,
    name: str,
    mine: torch.Tensor,
    single: torch.Tensor,
    rounded: torch.Tensor,
    truth: torch.Tensor,
    findings: Findings,
) -> tuple[dict[str, Any], Verdict]:
    """The row and the verdict of one output.

    Args:
        item: The input.
        name: Of the output.
        mine: The port's, in float32.
        single: The official one, in float32.
        rounded: The official one whose distance from ``truth`` is the official rounding.
        truth: The reference.
        findings: Where what is said of it goes.
    """
    where = f"output {name!r} of case {item.case!r}, seed {item.seed}"
    port_error, official_error, strict = distance(mine, truth), distance(rounded, truth), distance(mine, single)
    exact = not single.is_floating_point()
    value = ratio(port_error.relative_l2, official_error.relative_l2)
    verdict = judge(value, OUTPUT_PASS, OUTPUT_FAIL)
    if exact:
        value = 0.0 if torch.equal(mine.to(truth.dtype), truth) else math.inf
        verdict = "pass" if value == 0 else "fail"
    bad_port, bad_truth = port_error.non_finite
    if bad_truth:
        findings.say(
            "non-finite-reference",
            "inconclusive",
            f"The official {where} holds {bad_truth} NaN or infinite elements.",
        )
        verdict = "inconclusive"
    elif bad_port:
        findings.say("non-finite-port", "fail", f"The port's {where} holds {bad_port} NaN or infinite elements.")
    constant = truth.numel() > 1 and bool((truth == truth.reshape(-1)[0]).all())
    if constant and not exact:
        findings.say(
            "constant-output",
            "inconclusive",
            f"The official {where} is {float(truth.reshape(-1)[0]):g} everywhere: it proves nothing.",
        )
    return {
        "name": name,
        "shape": list(truth.shape),
        "dtype": str(mine.dtype).removeprefix("torch."),
        "logic_ratio": value,
        "port_error": port_error.relative_l2,
        "reference_error": official_error.relative_l2,
        "max_abs": strict.max_abs,
        "cosine": strict.cosine,
        "strict": strict.strict == 1.0,
    }, verdict


def judge_control(results: Results, item: Item, findings: Findings) -> Verdict:
    """Each side against itself with one seed: unstable outputs can neither pass nor convict."""
    for side in ("official", "port"):
        first, second = results.outputs(side, item, "float32"), results.outputs(side, item, "control")
        for name, tensor in first.items():
            if name not in second or tensor.shape != second[name].shape:
                gap = math.inf
            else:
                gap = distance(second[name], tensor).relative_l2
            own = results.own_error(item, name)
            if not (gap <= max(own, 1e-7)):
                findings.say(
                    f"{side}-unstable",
                    "inconclusive",
                    f"The {side} side differs from itself by {gap:.2g} (relative L2) with one seed.",
                )
                return "inconclusive"
    return "pass"


def _unnamed(name: str) -> bool:
    return name == "output" or name.startswith("[")
