"""In which dtype a forward computes what matters for precision, and which attention kernels it ran.

One forward is watched from below: a dispatch mode sees the ATen operations as they reach the device, after autocast,
promotion and every cast, so that what is noted is what was computed and not what was asked for. Each operation belongs
to the innermost module whose forward was running. Which operation is a norm, a rotation or a residual addition is
recognised by what is computed (`roles`), not by the names of classes or functions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .audit import flags
from .roles import IN_KERNEL, Frame, Roles, bits, label

_FUSED = {
    "_scaled_dot_product_flash_attention": "sdpa-flash",
    "_scaled_dot_product_flash_attention_for_cpu": "sdpa-flash-cpu",
    "_scaled_dot_product_efficient_attention": "sdpa-efficient",
    "_scaled_dot_product_cudnn_attention": "sdpa-cudnn",
    "_scaled_dot_product_fused_attention_overrideable": "sdpa-overrideable",
    "_flash_attention_forward": "sdpa-flash",
    "_efficient_attention_forward": "sdpa-efficient",
    "_cudnn_attention_forward": "sdpa-cudnn",
}
"""ATen's fused attention operations, and how they are called in results."""
_ATTENTION_WORDS = ("attn", "attention", "sage", "fmha", "mha_fwd")
BY_HAND, MATH, UNSEEN = "by-hand", "sdpa-math", "not a torch operation"


@dataclass
class Observation:
    """What one forward did, module by module; modules are qualified names, ``""`` is the root.

    Attributes:
        roles: Module -> role -> dtype -> number of operations. ``bfloat16 (float32 inside)``: a fused kernel takes and
            returns bfloat16 and accumulates in float32.
        kernels: Module -> attention kernel -> number of calls.
        modules: Names of the modules that were called.
        autocast: Module -> autocast's dtype or ``off`` while it ran.
        flags: Global switches as loading left them (``load``) and as they were inside the forward (``forward``).
        final: Module and dtype of the last matrix product or convolution.
    """

    roles: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    kernels: dict[str, dict[str, int]] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    autocast: dict[str, str] = field(default_factory=dict)
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    final: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the observation as JSON."""
        path.write_text(json.dumps(vars(self)))

    @classmethod
    def load(cls, path: Path) -> Observation:
        """Read what `save` wrote; an empty observation when nothing could be observed."""
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def add(self, module: str, role: str, dtype: str) -> None:
        """Count one operation."""
        dtypes = self.roles.setdefault(module, {}).setdefault(role, {})
        dtypes[dtype] = dtypes.get(dtype, 0) + 1

    def ran(self, module: str, kernel: str) -> None:
        """Count one call of an attention kernel."""
        kernels = self.kernels.setdefault(module, {})
        kernels[kernel] = kernels.get(kernel, 0) + 1


class _Watcher:
    """Shared state of the two modes: the stack of running modules, and whether torch's attention is running."""

    def __init__(self, model: torch.nn.Module, seen: Observation) -> None:
        self.seen = seen
        self.roles = Roles(model, seen.add)
        self.stack: list[Frame] = [Frame("", container=True)]
        self.inside: list[Counter[str]] = []

    @property
    def frame(self) -> Frame:
        return self.stack[-1]

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        name = str(getattr(func, "__name__", func)).partition(".")[0]
        namespace = str(getattr(func, "namespace", ""))
        kernel = _FUSED.get(name) if namespace == "aten" else None
        if kernel is None and namespace not in ("aten", "prim", "prims") and _is_attention(name, namespace):
            kernel = f"{namespace}::{name}" if namespace else name
        if kernel is not None and self.inside:
            self.inside[-1][kernel] += 1
        elif kernel is not None:
            self.seen.ran(self.frame.name, kernel)
        elif not self.inside:  # what torch's own attention decomposes into is torch's business
            self.roles.saw(self.frame, name, args, kwargs, output)
            if self.frame.finished_attention():
                self.seen.ran(self.frame.name, BY_HAND)

    def begin(self, name: str, module: torch.nn.Module, device: str) -> None:
        self.stack.append(Frame(name, container=next(module.children(), None) is not None))
        if name not in self.seen.autocast:
            on = torch.is_autocast_enabled(device)
            self.seen.autocast[name] = label(torch.get_autocast_dtype(device)) if on else "off"
            self.seen.modules.append(name)
        if "forward" not in self.seen.flags:
            self.seen.flags["forward"] = switches()

    def end(self) -> None:
        frame = self.stack.pop()
        self.roles.close(frame)
        self.stack[-1].take(frame)


