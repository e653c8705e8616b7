"""A tokenizer is a component as every other: run_component_parity compares it, and the gate asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import gate
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.final_report import final_report
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

from .tiny import full_run

TOKENIZER = """
import zlib


class Words:
    def __call__(self, prompts, length):
        rows = [[zlib.crc32(word.encode("utf-8", "replace")) % 500 + 2 for word in text.split()] for text in prompts]
        rows = [[*row[: length - 1], 1] for row in rows]
        ids = [row + [0] * (length - len(row)) for row in rows]
        return {"input_ids": ids, "attention_mask": [[int(i != 0) for i in row] for row in ids]}
"""
ADAPTER = """
def load_official(ctx):
    from tiny_words import Words

    return Words()


def load_port(ctx):
    from fastvideo.words import Words

    return Words()


def call_official(model, inputs, ctx):
    return model(inputs["prompts"], 32)


def call_port(model, inputs, ctx):
    return model(inputs["prompts"], 32)
"""
PATH = "tests/local_tests/tiny/parity_tokenizer.py"


@pytest.fixture(scope="module")
def planned(tiny: Any) -> Any:
    """The tiny port with a tokenizer in its plan."""
    (tiny.worktree / "fastvideo/words.py").write_text(TOKENIZER)
    (tiny.worktree / PATH).write_text(ADAPTER)
    (Path(tiny.port.official_repo) / "tiny_words.py").write_text(TOKENIZER)
    first = tiny.port.components[0]
    components = [
        PlanComponent(
            name=first.name, kind=first.kind, official=first.official, port=first.port, adapter=first.adapter
        ),
        PlanComponent(
            name="tokenizer", kind="tokenizer", official="tiny_words.Words", port="fastvideo.words.Words", adapter=PATH
        ),
    ]
    write_plan(tiny.ctx, tiny.port_id, "The network.", components)
    return tiny


def test_a_right_tokenizer_passes_and_is_evidence(planned: Any) -> None:
    result = full_run(planned, "tokenizer")
    assert result.verdict == "pass", result.findings
    assert result.self_test is not None and result.self_test.passed
    entry = planned.entries()[-1]
    assert (entry.component, entry.verdict, entry.complete) == ("tokenizer", "pass", True)
    assert "worktree:fastvideo/words.py" in entry.depends_on
    why = next(item.why for item in gate(planned.port, planned.entries()) if item.id == "component-parity")
    assert "tokenizer" not in why and "transformer" in why
    report = final_report(planned.ctx, planned.port_id)
    row = next(line for line in Path(report.markdown).read_text().splitlines() if line.startswith("| tokenizer |"))
    assert row.split("|")[2:4] == [" pass ", " exact "]


def test_a_prompt_that_only_the_port_lower_cases_is_red_with_its_cause(planned: Any) -> None:
    with planned.edited("fastvideo/words.py", "text.split()", "text.lower().split()"):
        result = full_run(planned, "tokenizer")
    assert result.verdict == "fail"
    assert [row.code for row in result.findings if row.verdict == "fail"] == ["tokens-text-lower"]


def test_a_component_without_weights_has_no_mapping_and_is_sent_to_its_own_check(planned: Any) -> None:
    before = planned.left()
    with pytest.raises(PortError, match="A tokenizer has no weights") as caught:
        check_mapping(planned.ctx, planned.port_id, "tokenizer")
    assert "run_component_parity" in caught.value.fix and planned.left() == before
