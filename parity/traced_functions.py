"""What a trace sees of functions that are not modules: attention, norms, copies and numbers sent to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from .leaves import leaves
from .recorder import Recorder

_NORMS = frozenset({"layer_norm", "rms_norm"})
_ATTENTION = "scaled_dot_product_attention"
BOUNDARIES = _NORMS | {_ATTENTION}
"""Functions that are traced like modules, where code leaves the module tree; a norm only outside a norm module."""
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_PAD = torch.nn.functional.pad
_COPIES = (torch.Tensor.float, torch.Tensor.to, torch.Tensor.contiguous, torch.Tensor.clone, torch.clone, _PAD)
"""What may return the values of its first argument in other memory."""
_LENT = (torch.Tensor.data_ptr, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__)
"""What gives the memory of a tensor to others; Triton asks each tensor that a kernel gets for its address."""
_FEW = 64
"""Numbers, at most, that go to a device without waiting for it."""


class Functions(TorchFunctionMode):
    """Traces attention and norms like modules, and tells the recorder what has the values of what was seen."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.watched: dict[Any, Callable[..., Any] | None] = dict.fromkeys(_COPIES, self._copy)
        self.watched |= dict.fromkeys(_LENT, self._lent)
        self.watched |= {torch.tensor: self._made, _DATA: self._data}
        self.sources: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            watch = self.watched[func]
        except KeyError:
            watch = self.watched[func] = self._watch(func)
        if watch is not None:
            return watch(func, args, kwargs or {})
        return func(*args, **kwargs) if kwargs else func(*args)

    def _watch(self, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """What to do at a function that is called for the first time."""
        if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            return self._own_operator if _writes(func) else None
        return self._boundary if getattr(func, "__name__", "") in BOUNDARIES else None

    def _own_operator(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator that writes its arguments: one from a C++ library need not count that."""
        output = func(*args, **kwargs)
        for _, tensor in leaves((args, kwargs)):
            self.recorder.tensors.handed_out(tensor, for_good=False)
        return output

    def _lent(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.recorder.tensors.handed_out(args[0], for_good=func is not torch.Tensor.data_ptr)
        return func(*args, **kwargs)

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


def _writes(operator: torch._ops.OpOverload[Any, Any] | torch._ops.OpOverloadPacket[Any, Any]) -> bool:
    """Whether an operator, in any of its overloads, writes an argument."""
    if isinstance(operator, torch._ops.OpOverload):
        return operator._schema.is_mutable
    return any(getattr(operator, name)._schema.is_mutable for name in operator.overloads())  # type: ignore[no-untyped-call]


def _by_token(value: Any) -> Any:
    """Heads of shape (B, H, S, D) as (B, S, H, D), which in most code is the memory of a projection, seen before."""
    return value.transpose(1, 2) if isinstance(value, torch.Tensor) and value.ndim == 4 else value


def _is_norm(module: torch.nn.Module | None) -> bool:
    """Whether a module is a norm itself, so that a functional norm in it is no boundary of its own."""
    return module is not None and type(module).__name__.lower().endswith(("layernorm", "rmsnorm"))