def _is_attention(name: str, namespace: str) -> bool:
    text = f"{namespace}::{name}".lower()
    return any(word in text for word in _ATTENTION_WORDS) and "norm" not in name and "backward" not in name


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch's base class imports torch._dynamo at the first operation: 2 s in each process of a side."""
        return False

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watcher = watcher

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and isinstance(func, torch._ops.OpOverload):
            with self:  # inference mode hands composite operations on whole
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        self.watcher.operation(func, args, kwargs, output)
        return output


class _Attention(TorchFunctionMode):
    """Sees the calls of torch's attention; a call below which no fused kernel is dispatched was math."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") != "scaled_dot_product_attention":
            return func(*args, **(kwargs or {}))
        watcher = self.watcher
        watcher.inside.append(Counter())
        try:
            output = func(*args, **(kwargs or {}))
        finally:
            kernels = watcher.inside.pop()
        for kernel in kernels or {MATH: 1}:
            watcher.seen.ran(watcher.frame.name, kernel)
        query = args[0] if args else (kwargs or {}).get("query")
        if isinstance(query, torch.Tensor):
            dtype = label(query.dtype)
            watcher.seen.add(watcher.frame.name, "attention", dtype)
            watcher.seen.add(watcher.frame.name, "softmax", f"{max(dtype, 'float32', key=bits)} {IN_KERNEL}")
        return output


def switches() -> dict[str, Any]:
    """The global numeric switches, and which of torch's attention kernels are allowed."""
    backends = torch.backends.cuda
    return {
        **flags(),
        "flash_sdp": backends.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        "mem_efficient_sdp": backends.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
        "math_sdp": backends.math_sdp_enabled(),  # type: ignore[no-untyped-call]
    }


@contextmanager
def observing(model: torch.nn.Module, device: str) -> Iterator[Observation]:
    """Watch the forward inside the block; the model's hooks are removed at the end.

    Args:
        model: The model whose modules are watched.
        device: Type of the device that it runs on, for autocast's state.
    """
    seen = Observation()
    watcher = _Watcher(model, seen)
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, __: Any) -> None:
            watcher.begin(name, module, device)

        def after(_: torch.nn.Module, __: Any, ___: Any) -> None:
            watcher.end()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, always_call=True))

    for name, module in model.named_modules():
        watch(name, module)
    try:
        with _Attention(watcher), _Dispatch(watcher):
            yield seen
    finally:
        for handle in handles:
            handle.remove()
    while watcher.stack:
        watcher.roles.close(watcher.stack.pop())
    seen.final = watcher.roles.final
    _parameters(model, seen)
    _unseen_attention(model, seen)


def _parameters(model: torch.nn.Module, seen: Observation) -> None:
    """Floating dtypes of every called module's own parameters and buffers."""
    for name in seen.modules:
        part = model.get_submodule(name)
        for role, tensors in (("parameters", part._parameters), ("buffers", part._buffers)):
            for tensor in tensors.values():
                if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
                    seen.add(name, role, label(tensor.dtype))


def _unseen_attention(model: torch.nn.Module, seen: Observation) -> None:
    """A layer that resolved an attention class and ran no operation that torch knows (a kernel called directly)."""
    for name in seen.modules:
        implementation = getattr(model.get_submodule(name), "attn_impl", None)
        below = f"{name}."
        if implementation is not None and not any(other == name or other.startswith(below) for other in seen.kernels):
            seen.ran(name, f"{type(implementation).__name__} ({UNSEEN})")
