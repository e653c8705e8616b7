"""Record what every module of a model received and returned, as fingerprints."""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode, resolve_name

from .callsite import Site, call_site
from .leaves import leaves
from .sketch import HALVES, Fingerprint, Sketcher

_NORMS = frozenset({"layer_norm", "rms_norm"})
BOUNDARIES = _NORMS | {"scaled_dot_product_attention"}
"""Functions that are traced like modules, where code leaves the module tree; a norm only outside a norm module."""

_Seen = tuple["weakref.ref[torch.Tensor]", int, int]
"""A tensor, how often it had been written then, and its index."""


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
        """Write ``path.json`` and ``path.npy``; a sketch that float32 holds without loss takes half the space."""
        sketches = [_packed(tensor.sketch.numpy()) for tensor in self.tensors]
        joined = b"".join(sketch.tobytes() for sketch in sketches)
        np.save(path.with_suffix(".npy"), np.frombuffer(joined, dtype=np.uint8))
        table = [
            {
                "shape": tensor.shape,
                "dtype": tensor.dtype,
                "device_type": tensor.device_type,
                "moments": tensor.moments,
                "non_finite": tensor.non_finite,
                "length": tensor.sketch.numel(),
                "bytes": sketch.nbytes,
            }
            for tensor, sketch in zip(self.tensors, sketches, strict=True)
        ]
        document = {
            "calls": [asdict(call) for call in self.calls],
            "tensors": table,
            "modules": {name: asdict(info) for name, info in self.modules.items()},
        }
        path.with_suffix(".json").write_text(json.dumps(document))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote."""
        document = json.loads(path.with_suffix(".json").read_text())
        sketches = np.load(path.with_suffix(".npy")).tobytes()
        tensors, start = [], 0
        for row in document["tensors"]:
            length, size = row.pop("length"), row.pop("bytes")
            kind = np.float32 if size < 8 * length else np.float64
            sketch = np.frombuffer(sketches, dtype=kind, count=length, offset=start).astype(np.float64)
            row["shape"], row["moments"] = tuple(row["shape"]), tuple(row["moments"])
            tensors.append(Fingerprint(**row, sketch=torch.from_numpy(sketch)))
            start += size
        calls = []
        for row in document["calls"]:
            for key in ("inputs", "outputs", "writes"):
                row[key] = [(str(name), int(index)) for name, index in row.get(key, ())]
            calls.append(Call(**row))
        return cls(calls, tensors, {name: ModuleInfo(**info) for name, info in document["modules"].items()})

    def children(self, index: int) -> list[int]:
        """Indices of the calls made directly inside call ``index``."""
        return [i for i, call in enumerate(self.calls) if call.parent == index]


@np.errstate(over="ignore")
def _packed(sketch: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    narrow = sketch.astype(np.float32) if not np.abs(sketch).max(initial=0.0) > 3e38 else sketch
    return narrow if np.array_equal(narrow, sketch) else sketch


class _Open:
    """A call as it is noted while the model runs; `_Recorder.finish` makes a `Call` of it."""

    __slots__ = (
        "cls", "ended", "handled", "held", "inputs", "module", "occurrence", "outputs", "parent", "site", "writes",
    )  # fmt: skip

    def __init__(self, module: str, cls: str, occurrence: int, parent: int, site: Site) -> None:
        self.module, self.cls, self.occurrence, self.parent, self.site = module, cls, occurrence, parent, site
        self.handled = sys.exc_info()[1]
        self.inputs: list[tuple[str, int]] = []
        self.outputs: list[tuple[str, int]] = []
        self.writes: list[tuple[str, int]] = []
        self.held: list[tuple[str, Any]] = []
        self.ended = -1


class _Recorder:
    """Notes calls and tensors in as few steps as it can: a forward makes thousands of them."""

    def __init__(self, trace: Trace, sketches: bool, narrow: bool) -> None:
        self.trace = trace
        self.sketcher = Sketcher(narrow=narrow) if sketches else None
        self.calls: list[_Open] = []
        self.stack: list[int] = []
        self.modules: list[torch.nn.Module | None] = []
        self.ended = 0
        self.outside: dict[CodeType, bool] = {}
        self.occurrences: Counter[str] = Counter()
        self.known: dict[int, _Seen] = {}
        self.places: dict[tuple[Any, ...], _Seen] = {}

    def begin(self, module: str, cls: str, values: Any, owner: torch.nn.Module | None = None) -> None:
        occurrence = self.occurrences[module]
        self.occurrences[module] = occurrence + 1
        call = _Open(module, cls, occurrence, self.stack[-1] if self.stack else -1, call_site(self.outside))
        self.stack.append(len(self.calls))
        self.modules.append(owner)
        self.calls.append(call)
        call.inputs = self.record(values)
        call.held = _writable(values)

    def end(self, output: Any) -> None:
        self.modules.pop()
        call = self.calls[self.stack.pop()]
        if sys.exc_info()[1] is not call.handled:
            call.held = []
            return  # it raised, and its caller may go on: such a call has no end
        call.handled = None
        call.outputs = self.record(output)
        if call.held:
            call.writes = self.left_in(call)
            call.held = []
        call.ended = self.ended
        self.ended += 1

    def record(self, values: Any) -> list[tuple[str, int]]:
        if isinstance(values, torch.Tensor):
            return [("", self.tensor(values))] if values.device.type != "meta" else []
        if type(values) is tuple:
            found = []
            for index, value in enumerate(values):
                if isinstance(value, torch.Tensor):
                    if value.device.type != "meta":
                        found.append((f"[{index}]", self.tensor(value)))
                elif isinstance(value, (bool, int, float)):
                    found.append((f"[{index}]", self.number(float(value))))
                elif value is not None:
                    found += [
                        (f"[{index}]{'.' if name and name[0] != '[' else ''}{name}", place)
                        for name, place in self.record(value)
                    ]
            return found
        return [(name, self.tensor(tensor)) for name, tensor in leaves(values) if tensor.device.type != "meta"]

    def left_in(self, call: _Open) -> list[tuple[str, int]]:
        """What the call's arguments hold now and did not when it began."""
        before = {index for _, index in call.inputs}
        found = []
        for argument, container in call.held:
            for name, tensor in leaves(container):
                if tensor.numel() > 1 and tensor.device.type != "meta" and (index := self.tensor(tensor)) not in before:
                    found.append((f"{argument}{'.' if name and name[0] != '[' else ''}{name}", index))
        return found

    def number(self, value: float) -> int:
        if self.sketcher is not None:
            return self.sketcher.add_number(value)
        return self._shape_only((), "float64", "cpu")

    def tensor(self, tensor: torch.Tensor) -> int:
        """Fingerprint a tensor once: a module's input is recognised as the output that it came from.

        So is another view of the same memory, if it is laid out alike: the one that was seen still lives, so its memory
        was not given to something else, and neither has been written since.
        """
        try:
            version = tensor._version
        except RuntimeError:  # inference tensors do not count their changes
            return self._new(tensor)
        seen = self.known.get(id(tensor))
        if seen is not None and seen[1] == version and seen[0]() is tensor:
            return seen[2]
        try:
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        except RuntimeError:  # no storage of its own
            return self._new(tensor)
        alias = self.places.get(place)
        if alias is not None and alias[1] == version:
            original = alias[0]()
            if original is not None and original._version == version and _same_bits(original, tensor):
                self.known[id(tensor)] = (weakref.ref(tensor), version, alias[2])
                return alias[2]
        index = self._new(tensor)
        self.known[id(tensor)] = self.places[place] = (weakref.ref(tensor), version, index)
        return index

    def _new(self, tensor: torch.Tensor) -> int:
        if self.sketcher is not None:
            return self.sketcher.add(tensor)
        return self._shape_only(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.device.type)

    def _shape_only(self, shape: tuple[int, ...], dtype: str, device_type: str) -> int:
        self.trace.tensors.append(Fingerprint(shape, dtype, device_type, (0.0,) * 6, 0, torch.zeros(0)))
        return len(self.trace.tensors) - 1

    def finish(self) -> None:
        """Fill the trace."""
        if self.sketcher is not None:
            self.trace.tensors.extend(self.sketcher.finish())
        for c in self.calls:
            code, line = c.site
            file, function = (code.co_filename, code.co_name) if code is not None else ("", "")
            self.trace.calls.append(
                Call(
                    c.module,
                    c.cls,
                    c.occurrence,
                    c.parent,
                    file,
                    line,
                    function,
                    c.inputs,
                    c.outputs,
                    c.ended,
                    c.writes,
                )
            )


