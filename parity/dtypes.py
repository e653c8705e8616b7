"""dtype audit: in which dtype each side computes and hands on values, module by module."""

from __future__ import annotations

import re

from .pairing import Pair
from .trace import Trace


def audit_dtypes(port: Trace, official: Trace, pairs: dict[str, Pair], asked: str) -> list[dict[str, str]]:
    """Differences between the sides, one row per place; block indices are folded into ``*``.

    Args:
        port, official: Traces of one input in the production dtype.
        pairs: Port module -> pair.
        asked: The dtype that was asked for.
    """
    theirs = {(call.module, call.occurrence): call for call in official.calls}
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for call in port.calls:
        pair = pairs.get(call.module)
        other = theirs.get((pair.official, call.occurrence)) if pair else None
        if pair is None or other is None or not call.outputs or not other.outputs:
            continue
        mine = port.tensors[call.outputs[0][1]].dtype
        expected = official.tensors[other.outputs[0][1]].dtype
        if mine != expected and "float" in mine and "float" in expected:
            _add(rows, call.module, pair.official, "output", mine, expected, asked)
    for name, operations in port.operations.items():
        pair = pairs.get(name)
        if pair is None:
            continue
        for operation, mine_dtypes in operations.items():
            expected_dtypes = official.operations.get(pair.official, {}).get(operation)
            if expected_dtypes and sorted(expected_dtypes) != sorted(mine_dtypes):
                _add(rows, name, pair.official, operation, "/".join(mine_dtypes), "/".join(expected_dtypes), asked)
    return list(rows.values())


def _add(
    rows: dict[tuple[str, str], dict[str, str]],
    port: str,
    official: str,
    what: str,
    mine: str,
    expected: str,
    asked: str,
) -> None:
    folded = re.sub(r"\.\d+(?=\.|$|:)", ".*", port)
    rows.setdefault(
        (folded, what),
        {
            "module": folded,
            "official_module": re.sub(r"\.\d+(?=\.|$|:)", ".*", official),
            "what": what,
            "port_dtype": mine,
            "official_dtype": expected,
            "asked": asked,
        },
    )
