"""Record what every module of a model receives and returns, by hooks."""

from __future__ import annotations

import gc
import inspect
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.hooks import RemovableHandle

from .callsite import call_site
from .leaves import leaves
from .sketch import HALVES
from .trace import Call, ModuleInfo, Trace
from .traced_tensors import Tensors

_NORMS = frozenset({"layer_norm", "rms_norm"})
_ATTENTION = "scaled_dot_product_attention"
BOUNDARIES = _NORMS | {_ATTENTION}
"""Functions that are traced like modules, where code leaves the module tree; a norm only outside a norm module."""
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_PAD = torch.nn.functional.pad
_COPIES = (torch.Tensor.float, torch.Tensor.to, torch.Tensor.contiguous, torch.Tensor.clone, torch.clone, _PAD)
"""What may return the values of its first argument in other memory."""
_FEW = 64
"""Numbers, at most, that go to a device without waiting for it."""


class _Open(NamedTuple):
    """A call that has not returned: its record, the place of that, where it may leave tensors, what was handled."""

    call: Call
    place: int
    owner: torch.nn.Module | None
    held: list[tuple[str, Any]]
    handled: BaseException | None


class _Recorder:
    """Notes calls and tensors in as few steps as it can: a forward makes thousands of them."""

    def __init__(self, trace: Trace, sketches: bool, narrow: bool) -> None:
        self.trace = trace
        self.calls = trace.calls
        self.tensors = Tensors(narrow=narrow, sketches=sketches)
        self.stack: list[_Open] = []
        self.ended = 0
        self.codes: dict[int, tuple[CodeType, bool]] = {}
        self.occurrences: Counter[str] = Counter()

    def begin(self, module: str, cls: str, values: Any, owner: torch.nn.Module | None = None) -> None:
        occurrence = self.occurrences[module]
        self.occurrences[module] = occurrence + 1
        code, line = call_site(self.codes)
        file, function = (code.co_filename, code.co_name) if code is not None else ("", "")
        parent, index = self.stack[-1].place if self.stack else -1, len(self.calls)
        call = Call(module, cls, occurrence, parent, file, line, function)
        self.calls.append(call)
        call.inputs = self.record(values)
        self.stack.append(_Open(call, index, owner, _writable(values), sys.exc_info()[1]))

    def end(self, output: Any) -> None:
        call, _, _, held, handled = self.stack.pop()
        if sys.exc_info()[1] is not handled:
            return  # it raised, and its caller may go on: such a call has no end
        call.outputs = self.record(output)
        if held:
            call.writes = self.left_in(call, held)
        call.ended = self.ended
        self.ended += 1

    def record(self, values: Any) -> list[tuple[str, int]]:
        if isinstance(values, torch.Tensor):
            return [("", self.tensors.add(values))] if values.device.type != "meta" else []
        items: Iterable[tuple[Any, Any]]
        if type(values) is tuple:
            items = [(f"[{index}]", value) for index, value in enumerate(values)]
        elif type(values) is dict:
            items = values.items()
        else:
            return [(name, self.tensors.add(tensor)) for name, tensor in leaves(values) if tensor.device.type != "meta"]
        found = []
        for name, value in items:
            if isinstance(value, torch.Tensor):
                if value.device.type != "meta":
                    found.append((str(name), self.tensors.add(value)))
            elif isinstance(value, (bool, int, float)):
                found.append((str(name), self.tensors.add_number(float(value))))
            elif value is not None:
                found += [
                    (f"{name}{'.' if inner and inner[0] != '[' else ''}{inner}", place)
                    for inner, place in self.record(value)
                ]
        return found

    def left_in(self, call: Call, held: list[tuple[str, Any]]) -> list[tuple[str, int]]:
        """What the call's arguments hold now and did not when it began."""
        before = {index for _, index in call.inputs}
        found = []
        for argument, container in held:
            for name, tensor in leaves(container):
                if (
                    tensor.numel() > 1
                    and tensor.device.type != "meta"
                    and (index := self.tensors.add(tensor)) not in before
                ):
                    found.append((f"{argument}{'.' if name and name[0] != '[' else ''}{name}", index))
        return found


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


class _Functions(TorchFunctionMode):
    """Sees functions that are not modules: attention and norms, as boundaries."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.watched: dict[Any, Callable[..., Any] | None] = dict.fromkeys(_COPIES, self._copy)
        self.watched[torch.tensor] = self._made
        self.sources: list[torch.Tensor] = []
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
        self.recorder.tensors.apart |= not isinstance(args[0], torch.nn.Parameter)
        return func(*args)

    def _copy(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        if args and (func is not _PAD or not any(args[1] if len(args) > 1 else kwargs["pad"])):
            self.recorder.tensors.copied(args[0], output)
        return output

    def _made(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Python numbers on a CUDA device, as ``torch.tensor`` makes them but without its wait for all that is queued.

        After such a wait the device idles until the host has caught up, and with hooks that takes longer.
        """
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda" or kwargs.keys() - {"device", "dtype"}:
            return func(*args, **kwargs)
        numbers = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
        if len(numbers) > _FEW or not all(isinstance(number, (bool, int, float)) for number in numbers):
            return func(*args, **kwargs)
        source = func(*args, **{**kwargs, "device": "cpu"})
        self.sources.append(source)  # until the end, though CUDA reads pageable memory before the call returns
        return source.to(device, non_blocking=True)

    def _boundary(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, recorder = func.__name__, self.recorder
        owner = recorder.stack[-1].owner if recorder.stack else None
        if name in _NORMS and _is_norm(owner):
            return func(*args, **kwargs)
        where = recorder.stack[-1].call.module if recorder.stack else ""
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
    known = {module: (name, type(module).__name__) for name, module in model.named_modules()}

    # Without the mode of `_Functions`, which sees every look at a tensor too. A copy of a module that the forward makes
    # has the hooks and is not known.
    def before(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if module in known:
            with torch._C.DisableTorchFunction():
                recorder.begin(*known[module], (*args, kwargs) if kwargs else args, module)

    def after(module: torch.nn.Module, _: Any, __: Any, output: Any) -> None:
        if module in known:
            with torch._C.DisableTorchFunction():
                recorder.end(output)

    with _young_only():
        trace.modules.update({name: locate(module) for module, (name, _) in known.items()})
        try:
            with _hooked(known, before, after), _Functions(recorder):
                yield trace
        finally:
            trace.tensors.extend(recorder.tensors.finish())


@contextmanager
def _hooked(
    modules: Iterable[torch.nn.Module], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """The hooks of all modules, as ``register_forward_hook`` and its sister put them there, under one number.

    Registering them one by one takes as long as all else that has to be done before a forward.
    """
    number = RemovableHandle(OrderedDict()).id
    tables = [
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, module._forward_hooks,
         module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
        for module in modules
    ]  # fmt: skip
    try:
        for pre, pre_with_kwargs, post, post_with_kwargs, always in tables:
            pre[number], post[number] = before, after
            pre_with_kwargs[number] = post_with_kwargs[number] = always[number] = True
        yield
    finally:
        for hooks in tables:
            for table in hooks:
                table.pop(number, None)


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
