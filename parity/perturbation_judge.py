"""Can the check fail? What was perturbed in the port has to turn it red, and to move what the official side moves."""

from __future__ import annotations

from typing import Any

from .component_results import Results
from .outputs import moved
from .verdict import OUTPUT_FAIL, OUTPUT_PASS, Findings, judge


def self_test(results: Results, findings: Findings) -> dict[str, Any]:
    """Perturbing a weight or an input of the port must turn the verdict red."""
    item = results.items[0]
    truth = results.reference(item)
    trials: list[dict[str, Any]] = []
    named = [(f"weight {name}", f"weight.{number}") for number, name in enumerate(results.port["self_test_weights"])]
    named += [(f"input {name}", f"input.{number}") for number, name in enumerate(results.port["input_names"])]
    for what, tag in named:
        perturbed = results.outputs("port", item, tag)
        value = max(results.logic_ratios(item, perturbed), default=0.0)
        changed = perturbed.keys() != truth.keys() and len(perturbed) != len(truth)
        trials.append(
            {"perturbed": what, "ratio": value, "red": changed or judge(value, OUTPUT_PASS, OUTPUT_FAIL) == "fail"}
        )
    weights = [trial for trial in trials if trial["perturbed"].startswith("weight")]
    passed = any(trial["red"] for trial in trials) and (not weights or all(trial["red"] for trial in weights))
    if not passed:
        pale = [trial["perturbed"] for trial in trials if not trial["red"]]
        findings.say(
            "self-test",
            "inconclusive",
            f"The check cannot fail: perturbing {', '.join(pale) or 'nothing'} did not turn it red.",
        )
    return {"passed": passed, "trials": trials}


def inputs_ignored(results: Results, findings: Findings) -> None:
    """An input that moves the official output must move the port's."""
    item = results.items[0]
    base_port, base_official = results.outputs("port", item, "float32"), results.outputs("official", item, "float32")
    for number, name in enumerate(results.port["input_names"]):
        moved_port = results.outputs("port", item, f"input.{number}")
        moved_official = results.outputs("official", item, f"input.{number}")
        theirs, mine = moved(moved_official, base_official), moved(moved_port, base_port)
        if theirs and not mine:
            findings.say(
                "port-ignores-input", "fail", f"The official output depends on input {name!r}; the port's does not."
            )
        elif not theirs and not mine:
            findings.say(
                "input-unused",
                "pass",
                f"Input {name!r} moves no output of either side (case {item.case!r}): what depends on it was not "
                "compared. Give a case in which it matters, or leave it out of make_inputs.",
            )
