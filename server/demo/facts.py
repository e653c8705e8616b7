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
        "suspects": "\n".join(str(row["message"]) for row in result["suspects"][:3]),
    }


def _parity(result: Mapping[str, Any]) -> Facts:
    if all(case["logic_ratio"] is None for case in result["cases"]):
        return _tokens(result)
    facts = {f"{case['case']}, seed {case['seed']}": _case(case) for case in result["cases"]}
    test = result["self_test"]
    perturbed = len(test["red"]) + len(test["not_red"])
    facts["self-test"] = f"{len(test['red'])} of {perturbed} perturbations of the port turned it red"
    facts["reference"] = str(result["reference"])
    patches = result["environment_patches"]
    facts["patches"] = "\n".join(patches) if any(":" in line for line in patches) else ", ".join(patches)
    culprit = result["culprit"]
    if culprit:
        facts["place"] = place_of(culprit)
        facts["why"] = str(culprit["why"])
    return facts


def _tokens(result: Mapping[str, Any]) -> Facts:
    """A tokenizer is compared exactly: there are no errors to show, only prompts."""
    differ = [str(case["case"]).rpartition("/")[2] for case in result["cases"] if case["verdict"] != "pass"]
    return {
        "prompts": f"{len(result['cases']) - len(differ)} of {len(result['cases'])} are answered alike",
        "differ": ", ".join(differ),
        "why": "\n".join(str(row["message"]) for row in result["findings"] if row["verdict"] != "pass"),
    }


def _case(case: Mapping[str, Any]) -> str:
    """Errors as multiples of the reference's own rounding error, and the fixed tolerance beside them."""
    return (
        f"logic {_times(case['logic_ratio'])} ({_times(case['worst_module_ratio'])} at {case['worst_module']}), "
        f"bf16 {_times(case['precision_ratio'])}; old 1e-4 rule: {'pass' if case['strict'] else 'fail'}"
    )


def _scaffold(result: Mapping[str, Any]) -> Facts:
    return {"written": ", ".join(result["written"]), "to fill in": f"{len(result['fill_in'])} marked places"}


def _scheduler(result: Mapping[str, Any]) -> Facts:
    tables, steps = result["tables"], result["steps"]
    equal = sum(row["first_index"] is None for row in tables)
    ratios = [row["worst_ratio"] for row in steps if row["worst_ratio"] is not None]
    return {
        "tables": f"{equal} of {len(tables)} sigma and timestep tables equal, to the last bit",
        "rollouts": f"{sum(row['verdict'] == 'pass' for row in steps)} of {len(steps)} pass, the worst at "
        f"{_times(max(ratios, default=None))} the official scheduler's own rounding",
        "cause": str(result["cause"]),
    }


def _pipeline(result: Mapping[str, Any]) -> Facts:
    facts = {
        f"step {row['step']}": f"error {_number(row['error'])}, the official {_number(row['reference_error'])}, "
        f"logic {_times(row['logic_ratio'])}, bf16 {_times(row['precision_ratio'])}"
        for row in result["steps"]
    }
    for row in result["ends"]:
        facts[str(row["name"])] = f"error {_number(row['error'])}, logic {_times(row['logic_ratio'])}"
    facts["stages alone"] = ", ".join(f"{row['name']} {row['verdict']}" for row in result["stages"])
    test = result["self_test"]
    facts["self-test"] = f"{len(test['red'])} of {len(test['red']) + len(test['not_red'])} perturbations turned it red"
    facts["guilty"] = ", ".join(result["guilty"]) or "none"
    facts["notes"] = "\n".join(result["notes"])
    return facts


def _example(result: Mapping[str, Any]) -> Facts:
    video, details = result["video"], result["details"]
    return {
        "video": f"{video['path']}: {video['frames']} frames of {video['width']}x{video['height']}, "
        f"{_number(video['fps'])} fps, {video['codec']}"
        if video
        else "none",
        "script": f"exit code {details['exit_code']} after {details['seconds']} s",
        "findings": "\n".join(f"{row['effect']}: {row['message']}" for row in result["findings"]),
        "contact sheet": str((result["contact_sheet"] or {}).get("path", "")),
        "why": str(details["why"]),
        "log": str(details["log"]),
    }


def _approval(result: Mapping[str, Any]) -> Facts:
    return {"why": str(result["why"]), "how": "\n".join(result["how"])}


def _step(result: Mapping[str, Any]) -> Facts:
    return {"step": f"{result['step']['id']}: {result['step']['state']}", "blocked by": "\n".join(result["blocked_by"])}


def _integration(result: Mapping[str, Any]) -> Facts:
    def rows(kind: str) -> str:
        return "\n".join(f"{row['id']} {row['where']}: {row['what']}" for row in result[kind][:6])

    found = dict.fromkeys(str(row["id"]) for row in result["found"])
    return {"found": ", ".join(found), "missing": rows("missing"), "wrong": rows("wrong")}


def _report(result: Mapping[str, Any]) -> Facts:
    return {
        "progress": "\n".join(result["progress"]),
        "parity": "\n".join(result["parity"]),
        "residual risks": "\n".join(result["residual_risks"]),
        "html": str(result["html"]),
        "markdown": str(result["markdown"]),
    }


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
    "scaffold_component": _scaffold,
    "check_scheduler": _scheduler,
    "run_pipeline_parity": _pipeline,
    "run_example": _example,
    "request_approval": _approval,
    "update_step": _step,
    "check_integration": _integration,
    "final_report": _report,
    "run_ssim": _ssim,
    "gate_status": _gate,
}


def _times(value: object) -> str:
    return f"{value:,.{1 if value < 100 else 0}f}x" if isinstance(value, (int, float)) else "none"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "none"


def _yes(value: object) -> str:
    return "yes" if value else "no"
