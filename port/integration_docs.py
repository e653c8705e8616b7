"""The documentation of a port: its row in the support matrix, its page, its status file."""

from __future__ import annotations

import re
from typing import Literal

from .records import PortRecord
from .source_tree import SourceTree

Found = tuple[str, Literal["found", "missing", "wrong", "note"], str, str]
MATRIX = "docs/inference/support_matrix.md"
STATUS = "PORT_STATUS.md"
HEADINGS = (
    "Summary",
    "Current Phase",
    "Component Matrix",
    "Conversion State",
    "Parity Commands",
    "Open Questions",
    "Issues And Blockers",
    "Escape Hatches",
    "Decisions",
    "Handoff Notes",
)
_UNITS = r"\d[\d.,]*\s*"
_PARTS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "docs-constraints",
        re.compile(
            r"constraint|limitation|requirement|prerequisite|supported (size|resolution)|not supported|must be", re.I
        ),
        "Say what it is limited to: sizes, frame counts, what does not work.",
    ),
    (
        "docs-memory",
        re.compile(
            rf"(memory|vram|gpu)[^\n]*{_UNITS}(gb|gib|mib|mb)\b|{_UNITS}(gb|gib)\b[^\n]*(memory|vram|gpu)", re.I
        ),
        "Give the memory that it needs, with a number and what it was measured on.",
    ),
    (
        "docs-speed",
        re.compile(
            rf"{_UNITS}(s|sec|seconds?|min|minutes?|ms|it/s|fps|frames/s|s/it|s/step)\b[^\n]*"
            rf"(step|video|frame|h100|h200|a100|l40s|cpu|gpu|clip)"
            rf"|(speed|latency|takes|time|throughput)[^\n]*{_UNITS}(s|sec|seconds?|min|minutes?|ms|it/s|fps)\b",
            re.I,
        ),
        "Give a measured time with what it was measured on.",
    ),
    (
        "docs-backends",
        re.compile(
            r"TORCH_SDPA|FLASH_ATTN|SAGE_ATTN|VIDEO_SPARSE_ATTN|FASTVIDEO_ATTENTION_BACKEND|attention backend", re.I
        ),
        "Say which attention backends it was tried with.",
    ),
)


def docs_rows(port: PortRecord, tree: SourceTree, ids: list[str], families: list[str], example: str) -> list[Found]:
    """Row, page with its parts, status file: state, place, and what to do."""
    return [_matrix(tree, ids), *_page(tree, ids, families, example), *_status(port, tree, families)]


def _matrix(tree: SourceTree, ids: list[str]) -> Found:
    if not tree.exists(MATRIX):
        return (
            "docs-matrix",
            "missing",
            MATRIX,
            "The support matrix is not in this tree: write it, with a row for the model.",
        )
    for number, line in enumerate(tree.text(MATRIX).splitlines(), start=1):
        if line.lstrip().startswith("|") and any(_names(line, id_) for id_ in ids):
            return "docs-matrix", "found", f"{MATRIX}:{number}", "a row with a registered id"
    shown = ids[0] if ids else "the registered id"
    return "docs-matrix", "missing", MATRIX, f"Add a row of its table with {shown}."


def _names(text: str, id_: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(id_)}(?![\w/-])", text) is not None


def _page(tree: SourceTree, ids: list[str], families: list[str], example: str) -> list[Found]:
    """The page that says most of what is asked: below docs/, or the README of the pipeline's folder."""
    paths = [path for path in tree.files("docs", ".md") if path != MATRIX]
    paths += [path for name in families for path in tree.files(f"fastvideo/pipelines/basic/{name}", "README.md")]
    best, best_rows = "", list[Found]()
    for path in paths:
        text = tree.text(path)
        if not any(_names(text, id_) for id_ in ids):
            tree.forget(path)
            continue
        rows = _parts(path, text, ids, example)
        score = sum(row[1] == "found" for row in rows)
        if not best or score > sum(row[1] == "found" for row in best_rows):
            if best:
                tree.forget(best)
            best, best_rows = path, rows
        else:
            tree.forget(path)
    if best:
        return [("docs-page", "found", best, "names a registered id"), *best_rows]
    what = "Write a page of the model there that names its id, with usage, constraints, memory, speed and backends."
    return [("docs-page", "missing", "docs/inference/", what)]


def _parts(path: str, text: str, ids: list[str], example: str) -> list[Found]:
    rows = [_usage(path, text, ids, example)]
    plain = re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)
    for id_, pattern, advice in _PARTS:
        found = pattern.search(plain)
        if found:
            rows.append((id_, "found", f"{path}:{plain.count(chr(10), 0, found.start()) + 1}", found[0][:100]))
        else:
            rows.append((id_, "missing", path, advice))
    return rows


def _usage(path: str, text: str, ids: list[str], example: str) -> Found:
    """A code block that runs the model."""
    for block in re.finditer(r"^(```+|~~~+)[^\n]*\n(.*?)^\1", text, flags=re.DOTALL | re.MULTILINE):
        body = block[2]
        runs = "from_pretrained(" in body or "fastvideo generate" in body or "fastvideo serve" in body
        if (runs and any(_names(body, id_) for id_ in ids)) or (example and example in body):
            return (
                "docs-usage",
                "found",
                f"{path}:{text.count(chr(10), 0, block.start()) + 1}",
                "a code block that runs it",
            )
    return (
        "docs-usage",
        "missing",
        path,
        "Show in a code block how to run it: from_pretrained with its id, or the example.",
    )


def _status(port: PortRecord, tree: SourceTree, families: list[str]) -> list[Found]:
    folders = dict.fromkeys([port.slug, port.slug.replace("-", "_"), *families])
    paths = [f"tests/local_tests/{name}/{STATUS}" for name in folders]
    path = next((path for path in paths if tree.exists(path)), "")
    if not path:
        return [("port-status", "missing", paths[0], f"Write it with the headings {', '.join(HEADINGS)}.")]
    sections = _sections(tree.text(path))
    rows: list[Found] = []
    lacking = [heading for heading in HEADINGS if heading.lower() not in sections]
    empty = [heading for heading in HEADINGS if sections.get(heading.lower(), "x") == ""]
    if lacking:
        rows.append(("port-status", "missing", path, f"Add the headings {', '.join(lacking)}."))
    if empty:
        rows.append(("port-status", "missing", path, f"Write something below {', '.join(empty)} (or: none)."))
    rows += _quoted(path, tree)
    return rows or [("port-status", "found", path, f"{len(HEADINGS)} headings, each with text")]


def _sections(text: str) -> dict[str, str]:
    """Heading in lower case -> what stands below it, without comments and placeholders; fenced text is no heading."""
    sections: dict[str, str] = {}
    current, fence = "", ""
    for line in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line) if not fence else None
        if heading:
            current = heading[1].strip().lower()
            sections.setdefault(current, "")
        elif current and not re.fullmatch(r"\s*(TODO|TBD|\.\.\.|…)?[.:]?\s*", line):
            sections[current] += line
    return sections


def _quoted(path: str, tree: SourceTree) -> list[Found]:
    """Paths that the status file quotes and that are not there."""
    quoted = re.findall(r"`((?:fastvideo|tests|examples|docs|scripts)/[\w./+-]+\.\w+)(?::\d+)?`", tree.text(path))
    gone = [item for item in dict.fromkeys(quoted) if not tree.exists(item)]
    if not gone:
        return []
    return [("port-status", "wrong", path, f"It quotes files that are not there: {', '.join(gone[:4])}.")]
