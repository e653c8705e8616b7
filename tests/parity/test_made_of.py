"""What a tensor was made of, read from the source of one function."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastvideo_port.parity.made_of import first_line

SOURCE = """
class Block:
    def forward(self, image, text, modulation):
        batch = image.shape[0]
        (shift, scale, gate), (text_shift, text_scale) = modulation
        dtype = image.dtype
        image_normed = self.norm1(image)
        image_normed = (image_normed * (1 + scale) + shift).to(dtype)
        text_normed = self.norm2(text)
        text_normed = text_normed * (1 + text_scale) + text_shift
        a, b = self.attn(image_normed, context=text_normed)
        image = image + gate * a
        h = self.norm3(image)
        if batch > 1:
            h = h.flip(0)
        image = image + self.ff(h)
        text.add_(b)
        return text, image
"""
NORM1, NORM2, ATTN, NORM3, FF = 7, 9, 11, 13, 16


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "block.py"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.parametrize(
    ("line", "leaf", "called", "expected"),
    [
        (ATTN, "[0]", "attn", 5),  # norm1's, with the modulation; norm2 was called after it
        (ATTN, "[1].context", "attn", 5),
        (NORM3, "[0]", "norm3", 5),  # the gate
        (FF, "[0]", "ff", NORM3),
        (18, "[1]", "", FF),  # what norm3 was handed was right
        (18, "[0]", "", ATTN),
    ],
)
def test_lines_go_back_to_the_calls_that_were_checked(
    line: int, leaf: str, called: str, expected: int, file: str
) -> None:
    """Project: a mistake in the image's modulation was looked for after the norm of the text."""
    assert first_line(file, line, leaf, {NORM1, NORM2, ATTN, NORM3, FF}, called) == expected


def test_where_no_checked_call_is_behind_a_value_nothing_is_said(file: str) -> None:
    assert first_line(file, ATTN, "[0]", set(), "attn") is None
    assert first_line(file, ATTN, "[7]", {NORM1}, "attn") is None
    assert first_line(file + ".missing", ATTN, "[0]", {NORM1}, "attn") is None


def test_a_file_that_was_edited_is_read_again(file: str) -> None:
    assert first_line(file, ATTN, "[0]", {NORM1}, "attn") == 5
    Path(file).write_text(SOURCE.replace(" * (1 + scale) + shift", ""))
    assert first_line(file, ATTN, "[0]", {NORM1}, "attn") == NORM1
