"""What a person wants to see of a tool's result: a few named facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Facts = dict[str, str]


def facts_of(tool: str, result: Mapping[str, Any]) -> Facts:
    """The facts of ``result`` that carry its verdict, in the order in which a person asks for them."""
    facts = _FACTS[tool](result) if tool in _FACTS else {}
    return {name: value for name, value in facts.items() if value} | {"next": str(result["next_step"])}


def place_of(culprit: Mapping[str, Any]) -> str:
    """Where a culprit stands: ``module (kind), file:first-last line``."""
    lines = f"{culprit['line']}-{culprit['end_line']}" if culprit["end_line"] != culprit["line"] else culprit["line"]
    return f"{culprit['module']} ({culprit['kind']}), {culprit['file']}:{lines}"


def _worktree(result: Mapping[str, Any]) -> Facts:
    return {
        "port": f"{result['port_id']} ({result['mode']}, branch {result['branch']})",
        "worktree": str(result["worktree"]),
        "interpreter": f"Python {result['python_version']}, torch {result['torch']}",
        "notes": "\n".join(result["notes"]),
    }


def _weights(result: Mapping[str, Any]) -> Facts:
    components = result["components"]
    return {
        "layout": f"{result['layout']}, needs conversion: {_yes(result['needs_conversion'])}",
        "components": "\n".join(
            f"{item['name']}: {item['class_name']}, {item['parameters']:,} parameters in {item['tensors']} tensors, "
            f"{item['files']} safetensors files, {', '.join(item['dtypes'])}"
            for item in components
        ),
        "unsafe files": ", ".join(str(item) for item in result["unsafe_files"]) or "none",
    }


def _plan(result: Mapping[str, Any]) -> Facts:
    steps = result["steps"]
    approvals = sum(bool(step["needs_approval"]) for step in steps)
    return {"plan": str(result["plan_path"]), "steps": f"{len(steps)}, {approvals} of them need a person's approval"}


def _mapping(result: Mapping[str, Any]) -> Facts:
    found = result["coverage"]
    counts = result["counts"]
    kinds = ("missing", "unexpected", "shape_mismatches", "collisions", "suspects")
    return {
        "proven by value": (
            f"{found['tensors']} of {found['tensors_total']} tensors, "
            f"{found['parameters']:,} of {found['parameters_total']:,} parameters"
        ),
        "differences": ", ".join(f"{kind.replace('_', ' ')} {counts[kind]}" for kind in kinds),
    }


def _parity(result: Mapping[str, Any]) -> Facts:
    facts = {f"{case['case']}, seed {case['seed']}": _case(case) for case in result["cases"]}
    test = result["self_test"]
    perturbed = len(test["red"]) + len(test["not_red"])
    facts["self-test"] = f"{len(test['red'])} of {perturbed} perturbations of the port turned it red"
    facts["reference"] = str(result["reference"])
    facts["patches"] = "\n".join(result["environment_patches"])
    culprit = result["culprit"]
    if culprit:
        facts["place"] = place_of(culprit)
        facts["why"] = str(culprit["why"])
    return facts


def _case(case: Mapping[str, Any]) -> str:
    """Errors as multiples of the reference's own rounding error, and the fixed tolerance beside them."""
    return (
        f"logic {_times(case['logic_ratio'])} ({_times(case['worst_module_ratio'])} at {case['worst_module']}), "
        f"bf16 {_times(case['precision_ratio'])}; old 1e-4 rule: {'pass' if case['strict'] else 'fail'}"
    )


def _ssim(result: Mapping[str, Any]) -> Facts:
    return {name: _number(result[name]) for name in ("mean", "min", "threshold") if result.get(name) is not None}


def _gate(result: Mapping[str, Any]) -> Facts:
    states = [str(item["state"]) for item in result["items"]]
    stale = dict.fromkeys(str(item["why"]) for item in result["items"] if item["state"] == "stale")
    return {
        "items": ", ".join(f"{states.count(state)} {state.replace('_', ' ')}" for state in dict.fromkeys(states)),
        "stale": "\n".join(stale),
    }


_FACTS: dict[str, Callable[[Mapping[str, Any]], Facts]] = {
    "create_worktree": _worktree,
    "fetch_weights": _weights,
    "write_plan": _plan,
    "check_mapping": _mapping,
    "run_component_parity": _parity,
    "run_ssim": _ssim,
    "gate_status": _gate,
}


def _times(value: object) -> str:
    return f"{value:,.{1 if value < 100 else 0}f}x" if isinstance(value, (int, float)) else "none"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "none"


def _yes(value: object) -> str:
    return "yes" if value else "no"
