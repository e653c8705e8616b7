"""The planted mistakes fit the pinned FastVideo, and their repair is exact."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.server.demo.mistakes import ELSEWHERE, EPSILON, GUIDANCE, SCALE_SHIFT, Mistake


@pytest.mark.parametrize("mistake", [SCALE_SHIFT, EPSILON, GUIDANCE], ids=lambda mistake: mistake.file)
def test_a_mistake_changes_one_line_and_its_repair_changes_it_back(mistake: Mistake, fastvideo_repo: Path) -> None:
    diff = mistake.plant(fastvideo_repo)
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[0] for line in changed] == ["-", "+"]
    line = (fastvideo_repo / mistake.file).read_text().splitlines()[mistake.line(fastvideo_repo) - 1]
    assert mistake.wrong in line
    mistake.repair(fastvideo_repo)
    status = subprocess.run(
        ["git", "-C", str(fastvideo_repo), "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


def test_the_swap_stands_in_the_block_that_the_adapter_builds(fastvideo_repo: Path) -> None:
    SCALE_SHIFT.plant(fastvideo_repo)
    lines = (fastvideo_repo / SCALE_SHIFT.file).read_text().splitlines()[: SCALE_SHIFT.line(fastvideo_repo)]
    classes = [line for line in lines if line.startswith("class ")]
    assert classes[-1].startswith("class WanTransformerBlock(")


def test_a_fastvideo_without_the_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / EPSILON.file
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n")
    with pytest.raises(PortError, match="pinned FastVideo wheel"):
        EPSILON.plant(tmp_path)
    assert file.read_text() == "x = 1\n"


def test_the_last_mistake_is_one_character() -> None:
    assert len(GUIDANCE.right) == len(GUIDANCE.wrong)
    assert sum(a != b for a, b in zip(GUIDANCE.right, GUIDANCE.wrong, strict=True)) == 1


def test_a_change_elsewhere_is_taken_back_whole(fastvideo_repo: Path) -> None:
    before = (fastvideo_repo / ELSEWHERE.file).read_bytes()
    ELSEWHERE.plant(fastvideo_repo)
    assert (fastvideo_repo / ELSEWHERE.file).read_bytes() != before
    ELSEWHERE.repair(fastvideo_repo)
    assert (fastvideo_repo / ELSEWHERE.file).read_bytes() == before
