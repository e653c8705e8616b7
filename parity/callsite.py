"""Which line of the user's code is being run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


def call_site() -> tuple[str, int, str]:
    """File, line and function of the innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((TORCH, _HERE)):
            return name, frame.f_lineno, frame.f_code.co_name
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "", 0, ""
