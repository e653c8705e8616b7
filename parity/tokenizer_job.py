"""Job: tokenizers are compared exactly, ids, masks and all else they answer, on prompts that are hard to get right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .audit import stands_on
from .children import Child, wait_for
from .facts import sha256
from .job import Job
from .scheduler_causes import Cause
from .tokenizer_causes import form_cause, text_cause
from .verdict import Finding, Verdict, worst

_MOST_BYTES = 64 << 20


def tokenizer_parity(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare two tokenizers with everything around them: cleaning, template, padding, truncation.

    Args:
        spec: As for component parity, with ``component`` (folder of the tokenizer's files below the weights).
        job: Where progress goes.

    Returns:
        What component parity returns, as far as it applies: one row of ``cases`` for each prompt.
    """
    job.progress(1, 3, "tokenising on both sides")
    children = {}
    for side in ("official", "port"):
        python = (spec.get("official_python") if side == "official" else None) or spec["python"]
        told = {**spec, "side": side, "out": str(job.run_dir / f"{side}.json")}
        folder = job.run_dir / f"{side}.process"
        children[side] = Child(python, "tokenizer_side", folder, told, Path(spec["worktree"]))
    wait_for(list(children.values()), lambda: None)
    for child in children.values():
        if child.spoke():
            child.value()
    sides = {side: child.value() for side, child in children.items()}
    job.progress(2, 3, "comparing")
    cases = {side: json.loads((job.run_dir / f"{side}.json").read_text()) for side in sides}
    value = _judge(cases["port"], cases["official"], sides["port"], sides["official"])
    value["depends_on"] = _depends_on(spec, sides)
    job.progress(3, 3, value["verdict"])
    return value


def _judge(
    port: dict[str, Any], official: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for case in official:
        a, b = port[case]["answers"], official[case]["answers"]
        failing = [prompt for prompt in b if first_difference(a[prompt], b[prompt]) is not None]
        for prompt in b:
            verdict: Verdict = "fail" if prompt in failing else "pass"
            rows.append({"case": f"{case}/{prompt}", "seed": 0, "verdict": verdict, "strict": verdict == "pass"})
        if failing:
            cause = _cause(failing, port[case], official[case], (mine["pad"], theirs["pad"]))
            findings.append(_finding(case, failing, a, b, mine["names"], theirs["names"], cause))
    findings += _honesty(port, official, mine)
    trials = _self_test(port, official)
    if not all(trial["red"] for trial in trials):
        pale = [trial["perturbed"] for trial in trials if not trial["red"]]
        findings.append(
            Finding("self-test", "inconclusive", f"The check cannot fail: {', '.join(pale)} showed nothing.")
        )
    rows.sort(key=lambda row: row["verdict"] == "pass")
    equal = sum(row["verdict"] == "pass" for row in rows)
    return {
        "verdict": worst([*(row["verdict"] for row in rows), *(item.verdict for item in findings)]),
        "findings": [item.to_json() for item in findings],
        "cases": rows,
        "culprit": None,
        "culprits": [],
        "confirmed": False,
        "trials": [],
        "dtype_audit": [],
        "attention_backends": {"aligned": False, "differs": ""},
        "self_test": {"passed": all(trial["red"] for trial in trials), "trials": trials},
        "pairing": {"paired": equal, "modules": len(rows), "what": "prompts answered alike"},
        "reference": {
            "kind": "exact",
            "why": f"{theirs['class']}: every id and every mask has to be equal",
            "digest": "",
            "reused": False,
        },
        "environment_patches": mine["patches"],
        "flags": {"official": {}, "port": {}},  # no tensor is computed
        "curve": {"rows": []},
    }


def first_difference(port: dict[str, Any], official: dict[str, Any]) -> tuple[str, int, Any, Any] | None:
    """Field, index in its flattened rows, and both values, where two answers first differ.

    An error is equal to an error of the same type. A field that only the port answers is no difference.
    """
    if "error" in port or "error" in official:
        a, b = port.get("error"), official.get("error")
        return None if a == b else ("error", 0, a or "an answer", b or "an answer")
    for name, expected in official.items():
        if name not in port:
            return name, 0, "nothing", "a field"
        a, b = _flat(port[name]), _flat(expected)
        for index in range(max(len(a), len(b))):
            x = a[index] if index < len(a) else "nothing"
            y = b[index] if index < len(b) else "nothing"
            if x != y or isinstance(x, str) != isinstance(y, str):
                return name, index, x, y
        if _shape(port[name]) != _shape(expected):
            return name, 0, f"shape {_shape(port[name])}", f"shape {_shape(expected)}"
    return None


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list) else [value]


