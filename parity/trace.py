"""Record what every module of a model received and returned, as fingerprints."""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode, resolve_name

from .callsite import call_site
from .leaves import leaves
from .sketch import Fingerprint, fingerprint

BOUNDARIES = frozenset({"scaled_dot_product_attention"})
"""Functions that are traced like modules: attention is where code leaves the module tree."""

PRECISION_SENSITIVE = frozenset(
    {
        "layer_norm",
        "rms_norm",
        "group_norm",
        "rsqrt",
        "softmax",
        "scaled_dot_product_attention",
        "exp",
        "cos",
        "sin",
    }
)
"""Operations whose compute dtype the dtype audit compares between the sides."""


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


@dataclass
class ModuleInfo:
    """Where a module's code is.

    Attributes:
        cls: ``package.module.Class``.
        file, line, end_line: Source of the forward that this class defines (or inherits).
    """

    cls: str
    file: str
    line: int
    end_line: int


@dataclass
class Trace:
    """All calls of one forward, in the order in which they began."""

    calls: list[Call] = field(default_factory=list)
    tensors: list[Fingerprint] = field(default_factory=list)
    modules: dict[str, ModuleInfo] = field(default_factory=dict)
    operations: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write ``path.json`` and ``path.npy``."""
        sketches = [tensor.sketch.numpy() for tensor in self.tensors]
        np.save(path.with_suffix(".npy"), np.concatenate(sketches) if sketches else np.zeros(0))
        table = [
            {
                "shape": tensor.shape,
                "dtype": tensor.dtype,
                "device_type": tensor.device_type,
                "moments": tensor.moments,
                "non_finite": tensor.non_finite,
                "length": tensor.sketch.numel(),
            }
            for tensor in self.tensors
        ]
        document = {
            "calls": [asdict(call) for call in self.calls],
            "tensors": table,
            "modules": {name: asdict(info) for name, info in self.modules.items()},
            "operations": self.operations,
        }
        path.with_suffix(".json").write_text(json.dumps(document))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote."""
        document = json.loads(path.with_suffix(".json").read_text())
        sketches = torch.from_numpy(np.load(path.with_suffix(".npy")))
        tensors, start = [], 0
        for row in document["tensors"]:
            length = row.pop("length")
            row["shape"], row["moments"] = tuple(row["shape"]), tuple(row["moments"])
            tensors.append(Fingerprint(**row, sketch=sketches[start : start + length]))
            start += length
        calls = []
        for row in document["calls"]:
            for key in ("inputs", "outputs"):
                row[key] = [(str(name), int(index)) for name, index in row[key]]
            calls.append(Call(**row))
        return cls(
            calls,
            tensors,
            {name: ModuleInfo(**info) for name, info in document["modules"].items()},
            document["operations"],
        )

    def children(self, index: int) -> list[int]:
        """Indices of the calls made directly inside call ``index``."""
        return [i for i, call in enumerate(self.calls) if call.parent == index]


class _Recorder:
    def __init__(self, trace: Trace, sketches: bool) -> None:
        self.trace = trace
        self.sketches = sketches
        self.stack: list[int] = []
        self.handled: list[BaseException | None] = []
        self.ended = 0
        self.occurrences: Counter[str] = Counter()
        self.known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}

    def begin(self, module: str, cls: str, values: Any) -> None:
        file, line, function = call_site()
        call = Call(module, cls, self.occurrences[module], self.stack[-1] if self.stack else -1, file, line, function)
        self.occurrences[module] += 1
        self.trace.calls.append(call)
        self.stack.append(len(self.trace.calls) - 1)
        self.handled.append(sys.exc_info()[1])
        call.inputs = self.record(values)

    def end(self, output: Any) -> None:
        call = self.trace.calls[self.stack.pop()]
        if sys.exc_info()[1] is not self.handled.pop():
            return  # it raised, and its caller may go on: such a call has no end
        call.outputs = self.record(output)
        call.ended = self.ended
        self.ended += 1

    def record(self, values: Any) -> list[tuple[str, int]]:
        return [(name, self.tensor(tensor)) for name, tensor in leaves(values) if tensor.device.type != "meta"]

    def tensor(self, tensor: torch.Tensor) -> int:
        """Fingerprint a tensor once: a module's input is recognised as the output that it came from."""
        try:
            version = tensor._version
        except RuntimeError:  # inference tensors do not count their changes
            version = -1
        seen = self.known.get(id(tensor))
        if seen is not None and version >= 0 and seen[0]() is tensor and seen[1] == version:
            return seen[2]
        if self.sketches:
            print_ = fingerprint(tensor)
        else:
            dtype = str(tensor.dtype).removeprefix("torch.")
            print_ = Fingerprint(tuple(tensor.shape), dtype, tensor.device.type, (0.0,) * 6, 0, torch.zeros(0))
        self.trace.tensors.append(print_)
        index = len(self.trace.tensors) - 1
        self.known[id(tensor)] = (weakref.ref(tensor), version, index)
        return index


class _Functions(TorchFunctionMode):
    """Sees functions that are not modules: attention as a boundary, norms and the like for their dtype."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in PRECISION_SENSITIVE:
            return func(*args, **kwargs)
        recorder = self.recorder
        where = recorder.trace.calls[recorder.stack[-1]].module if recorder.stack else ""
        tensor = next((value for value in args if isinstance(value, torch.Tensor)), None)
        if tensor is None:
            tensor = next((value for value in kwargs.values() if isinstance(value, torch.Tensor)), None)
        if tensor is not None and tensor.is_floating_point():
            asked = kwargs.get("dtype") or tensor.dtype
            seen = recorder.trace.operations.setdefault(where, {}).setdefault(name, [])
            dtype = str(asked).removeprefix("torch.")
            if dtype not in seen:
                seen.append(dtype)
        if name not in BOUNDARIES:
            return func(*args, **kwargs)
        recorder.begin(f"{where}::{name}", resolve_name(func) or name, (args, kwargs))
        try:
            output = func(*args, **kwargs)
        except BaseException:
            recorder.end(None)
            raise
        recorder.end(output)
        return output


def locate(module: torch.nn.Module) -> ModuleInfo:
    """The class of a module and the lines of the forward that does its work.

    FastVideo's custom operations forward to ``forward_native`` or ``forward_cuda`` of the subclass; that one is named.
    """
    cls = type(module)
    own = next((name for name in ("forward", "forward_native", "forward_cuda") if name in cls.__dict__), "forward")
    function = inspect.unwrap(getattr(cls, own, cls.forward))
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        source, start = inspect.getsourcelines(function)
        return ModuleInfo(name, inspect.getsourcefile(function) or "", start, start + len(source) - 1)
    except (OSError, TypeError):
        return ModuleInfo(name, "", 0, 0)


@contextmanager
def tracing(model: torch.nn.Module, *, sketches: bool = True) -> Iterator[Trace]:
    """Trace every module call of ``model`` inside the block.

    Args:
        model: The model; its hooks are removed at the end.
        sketches: Fingerprint the values; otherwise only shapes and dtypes are kept.
    """
    trace = Trace()
    recorder = _Recorder(trace, sketches)
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            recorder.begin(name, type(module).__name__, (*args, kwargs) if kwargs else args)

        def after(_: torch.nn.Module, __: Any, ___: Any, output: Any) -> None:
            recorder.end(output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
        trace.modules[name] = locate(module)

    for name, module in model.named_modules():
        watch(name, module)
    try:
        with _Functions(recorder):
            yield trace
    finally:
        for handle in handles:
            handle.remove()
