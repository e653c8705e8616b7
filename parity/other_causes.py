"""Culprits that no activation shows: another dtype, another attention kernel."""

from __future__ import annotations

from typing import Any

from .blame import Culprit
from .dtypes import JUDGED, fold
from .trace import Trace


def dtype_culprit(value: dict[str, Any], port: Trace) -> Culprit | None:
    """The first module that computes in a narrower dtype than the official one where that was judged, or none.

    Args:
        value: Of the comparison: its ``findings`` and ``dtype_audit``.
        port: A trace of the port, for the order of its modules and their code.
    """
    said = [row["message"] for row in value["findings"] if row["code"] == "dtype-narrower"]
    rows = [row for row in value["dtype_audit"] if row["direction"] == "narrower" and row["what"] in JUDGED]
    rows = [row for row in rows if any(repr(row["module"] or "the model") in message for message in said)]
    for call in port.calls:
        for row in rows:
            if fold(call.module) == row["module"]:
                why = (
                    f"{JUDGED[row['what']].capitalize()} is computed in {row['port_dtype']}; the official code does it "
                    f"in {row['official_dtype']}. The numbers alone do not show it."
                )
                return _culprit("dtype", call.module, why, port, row["official_module"])
    return None


def backend_culprit(value: dict[str, Any], port: Trace) -> Culprit:
    """Where the sides ran different attention kernels, after both on one kernel turned out to agree."""
    seen = value["attention_backends"]
    why = f"{seen['differs']} With both sides on torch's math attention the port passes."
    return _culprit("backend", seen["differs_at"], why, port, None)


def _culprit(kind: str, module: str, why: str, port: Trace, official: str | None) -> Culprit:
    info = port.modules.get(module)
    place = (info.file, info.line, info.end_line) if info else ("", 0, 0)
    return Culprit(module, official, kind, *place, why, "certain")