def _shape(value: Any) -> list[int]:
    """Lengths along the first entries; rows of different lengths already differ in their entries."""
    found = []
    while isinstance(value, list):
        found.append(len(value))
        value = value[0] if value else None
    return found


def _cause(
    failing: list[str], port: dict[str, Any], official: dict[str, Any], pads: tuple[int | None, int | None]
) -> Cause | None:
    """The cause that explains most of the prompts; what is done to the text is found by doing it."""
    found: Counter[str] = Counter()
    first: dict[str, Cause] = {}
    for prompt in failing:
        cause = form_cause(port["answers"][prompt], official["answers"][prompt], pads)
        if cause is not None:
            found[cause.code] += 1
            first.setdefault(cause.code, cause)
    if "max-length" in found and "padded-length" in found:
        # One number does both: short prompts are padded to it, long ones cut at it.
        found["max-length"] += found.pop("padded-length")
    best = found.most_common(1)[0] if found else None
    text = text_cause([prompt for prompt in failing if prompt != "batch"], port, official)
    if text is not None and (best is None or text[1] >= best[1]):
        return text[0]
    return first[best[0]] if best else None


def _finding(
    case: str,
    failing: list[str],
    port: dict[str, Any],
    official: dict[str, Any],
    mine: dict[str, str],
    theirs: dict[str, str],
    cause: Cause | None,
) -> Finding:
    prompt = failing[0]
    difference = first_difference(port[prompt], official[prompt])
    assert difference is not None
    name, index, x, y = difference
    said = f" ({port[prompt]['said']})" if "said" in port[prompt] else ""
    count = f"{len(failing)} of {len(official)} prompts differ (case {case!r}), first {prompt!r}: "
    place = f"{name}[{index}] is {_token(x, mine, name)} in place of {_token(y, theirs, name)}{said}"
    why = f"; cause: {cause.words}" if cause else ""
    return Finding(f"tokens-{cause.code}" if cause else "tokens-differ", "fail", f"{count}{place}{why}.")


def _token(value: Any, names: dict[str, str], field: str) -> str:
    token = names.get(str(value)) if "mask" not in field and isinstance(value, int) else None
    return f"{value} ({token!r})" if token is not None else str(value)


def _honesty(port: dict[str, Any], official: dict[str, Any], mine: dict[str, Any]) -> list[Finding]:
    """Ways to agree without having been tested."""
    found = []
    for case in official:
        answers = [row for row in official[case]["answers"].values() if "error" not in row]
        if len({json.dumps(row) for row in answers}) < 4:
            found.append(
                Finding(
                    "constant", "inconclusive", f"Case {case!r}: the official side answers nearly all prompts alike."
                )
            )
        masks = [_flat(value) for row in answers for name, value in row.items() if "mask" in name]
        if masks and all(all(mask) for mask in masks):
            found.append(
                Finding("no-padding", "pass", f"Case {case!r}: no prompt is padded, so padding was not compared.")
            )
        if port[case]["longer"] == port[case]["answers"]["plain"]:
            found.append(Finding("port-ignores-input", "fail", "Another prompt gives the port the same ids."))
    if mine["official_files"]:
        found.append(
            Finding(
                "official-code-in-port",
                "fail",
                f"The port's side imported the official repository: {', '.join(mine['official_files'][:3])}.",
            )
        )
    return found


def _self_test(port: dict[str, Any], official: dict[str, Any]) -> list[dict[str, Any]]:
    """One id changed, one mask entry changed, one prompt changed: each must show."""
    case = next(iter(official))
    answer = official[case]["answers"]["plain"]
    trials = []
    for name in answer:
        leaf = _flat(answer[name])
        if leaf and isinstance(leaf[-1], int):
            other = {**answer, name: _changed(answer[name])}
            red = first_difference(other, answer) is not None
            trials.append({"perturbed": f"one entry of {name}", "ratio": 0.0, "red": red})
    red = first_difference(official[case]["longer"], answer) is not None
    return [*trials, {"perturbed": "the prompt", "ratio": 0.0, "red": red}]


def _changed(value: Any) -> Any:
    if isinstance(value, list):
        return [*value[:-1], _changed(value[-1])] if value else value
    return value + 1 if isinstance(value, int) else value


def _depends_on(spec: dict[str, Any], sides: dict[str, dict[str, Any]]) -> dict[str, str]:
    found = stands_on(sides["official"], sides["port"], spec)
    if spec.get("official_weights"):
        folder = Path(spec["official_weights"]) / str(spec["component"])
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.is_file() and path.stat().st_size <= _MOST_BYTES:
                found[f"path:{path}"] = sha256(path)
    return found