def _writable(values: Any) -> list[tuple[str, Any]]:
    """Arguments of a call into which it can put tensors, under the names that `leaves` gives them."""
    if type(values) is not tuple:
        return []
    found = []
    for place, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            continue
        if isinstance(value, dict):  # keyword arguments, or a dict among the others
            found += [(f"[{place}].{key}", item) for key, item in value.items() if _is_writable(item)]
        if _is_writable(value) and not (isinstance(value, dict) and place == len(values) - 1):
            found.append((f"[{place}]", value))
    return found


def _is_writable(value: Any) -> bool:
    return isinstance(value, (list, dict)) or (is_dataclass(value) and not isinstance(value, type))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one memory also read it alike: a conjugate or negated view does not."""
    return a.numel() > 0 and a.is_conj() == b.is_conj() and a.is_neg() == b.is_neg()


class _Functions(TorchFunctionMode):
    """Sees functions that are not modules: attention and norms, as boundaries."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.names: dict[Any, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = self.names.get(func)
        if name is None:
            name = getattr(func, "__name__", "")
            name = self.names[func] = name if name in BOUNDARIES else ""
        if not name:
            return func(*args, **kwargs) if kwargs else func(*args)
        return self._watched(func, name, args, kwargs or {})

    def _watched(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        owner = recorder.modules[-1] if recorder.modules else None
        if name in _NORMS and _is_norm(owner):
            return func(*args, **kwargs)
        where = recorder.calls[recorder.stack[-1]].module if recorder.stack else ""
        recorder.begin(f"{where}::{name}", resolve_name(func) or name, (args, kwargs), owner)
        try:
            output = func(*args, **kwargs)
        except BaseException:
            recorder.end(None)
            raise
        recorder.end(output)
        return output


def _is_norm(module: torch.nn.Module | None) -> bool:
    """Whether a module is a norm itself, so that a functional norm in it is no boundary of its own."""
    return module is not None and type(module).__name__.lower().endswith(("layernorm", "rmsnorm"))


def locate(module: torch.nn.Module) -> ModuleInfo:
    """The class of a module and the lines of the forward that does its work.

    FastVideo's custom operations forward to ``forward_native`` or ``forward_cuda`` of the subclass; that one is named.
    """
    cls = type(module)
    own = next((name for name in ("forward", "forward_native", "forward_cuda") if name in cls.__dict__), "forward")
    function = inspect.unwrap(getattr(cls, own, cls.forward))
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        parameters = list(inspect.signature(inspect.unwrap(cls.forward)).parameters)[1:]
    except (ValueError, TypeError):
        parameters = []
    try:
        source, start = inspect.getsourcelines(function)
        return ModuleInfo(name, inspect.getsourcefile(function) or "", start, start + len(source) - 1, parameters)
    except (OSError, TypeError):
        return ModuleInfo(name, "", 0, 0, parameters)


@contextmanager
def tracing(model: torch.nn.Module, *, sketches: bool = True) -> Iterator[Trace]:
    """Trace every module call of ``model`` inside the block; the trace is filled when the block ends.

    Nothing waits for a device before that, and nothing of a tensor is kept but its fingerprint. Where the model holds
    parameters in half precision, sketches are rounded to float32 throughout: its values carry no more digits.

    Args:
        model: The model; its hooks are removed at the end.
        sketches: Fingerprint the values; otherwise only shapes and dtypes are kept.
    """
    trace = Trace()
    narrow = any(parameter.dtype in HALVES for parameter in model.parameters())
    recorder = _Recorder(trace, sketches, narrow)
    handles = []
    places: dict[type, ModuleInfo] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        cls = type(module).__name__

        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            recorder.begin(name, cls, (*args, kwargs) if kwargs else args, module)

        def after(_: torch.nn.Module, __: Any, ___: Any, output: Any) -> None:
            recorder.end(output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
        if type(module) not in places:
            places[type(module)] = locate(module)
        trace.modules[name] = places[type(module)]

    for name, module in model.named_modules():
        watch(name, module)
    try:
        with _Functions(recorder):
            yield trace
    finally:
        for handle in handles:
            handle.remove()
        recorder.finish()
