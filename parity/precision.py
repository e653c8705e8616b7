"""Errors of both sides in the production dtypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .component_results import Results
from .items import Item
from .metrics import Distance, distance
from .verdict import PRECISION_LIMIT, Findings, ratio, severity


def precision(results: Results, dtypes: Sequence[str], item: Item) -> dict[str, dict[str, Any]]:
    """Error of both sides against the reference in each production dtype."""
    found: dict[str, dict[str, Any]] = {}
    truth = results.reference(item)
    for dtype in dtypes:
        if dtype == "float32":
            continue
        mine, theirs = results.outputs("port", item, dtype), results.outputs("official", item, dtype)
        if len(mine) == len(theirs) == len(truth) == 1:
            name = next(iter(truth))
            mine, theirs = {name: next(iter(mine.values()))}, {name: next(iter(theirs.values()))}
        rows: list[tuple[float, Distance, Distance, Distance]] = []
        for name, expected in truth.items():
            a, b = mine.get(name), theirs.get(name)
            if a is None or b is None or a.shape != expected.shape or b.shape != expected.shape or not a.numel():
                continue
            if not b.is_floating_point():
                continue
            port_error, official_error = distance(a, expected), distance(b, expected)
            value = ratio(port_error.relative_l2, official_error.relative_l2)
            rows.append((value, port_error, official_error, distance(a, b)))
        if rows:
            value, port_error, official_error, direct = max(rows, key=lambda row: severity(row[0]))
            found[dtype] = {
                "ratio": value,
                "port_error": port_error.relative_l2,
                "reference_error": official_error.relative_l2,
                "strict": direct.strict == 1.0,
                "loose": direct.loose == 1.0,
                "outside_strict": 1 - direct.strict,
                "max_abs": direct.max_abs,
                "cosine": direct.cosine,
            }
    return found


def precision_finding(cases: list[dict[str, Any]], dtypes: Sequence[str], findings: Findings) -> None:
    """One finding per production dtype, for the worst input."""
    for dtype in dtypes:
        rows = [(case["precision"][dtype]["ratio"], case) for case in cases if dtype in case.get("precision", {})]
        value, case = max(rows, key=lambda row: severity(row[0]), default=(0.0, {}))
        if value > PRECISION_LIMIT or math.isnan(value):
            findings.say(
                "precision",
                "fail",
                f"In {dtype} the port's error is {value:.3g} times the reference's own (case {case['case']!r}, "
                f"seed {case['seed']}); at most {PRECISION_LIMIT:g} passes.",
            )
