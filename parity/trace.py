"""What every module of a model received and returned, as fingerprints: the record, on disk too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .sketch import Fingerprint


@dataclass
class Call:
    """One call of one module or traced function.

    Attributes:
        module: Qualified name; a traced function is ``<enclosing module>::<function>``. The root is ``""``.
        cls: Class of the module, or the function's name.
        occurrence: How often this module was called before in the same forward.
        parent: Index of the enclosing call in `Trace.calls`, -1 for none.
        file, line, function: Where the call was made (outside torch).
        inputs, outputs: ``(name, index into Trace.tensors)``.
        ended: Rank of the call among all calls by the moment at which they returned; -1 if it raised.
        writes: Tensors that the call left in its arguments (a cache, metadata) and that were not there before.
    """

    module: str
    cls: str
    occurrence: int
    parent: int
    file: str
    line: int
    function: str
    inputs: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[tuple[str, int]] = field(default_factory=list)
    ended: int = -1
    writes: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class ModuleInfo:
    """Where a module's code is.

    Attributes:
        cls: ``package.module.Class``.
        file, line, end_line: Source of the forward that this class defines (or inherits).
        parameters: Names of the forward's parameters, without self.
    """

    cls: str
    file: str
    line: int
    end_line: int
    parameters: list[str] = field(default_factory=list)


@dataclass
class Trace:
    """All calls of one forward, in the order in which they began."""

    calls: list[Call] = field(default_factory=list)
    tensors: list[Fingerprint] = field(default_factory=list)
    modules: dict[str, ModuleInfo] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write ``path.json`` and, with moments and sketches, ``path.npy``; what two tensors share is there once."""
        parts = [np.array([tensor.moments for tensor in self.tensors]).view(np.uint8).reshape(-1)]
        places: dict[int, int] = {}
        end = parts[0].nbytes
        table = []
        for tensor in self.tensors:
            packed = tensor.packed
            start = places.setdefault(id(packed), end)
            if start == end:
                parts.append(packed.view(np.uint8))
                end += packed.nbytes
            rest = (tensor.non_finite, start, packed.size, packed.itemsize)
            table.append((tensor.shape, tensor.dtype, tensor.device_type, *rest))
        np.save(path.with_suffix(".npy"), np.concatenate(parts))
        document = {
            "calls": [vars(call) for call in self.calls],
            "tensors": table,
            "modules": {name: vars(info) for name, info in self.modules.items()},
        }
        path.with_suffix(".json").write_text(json.dumps(document))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote."""
        document = json.loads(path.with_suffix(".json").read_text())
        stored = np.load(path.with_suffix(".npy"))
        moments = stored[: 32 * len(document["tensors"])].view(np.float64).reshape(-1, 4).tolist()
        tensors = []
        for row, kept in zip(document["tensors"], moments, strict=True):
            shape, dtype, device_type, non_finite, start, size, width = row
            packed = stored[start : start + size * width].copy().view(np.float32 if width == 4 else np.float64)
            tensors.append(Fingerprint(tuple(shape), dtype, device_type, tuple(kept), non_finite, packed))
        calls = []
        for row in document["calls"]:
            for key in ("inputs", "outputs", "writes"):
                row[key] = [(str(name), int(index)) for name, index in row.get(key, ())]
            calls.append(Call(**row))
        return cls(calls, tensors, {name: ModuleInfo(**info) for name, info in document["modules"].items()})

    def children(self, index: int) -> list[int]:
        """Indices of the calls made directly inside call ``index``."""
        return [i for i, call in enumerate(self.calls) if call.parent == index]
