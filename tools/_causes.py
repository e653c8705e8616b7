"""From a result to the features by which the catalogue of mistakes is matched (see ``port/causes.py``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..port.causes import Evidence, LikelyCause, likely_causes
from ..port.errors import PortError
from ..port.paths import open_regular
from ..port.records import ComponentRecord

_MOST_LINES = 80
"""Blamed lines that are searched; a longer range says too little about any of them."""
_MOST_BYTES = 1024 * 1024
_LISTS = ("missing", "unexpected")
_TABLE = re.compile(r"^'([^']*)' .*?(\d+) of (\d+) entries differ, first at index (\d+): (\S+) in place of (\S+?)\. ")
_ROUNDING = 1e-5


def causes_of_mapping(value: dict[str, Any], planned: ComponentRecord | None) -> list[LikelyCause]:
    """Likely causes of a mapping that is not proven; none when it is."""
    if value["verdict"] == "pass":
        return []
    rows = [*value["collisions"], *value["suspects"]]
    codes = {row["code"] for row in rows if row["fatal"] or row["code"] == "rule-never-matches"}
    codes |= {name for name in _LISTS if value[name]} | ({"shape-mismatch"} if value["shape_mismatches"] else set())
    words = {"tool": {"check_mapping"}, "code": codes, "also": codes, **_kind(planned)}
    texts = {
        "message": [row["message"] for row in rows],
        "names": [name for key in _LISTS for name in value[key][:200]],
        "class": _classes(planned),
    }
    return likely_causes(_evidence(words, texts))


def causes_of_parity(value: dict[str, Any], planned: ComponentRecord | None, worktree: Path) -> list[LikelyCause]:
    """Likely causes of a component that does not agree; none when it does."""
    verdict = value["verdict"]
    if verdict == "pass":
        return []
    findings = [row for row in value["findings"] if row["verdict"] != "pass" or row["code"].startswith("attention-")]
    codes = {row["code"] for row in findings}
    culprit = value["culprit"]
    words = {
        "tool": {"run_component_parity"},
        "code": codes,
        "also": codes,
        "culprit": {culprit["kind"] if culprit else "none"},
        "shows": set(_shows(value, codes)),
        "dtype": _narrower(value, codes),
        "table": set(_tables([row["message"] for row in findings if row["code"] == "table-differs"])),
        **_kind(planned),
    }
    place, source = _place(culprit, worktree) if culprit else ("", "")
    texts = {
        "place": [place],
        "source": [source],
        "trial": [row["words"] for trial in value["trials"] for row in trial["found"]],
        "message": [row["message"] for row in findings],
        "class": _classes(planned),
    }
    return likely_causes(_evidence(words, texts))


def causes_of_ssim(value: dict[str, Any]) -> list[LikelyCause]:
    """Likely causes of videos that do not agree; none when they do."""
    if value["verdict"] == "pass":
        return []
    rows = [row for row in value["findings"] if row["effect"] != "note" or row["code"] == "time-shift"]
    mean = value["mean"]
    # Unrelated natural videos score 0.1 to 0.4 in (MS-)SSIM; one scene with other noise in between.
    shows = set() if mean is None else {"unrelated"} if mean < 0.5 else {"similar"}
    codes = {row["code"] for row in rows}
    words = {"tool": {"run_ssim"}, "code": codes, "also": codes, "shows": shows}
    return likely_causes(_evidence(words, {"message": [row["message"] for row in rows]}))


def _evidence(words: dict[str, set[str]], texts: dict[str, list[str]]) -> Evidence:
    return Evidence(
        {name: frozenset(found) for name, found in words.items()}, {name: tuple(found) for name, found in texts.items()}
    )


def _kind(planned: ComponentRecord | None) -> dict[str, set[str]]:
    return {"component": {planned.kind} if planned else set()}


def _classes(planned: ComponentRecord | None) -> list[str]:
    return [planned.official, planned.port, planned.name] if planned else []


def _shows(value: dict[str, Any], codes: set[str]) -> Iterable[str]:
    """Where the difference can be seen: in which dtypes, in how many cases."""
    cases = value["cases"]
    logic = [case["verdict"] for case in cases]
    wrong = {"fail", "investigate"}
    if any(verdict in wrong for verdict in logic) or "table-differs" in codes:
        yield "float32"
        yield "large" if "precision" in codes else "small"
    elif codes & {"precision", "dtype-narrower"}:
        yield "only-bfloat16"
    by_case: dict[str, bool] = {}
    for case in cases:
        by_case[case["case"]] = by_case.get(case["case"], False) or case["verdict"] in wrong
    if len(set(by_case.values())) == 2:
        yield "some-cases"
        if sum(by_case.values()) == 1:
            yield "one-case"


def _narrower(value: dict[str, Any], codes: set[str]) -> set[str]:
    """Roles that the port computes in a narrower dtype, as far as the audit judges them."""
    if "dtype-narrower" not in codes:
        return set()
    return {row["what"] for row in value["dtype_audit"] if row.get("direction", "narrower") == "narrower"}


def _tables(messages: list[str]) -> Iterable[str]:
    """How schedules differ, from the sentences that tell where they begin to."""
    found = [match.groups() for message in messages if (match := _TABLE.search(message))]
    if not found:
        return
    rows = [(name, int(n), int(total), int(index), float(a), float(b)) for name, n, total, index, a, b in found]
    if all(abs(a - b) <= _ROUNDING * abs(b) for *_, a, b in rows):
        yield "rounding"
    elif all(index == total - 1 for _, _, total, index, _, _ in rows):
        yield "last"
    else:
        yield "from-start" if any(index == 0 for _, _, _, index, _, _ in rows) else "inner"
        if all(2 * n >= total for _, n, total, _, _, _ in rows) and len({row[0] for row in rows}) > 1:
            yield "whole"
    if all("timestep" in name for name, *_ in rows):
        yield "timesteps-only"


def _place(culprit: dict[str, Any], worktree: Path) -> tuple[str, str]:
    """``module Class.function`` and the blamed lines, where they stand in a file of the worktree."""
    module = culprit["module"] or "the component itself"
    path = Path(culprit["file"])
    lines = _lines(path if path.is_absolute() else worktree / path, worktree)
    first, last = culprit["line"], culprit["end_line"]
    if not 1 <= first <= len(lines):
        return module, ""
    source = "\n".join(lines[first - 1 : min(last, first + _MOST_LINES)])
    return f"{module} {_enclosing(lines, first)}".strip(), source


def _lines(path: Path, worktree: Path) -> list[str]:
    """The file's lines; none for a file elsewhere, which is not the port's, and for one that cannot be read."""
    try:
        if not path.resolve().is_relative_to(worktree.resolve()):
            return []
        with open_regular(path) as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").splitlines()
    except (OSError, PortError, RuntimeError):
        return []


def _enclosing(lines: list[str], line: int) -> str:
    """Name of the class and function around a line, by indentation: the file need not even parse."""
    names: list[str] = []
    indent = 10_000
    for text in reversed(lines[:line]):
        found = re.match(r"( *)(?:async )?(?:def|class) +(\w+)", text)
        if found and len(found.group(1)) < indent:
            indent = len(found.group(1))
            names.insert(0, found.group(2))
        if indent == 0:
            break
    return ".".join(names)
