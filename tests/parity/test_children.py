"""What the parent makes of a child's result while others may write where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fastvideo_port.parity.children import Child, wait_for
from fastvideo_port.parity.errors import ParityError


@pytest.fixture
def ended(tmp_path: Path) -> Child:
    """A child whose job does not exist: it ends at once with an error of its own."""
    child = Child(sys.executable, "no such job", tmp_path / "process", {}, tmp_path)
    wait_for([child], lambda: None)
    child.process.wait()
    return child


def test_an_error_of_its_own_is_told(ended: Child) -> None:
    assert ended.failed() and ended.spoke()
    with pytest.raises(ParityError) as caught:
        ended.value()
    assert not caught.value.what.startswith("["), "names of our own jobs say nothing to who has to act"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_result_that_another_is_just_writing_is_a_failure_and_nobodys_word(ended: Child, content: str) -> None:
    (ended.folder / "result.json").write_text(content)
    assert ended.failed()
    with pytest.raises(ParityError, match="not written by that process"):
        ended.value()


def test_without_a_result_it_failed_and_said_nothing(ended: Child) -> None:
    (ended.folder / "result.json").unlink()
    assert ended.failed() and not ended.spoke()
