"""Record what every module of a model receives and returns, by hooks."""

from __future__ import annotations

import gc
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from .recorder import Recorder
from .sketch import HALVES
from .trace import ModuleInfo, Trace
from .traced_functions import Functions


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
    recorder = Recorder(trace, sketches, narrow)
    known = {module: (name, type(module).__name__) for name, module in model.named_modules()}

    # Without the mode of `Functions`, which sees every look at a tensor too. A copy of a module that the forward makes
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
            with _hooked(known, before, after), Functions(recorder):
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
