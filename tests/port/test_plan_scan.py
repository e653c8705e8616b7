"""The quick reading of a plan finds what the Markdown parser finds, and its work grows with the length of the text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.plan import write_plan_file
from fastvideo_port.port.plan_scan import parsed, scan
from hypothesis import example, given
from hypothesis import strategies as st

from ..fuzzing import examples
from .test_any_input import PLAN, WRITTEN, reads

LINES = (
    "", " ", "text", "a - b", "    code", "\tcode", "---", "===", "***", "* * *", "- - -", "-", "- ", "1. one",
    "2) two", "- item", "* item", "+ item", "  - inner", "   - inner", "    - inner", "  more", " more", "-  wide",
    "-\ttab", "- [ ] `a`", "* [x] `b`: words", "  - [ ] `c`", "   * [ ] `d`", "- [ ]`e`", "- [ ] ` f `",
    "- [ ] ``g``", "- [ ] `h", "  i`", "- [ ] `", "j", "`", "  `", "- [ ]  `k`", "- [ ] x `l`", "- [ ] `m``",
    "- [-] `n`", "> quote", "> - [ ] `o`", "> ```", "```", "````", "~~~", "  ```", "- ```", "<!--", "-->", "<pre>",
    "</pre>", "<div>", "</div>", "<?", "?>", "- <!--", "  -->", "# Title", "## 1. Scope", "## 2.", "##  3. Wide",
    "## 4. Closed ##", "### 5. Deeper", "##\t6. Tab", " ## 7. Shifted", "- ## 1. Inside", "> ## 2. Quoted",
    "3. Setext", "\r", "- a\r- [ ] `p`",
)  # fmt: skip


@examples(400)
@given(
    st.lists(st.sampled_from(LINES), max_size=9) | st.lists(st.text("-*+[]x` #1.\n>~<!\r\ta", max_size=9), max_size=6)
)
@example(["- - -", "  - [ ] `a`"])
@example(["- [ ] `", "  a", "  `"])
@example(["- a", "b", "  - [ ] `c`"])
@example(["```", "- [ ] `a`", "## 1. x", "```", "- [ ] `b`"])
def test_the_quick_reading_finds_what_the_parser_finds(lines: list[str]) -> None:
    whole = parsed("\n".join(line.replace("\r", " ") for line in "\n".join(lines).split("\n")))
    assert scan("\n".join(lines).split("\n")) == whole


def test_no_text_is_remembered_after_the_plan_is_written(tmp_path: Path) -> None:
    write_plan_file(tmp_path, tmp_path, "port-1", PLAN, {})
    (tmp_path / "PLAN.md").write_text(WRITTEN + "> a\n")
    write_plan_file(tmp_path, tmp_path, "port-1", PLAN, {})
    assert parsed.cache_info().currsize == 0


def _calls(work: Callable[[], object]) -> int:
    count = 0

    def counting(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


HOSTILE: dict[str, Callable[[int], str]] = {
    "one item again and again": lambda size: "* [ ] `a`\n  - b\n" * (size // 16),
    "items that differ": lambda size: "".join(f"* [ ] `a{n}`\n  - b\n" for n in range(size // 20)),
    "one step again and again": lambda size: "- [x] `parity-dit`\n" * (size // 19),
    "open code spans": lambda size: "- [ ] `a\n" * (size // 9),
    "fences": lambda size: "```\n- x\n" * (size // 8),
    "an open fence": lambda size: "```\n" + "- x\n" * (size // 4),
    "quotes": lambda size: "> a\n" * (size // 4),
    "empty lines": lambda size: "\n" * size,
}


@pytest.mark.parametrize("form", HOSTILE)
@pytest.mark.parametrize("before", [False, True])
def test_twice_the_text_is_at_most_three_times_the_work(form: str, before: bool, tmp_path: Path) -> None:
    def work(size: int) -> int:
        folder = tmp_path / str(size)
        folder.mkdir()
        write_plan_file(folder, folder, "port-1", PLAN, {})
        added = HOSTILE[form](size)
        (folder / "PLAN.md").write_text(added + WRITTEN if before else WRITTEN + added)

        return _calls(lambda: reads(write_plan_file, folder, folder, "port-1", PLAN, {}))

    assert work(40_000) <= 3 * work(20_000)
