"""Record what every module of a model received and returned, as fingerprints."""

from __future__ import annotations

import gc
import inspect
import json
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name

from .callsite import Site, call_site
from .leaves import leaves
from .sketch import HALVES, Fingerprint, Sketcher

_NORMS = frozenset({"layer_norm", "rms_norm"})
_ATTENTION = "scaled_dot_product_attention"
BOUNDARIES = _NORMS | {_ATTENTION}
"""Functions that are traced like modules, where code leaves the module tree; a norm only outside a norm module."""
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_CASTS = (torch.Tensor.float, torch.Tensor.to)


class _Seen:
    """A tensor that was recorded: its memory, how often that had been written then, and its index."""

    __slots__ = ("index", "storage", "tensor", "version")

    def __init__(self, tensor: weakref.ref[torch.Tensor], storage: Any, version: int, index: int) -> None:
        self.tensor, self.version, self.index = tensor, version, index
        self.storage = StorageWeakRef(storage)  # type: ignore[no-untyped-call]


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
        moments = stored[: 48 * len(document["tensors"])].view(np.float64).reshape(-1, 6).tolist()
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
        self.codes: dict[int, tuple[CodeType, bool]] = {}
        self.occurrences: Counter[str] = Counter()
        self.apart = False
        self.known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.casts: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.places: dict[tuple[Any, ...], _Seen] = {}
        self.layouts: dict[tuple[Any, ...], _Seen] = {}

    def begin(self, module: str, cls: str, values: Any, owner: torch.nn.Module | None = None) -> None:
        occurrence = self.occurrences[module]
        self.occurrences[module] = occurrence + 1
        call = _Open(module, cls, occurrence, self.stack[-1] if self.stack else -1, call_site(self.codes))
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

        So is another view of the same memory with the same elements in the same order: the memory still lives, so it
        was not given to something else, and has not been written since.
        """
        try:
            version = tensor._version
        except RuntimeError:  # inference tensors do not count their changes
            return self._new(tensor)
        seen = self.known.get(id(tensor))
        if seen is not None and seen[1] == version and seen[0]() is tensor:
            return seen[2]
        seen = self.casts.get(id(tensor))
        if seen is not None and seen[1] == version and seen[0]() is tensor:
            wider = self._again(seen[2], tensor)
            self.known[id(tensor)] = (seen[0], version, wider)
            return wider
        try:
            start = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg())
        except RuntimeError:  # no storage of its own
            return self._new(tensor)
        if not tensor.numel():
            return self._new(tensor)
        storage, itself = tensor.untyped_storage(), weakref.ref(tensor)
        place = (*start, tensor.shape, tensor.stride())
        index = self.seen_at(self.places, place, storage, version)
        if index is None:
            layout = (*start, _layout(tensor))
            other = self.seen_at(self.layouts, layout, storage, version)
            index = self._new(tensor) if other is None else self._again(other, tensor)
            self.places[place] = self.layouts[layout] = _Seen(itself, storage, version, index)
        self.known[id(tensor)] = (itself, version, index)
        return index

    def cast(self, source: torch.Tensor, output: Any) -> None:
        """Note that ``output`` has the values of ``source``, if that was seen and only has got room for more digits."""
        if self.sketcher is None or not self.sketcher.narrow or not isinstance(output, torch.Tensor):
            return
        seen = self.known.get(id(source))
        if seen is None or output.dtype != torch.float32 or source.dtype not in HALVES or output.is_inference():
            return
        if seen[1] == source._version and seen[0]() is source and output.device == source.device:
            self.casts[id(output)] = (weakref.ref(output), output._version, seen[2])

    def seen_at(self, places: dict[tuple[Any, ...], _Seen], place: Any, storage: Any, version: int) -> int | None:
        """Index of the tensor that was seen in this place, if its memory still lives and holds what it held."""
        seen = places.get(place)
        if seen is None or seen.version != version or seen.storage.cdata != storage._cdata:
            return None
        original = seen.tensor()
        if original is None:
            return None if self.apart else seen.index
        return seen.index if original._version == version else None

    def _new(self, tensor: torch.Tensor) -> int:
        if self.sketcher is not None:
            return self.sketcher.add(tensor)
        return self._shape_only(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.device.type)

    def _again(self, index: int, tensor: torch.Tensor) -> int:
        """The values of a tensor that was seen, in another shape or a wider dtype."""
        return (
            self._new(tensor) if self.sketcher is None else self.sketcher.add_again(index, tensor.shape, tensor.dtype)
        )

    def _shape_only(self, shape: tuple[int, ...], dtype: str, device_type: str) -> int:
        self.trace.tensors.append(Fingerprint(shape, dtype, device_type, (0.0,) * 6, 0, np.zeros(0)))
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


def _layout(tensor: torch.Tensor) -> tuple[int, ...]:
    """What tells tensors of one memory apart in the order of their elements: equal for two shapes with one order."""
    if tensor.is_contiguous():
        return (tensor.numel(),)
    found: list[int] = []
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            continue
        if found and found[-1] == size * step:
            found[-2:] = [found[-2] * size, step]
        else:
            found += [size, step]
    return tuple(found)


class _Functions(TorchFunctionMode):
    """Sees functions that are not modules: attention and norms, as boundaries."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.watched: dict[Any, Callable[..., Any] | None] = dict.fromkeys(_CASTS, self._cast)
        self.watched[_DATA] = self._data

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            watch = self.watched[func]
        except KeyError:
            watch = self.watched[func] = self._boundary if getattr(func, "__name__", "") in BOUNDARIES else None
        if watch is not None:
            return watch(func, args, kwargs or {})
        return func(*args, **kwargs) if kwargs else func(*args)

    def _data(self, func: Callable[..., Any], args: tuple[Any, ...], _: dict[str, Any]) -> Any:
        """What ``tensor.data`` returns counts its changes apart: a dead tensor's count says nothing of its memory."""
        self.recorder.apart |= not isinstance(args[0], torch.nn.Parameter)
        return func(*args)

    def _cast(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        self.recorder.cast(args[0], output)
        return output

    def _boundary(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, recorder = func.__name__, self.recorder
        owner = recorder.modules[-1] if recorder.modules else None
        if name in _NORMS and _is_norm(owner):
            return func(*args, **kwargs)
        where = recorder.calls[recorder.stack[-1]].module if recorder.stack else ""
        seen = (args, kwargs)
        if name == _ATTENTION:
            heads = {key: _by_token(kwargs[key]) for key in kwargs.keys() & {"query", "key", "value"}}
            seen = ((*map(_by_token, args[:3]), *args[3:]), {**kwargs, **heads})
        recorder.begin(f"{where}::{name}", resolve_name(func) or name, seen, owner)
        try:
            output = func(*args, **kwargs)
        except BaseException:
            recorder.end(None)
            raise
        recorder.end(_by_token(output) if name == _ATTENTION else output)
        return output


def _by_token(value: Any) -> Any:
    """Heads of shape (B, H, S, D) as (B, S, H, D), which in most code is the memory of a projection, seen before."""
    return value.transpose(1, 2) if isinstance(value, torch.Tensor) and value.ndim == 4 else value


def _is_norm(module: torch.nn.Module | None) -> bool:
    """Whether a module is a norm itself, so that a functional norm in it is no boundary of its own."""
    return module is not None and type(module).__name__.lower().endswith(("layernorm", "rmsnorm"))


def locate(module: torch.nn.Module) -> ModuleInfo:
    """The class of a module and the lines of the forward that does its work.

    FastVideo's custom operations forward to ``forward_native`` or ``forward_cuda`` of the subclass; that one is named.
    """
    cls: Any = type(module)
    return _located(cls)


@cache
def _located(cls: Any) -> ModuleInfo:
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

    def watch(name: str, module: torch.nn.Module) -> None:
        cls = type(module).__name__

        # Without the mode of `_Functions`, which sees every look at a tensor too.
        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            with torch._C.DisableTorchFunction():
                recorder.begin(name, cls, (*args, kwargs) if kwargs else args, module)

        def after(_: torch.nn.Module, __: Any, ___: Any, output: Any) -> None:
            with torch._C.DisableTorchFunction():
                recorder.end(output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
        trace.modules[name] = locate(module)

    with _young_only():
        for name, module in model.named_modules():
            watch(name, module)
        try:
            with _Functions(recorder):
                yield trace
        finally:
            for handle in handles:
                handle.remove()
            recorder.finish()


@contextmanager
def _young_only() -> Iterator[None]:
    """Let the garbage collector pass by what there is: a look at all of it takes as long as a third of a forward."""
    freeze = not gc.get_freeze_count()
    if freeze:
        gc.freeze()
    try:
        yield
    finally:
        if freeze:
            gc.unfreeze()
