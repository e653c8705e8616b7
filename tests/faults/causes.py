"""How often the causes that a failed comparison names are right, over the fault suite.

    python tests/faults/causes.py FASTVIDEO_FOLDER [--from FILE ...] [-v]

Runs in the project's interpreter. ``evidence.json`` holds what the engine said of every edit, one line each; ``--from``
renews it from files that ``run.py --trials --out`` wrote (lines with empty messages are older and hold less). The right
causes of a mistake are the ``traps`` that the catalogue of faults gives it, set down before any matching was written;
the signs in ``prompts/traps.json`` were written with this suite at hand, so the figures flatter them. A mistake without
a trap is one that no trap describes: whatever is named for it is counted as noise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from fastvideo_port.port.causes import LikelyCause
from fastvideo_port.port.records import ComponentRecord
from fastvideo_port.tools._causes import causes_of_parity

HERE = Path(__file__).resolve().parent
STORED = HERE / "evidence.json"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_causes_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


catalogue = _load(HERE / "catalogue.py")
edits = _load(HERE / "apply.py")
PAIRS = _load(HERE.parent / "pairs" / "table.py").PAIRS
KINDS = {"text_encoder": "encoder", "image_encoder": "encoder"}


def component_of(pair: Any) -> ComponentRecord:
    """The pair as a planned component."""
    kind = KINDS.get(pair.kind, pair.kind)
    return ComponentRecord(name=pair.folder, kind=kind, official=pair.official, port=pair.port, adapter="adapter.py")


def named(edit: Any, value: dict[str, Any], fastvideo: Path) -> list[LikelyCause]:
    """The causes that the tool would name for what the engine said of ``edit``."""
    with tempfile.TemporaryDirectory() as folder:
        worktree = Path(folder)
        culprit = value["culprit"]
        if culprit and (fastvideo / culprit["file"]).is_file() and not Path(culprit["file"]).is_absolute():
            text = (fastvideo / culprit["file"]).read_text()
            copy = worktree / culprit["file"]
            copy.parent.mkdir(parents=True)
            copy.write_text(edits.edited(text, edit) if culprit["file"] == edit.file else text)
        return causes_of_parity(value, component_of(PAIRS[edit.pair]), worktree)


def table(evidence: dict[str, Any], fastvideo: Path) -> tuple[list[str], Counter[str]]:
    """A line for each mistake, and the counts behind the figures."""
    lines, counts = [], Counter[str]()
    for edit in catalogue.FAULTS:
        value = evidence[edit.id]
        if value["verdict"] in ("error", "pass"):
            # The tool gives the error of the loader or the forward, and no result that could name anything.
            counts["no result"] += 1
            continue
        found = [cause.id for cause in named(edit, value, fastvideo)]
        kind = "labelled" if edit.traps else "unlabelled"
        counts[kind] += 1
        place = next((number for number, trap in enumerate(found, start=1) if trap in edit.traps), 0)
        counts[f"{kind}: named"] += bool(found)
        counts["right at all"] += bool(place)
        counts["right first"] += place == 1
        counts["names"] += len(found)
        mark = str(place) if place else "." if not edit.traps and not found else "x" if found else "-"
        lines.append(f"{mark} {edit.id:46} {', '.join(edit.traps) or '(no trap)':60} <- {', '.join(found)}")
    for edit in catalogue.REWRITES:
        value = evidence.get(edit.id)
        if value is None:
            counts["rewrites without evidence"] += 1
            continue
        counts["rewrites"] += 1
        counts["rewrites: named"] += bool(named(edit, value, fastvideo))
    return lines, counts


def summary(counts: Counter[str]) -> str:
    """The figures in words."""
    return (
        f"{counts['labelled']} mistakes that a trap describes: one of the (at most three) named is right for "
        f"{counts['right at all']}, the first for {counts['right first']}; nothing is named for "
        f"{counts['labelled'] - counts['labelled: named']}\n"
        f"{counts['unlabelled']} mistakes that no trap describes: something is named for "
        f"{counts['unlabelled: named']}\n"
        f"{counts['rewrites']} correct rewrites: something is named for {counts['rewrites: named']} "
        f"({counts['rewrites without evidence']} more were not run)\n"
        f"{counts['no result']} mistakes do not load or run, so that there is no result; "
        f"{counts['names']} names in all"
    )


def renewed(files: list[Path]) -> dict[str, Any]:
    """Evidence of every edit from files of ``run.py``, the later ones over the earlier ones."""
    found: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {}
    for file in files:
        for row in json.loads(file.read_text())["rows"]:
            found[row["id"]] = row["evidence"]
    return {key: found[key] for key in sorted(found)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fastvideo", type=Path)
    parser.add_argument("--from", nargs="*", default=[], type=Path, dest="files")
    parser.add_argument("-v", action="store_true", dest="every")
    options = parser.parse_args()
    if options.files:
        rows = renewed(options.files)
        STORED.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()) + "\n}\n")
    lines, counts = table(json.loads(STORED.read_text()), options.fastvideo)
    print("\n".join(lines if options.every else [line for line in lines if re.match("[-x]", line)]))  # noqa: T201
    print(summary(counts))  # noqa: T201


if __name__ == "__main__":
    main()
