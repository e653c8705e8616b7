"""The divergence curve: how far port and official code are from the reference, module after module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .boundaries import Boundary

_MOST_ROWS = 4000


def curve(boundaries: Sequence[Boundary]) -> list[dict[str, Any]]:
    """One row for each compared call, in the order in which the port's calls returned.

    Returns:
        Rows with ``module``, ``official_module``, ``port_error`` and ``reference_error`` (relative L2 against the
        reference, both in float32) and ``ratio``; of more than 4,000 evenly chosen ones and the worst.
    """
    kept = list(boundaries)
    if len(kept) > _MOST_ROWS:
        worst = max(kept, key=lambda boundary: boundary.port_error)
        step = len(kept) / _MOST_ROWS
        chosen = {int(place * step) for place in range(_MOST_ROWS)} | {kept.index(worst)}
        kept = [kept[place] for place in sorted(chosen)]
    return [
        {
            "module": boundary.port,
            "official_module": boundary.official,
            "port_error": boundary.port_error,
            "reference_error": boundary.reference_error,
            "ratio": boundary.ratio,
        }
        for boundary in kept
    ]
