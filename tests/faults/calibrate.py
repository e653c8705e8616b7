"""The calibration of the bands, as a table: what correct code reaches, what mistakes begin with.

    python tests/faults/run.py FASTVIDEO --python PYTHON --out RESULT.json
    python tests/faults/calibrate.py RESULT.json > tests/faults/CALIBRATION.md

For every quantity that the verdict rests on: the largest value over the untouched real pairs and the correct rewrites,
the smallest value over the mistakes that this quantity alone convicts, how many that are, and the bands between.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from run import verdict  # noqa: E402

Row = dict[str, Any]
QUANTITIES = {
    "logic ratio at the outputs": ("logic_ratio", verdict.OUTPUT_PASS, verdict.OUTPUT_FAIL),
    "logic ratio at a boundary": ("boundary_ratio", verdict.BOUNDARY_PASS, verdict.BOUNDARY_FAIL),
    "bias at a boundary": ("bias", verdict.BIAS_PASS, verdict.BIAS_FAIL),
    "precision ratio, bfloat16": ("precision_ratio", verdict.PRECISION_LIMIT, verdict.PRECISION_LIMIT),
}


def value_of(row: Row, key: str) -> float | None:
    """The number, infinite when it is not a number; none when it was not measured."""
    found = row[key][0] if isinstance(row[key], list) else row[key]
    if found is None:
        return None
    return math.inf if math.isnan(float(found)) else float(found)


def largest(rows: Iterable[Row], key: str) -> tuple[float, str]:
    """The largest value and whose it is."""
    return max(((value, row["id"]) for row in rows if (value := value_of(row, key)) is not None), default=(0.0, "-"))


def table(document: dict[str, Any]) -> list[str]:
    """The rows of the Markdown table."""
    clean, rows = document["clean"], [row for row in document["rows"] if row["verdict"] != "error"]
    mistakes, rewrites = [row for row in rows if row["fault"]], [row for row in rows if not row["fault"]]
    lines = [
        "| quantity | untouched pairs, largest | correct rewrites, largest | passes to | fails from "
        "| mistakes beyond | the smallest of them | mistakes between |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (key, passes, fails) in QUANTITIES.items():
        values = sorted((value, row["id"]) for row in mistakes if (value := value_of(row, key)) is not None)
        beyond = [pair for pair in values if pair[0] > fails]
        between = [pair for pair in values if passes < pair[0] <= fails]
        smallest = _cell(*beyond[0]) if beyond else "-"
        lines.append(
            f"| {name} | {_cell(*largest(clean, key))} | {_cell(*largest(rewrites, key))} | {passes:g} | {fails:g} "
            f"| {len(beyond)} of {len(mistakes)} | {smallest} | {', '.join(_cell(*pair) for pair in between) or '-'} |"
        )
    return lines


def _cell(value: float, name: str) -> str:
    return f"{value:.3g} ({name})"


def pairs(document: dict[str, Any]) -> list[str]:
    """The untouched pairs one by one, with the reference that each was judged by."""
    lines = [
        "| pair | verdict | reference | logic | boundary | bias | bfloat16 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(document["clean"], key=lambda row: row["id"]):
        cells = [
            f"{value:.3g}" if (value := value_of(row, key)) is not None else "-" for key, _, _ in QUANTITIES.values()
        ]
        lines.append(f"| {row['id']} | {row['verdict']} | {row['reference'].get('kind', '-')} | {' | '.join(cells)} |")
    return lines


def caught(document: dict[str, Any]) -> list[str]:
    """What convicts each mistake that neither the outputs nor the 1e-4 rule shows."""
    lines = [
        "| mistake | verdict | by | logic | boundary | bias | bfloat16 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(document["rows"], key=lambda row: str(row["id"])):
        if not row["fault"] or row["verdict"] == "error" or row["strict"] is False:
            continue
        cells = [
            f"{value:.3g}" if (value := value_of(row, key)) is not None else "-" for key, _, _ in QUANTITIES.values()
        ]
        codes = ", ".join(dict.fromkeys(row["codes"])) or "ratios"
        lines.append(f"| {row['id']} | {row['verdict']} | {codes} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    document = json.loads(parser.parse_args().result.read_text())
    rows = document["rows"]
    faults = [row for row in rows if row["fault"]]
    missed = [row["id"] for row in faults if row["verdict"] == "pass"]
    accused = [row["id"] for row in rows if not row["fault"] and row["verdict"] != "pass"]
    placed = [row for row in faults if row["place_right"] is not None]
    page = [
        "# Calibration of the bands",
        "",
        f"Made by `tests/faults/calibrate.py` from a run of the fault suite on {document['device']}: real FastVideo",
        f"0.2.1 against diffusers and transformers, {len(faults)} mistakes, {len(rows) - len(faults)} rewrites.",
        f"Missed: {', '.join(missed) or 'none'}. Accused: {', '.join(accused) or 'none'}. Place right: "
        f"{sum(row['place_right'] for row in placed)} of {len(placed)}.",
        "",
        *table(document),
        "",
        "## The untouched pairs",
        "",
        *pairs(document),
        "",
        "## Mistakes that `assert_close` at 1e-4 lets through",
        "",
        *caught(document),
    ]
    sys.stdout.write("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
