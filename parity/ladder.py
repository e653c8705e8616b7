"""The ladder: causes in the order in which they are worth looking at, with the evidence for each.

Weights come before kernels, kernels before schedules, schedules before activations, because everything later is wrong
when an earlier one is: looking deeper first finds consequences. The rungs are those of FastVideo's own debugging order.
"""

from __future__ import annotations

from typing import Any, Literal

State = Literal["agrees", "explains", "differs", "unmeasured", "unreached"]


def ladder(value: dict[str, Any], aligned: str | None = None) -> list[dict[str, str]]:
    """The rungs of a comparison that was taken apart.

    Args:
        value: Of `component_job.component_parity`.
        aligned: The verdict with both sides on torch's math attention, or none if that was not tried.

    Returns:
        Rows with ``rung``, ``state`` and ``evidence``. ``explains`` is the first cause that accounts for the failure;
        what comes after it is ``unreached``. ``differs``: the sides are not alike there, and that is not the cause.
        ``unmeasured``: the component has nothing of the kind.
    """
    failed = value["verdict"] not in ("pass", "inconclusive", "error")
    rungs = [
        ("mapping", *_mapping(value)),
        ("attention-backend", *_attention(value, aligned, failed)),
        ("scheduler", *_scheduler(value)),
        ("activations", *_activations(value, failed)),
    ]
    found: list[dict[str, str]] = []
    explained = False
    for rung, state, evidence in rungs:
        found.append({"rung": rung, "state": "unreached" if explained else state, "evidence": evidence})
        explained = explained or state == "explains"
    return found


def _mapping(value: dict[str, Any]) -> tuple[State, str]:
    wrong = [row["message"] for row in value["findings"] if row["code"].startswith("weights-") and _counts(row)]
    arrived, total = value["weights"]["tensors"]
    if wrong:
        return "explains", " ".join(wrong[:3])
    if value["culprit"] and value["culprit"]["kind"] == "weights":
        return "explains", value["culprit"]["why"]
    if not total:
        return "unmeasured", "The component has no weights."
    if arrived < total:
        return "differs", f"{arrived} of {total} official tensors were found in the port bit for bit."
    return "agrees", f"All {total} official tensors arrived in the port bit for bit."


def _attention(value: dict[str, Any], aligned: str | None, failed: bool) -> tuple[State, str]:
    seen = value["attention_backends"]
    if not seen["differs"]:
        kernels = ", ".join(seen["port"]["kernels"])
        return ("agrees", f"Both sides ran {kernels}.") if kernels else ("unmeasured", "No attention kernel ran.")
    if aligned == "pass" and failed:
        return "explains", f"{seen['differs']} With both sides on torch's math attention the port passes."
    after = f" With both sides on torch's math attention the verdict is {aligned}." if aligned else ""
    return "differs", seen["differs"] + after


def _scheduler(value: dict[str, Any]) -> tuple[State, str]:
    wrong = [row["message"] for row in value["findings"] if row["code"] == "table-differs"]
    if wrong:
        return "explains", " ".join(wrong[:3])
    if value["tables"]:
        return "agrees", f"Equal in every bit: {', '.join(value['tables'][:8])}."
    return "unmeasured", "The component returns no schedule (nothing that no input moves)."


def _activations(value: dict[str, Any], failed: bool) -> tuple[State, str]:
    compared = value["pairing"]
    culprit = value["culprit"]
    coverage = f"{compared['paired']} of {compared['modules']} called modules were compared"
    if failed and culprit:
        confirmed = " Official tensors put there alone make the outputs right." if value["confirmed"] else ""
        return "explains", f"{coverage}. {culprit['why']}{confirmed}"
    others = [row["message"] for row in value["findings"] if _counts(row)]
    if failed:
        return "differs", f"{coverage}; no place was found. {' '.join(others[:2])}".strip()
    return "agrees", f"{coverage}; every one is within the reference's own rounding."


def _counts(row: dict[str, str]) -> bool:
    return row["verdict"] not in ("pass", "inconclusive")
