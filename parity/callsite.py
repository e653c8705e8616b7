"""Which line of the user's code is being run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

Site = tuple[CodeType | None, int]
_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


def call_site(known: dict[int, tuple[CodeType, bool]]) -> Site:
    """Code and line of the innermost frame that is neither torch's nor ours.

    Args:
        known: What is learnt of a code object is kept here, by its identity: to hash one takes long.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        seen = known.get(id(code))
        if seen is None:
            seen = known[id(code)] = (code, not code.co_filename.startswith((_TORCH, _HERE)))
        if seen[1]:
            return code, frame.f_lineno
        frame = frame.f_back
    return None, 0
