"""The tensors that a suspect's code has at hand: what an operand, an argument or a result may have been meant to be."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .leaves import leaves

_MOST = 400
"""Tensors that are kept at most; the last ones, which are nearest to the mistake."""
FRAMES = 2
"""That causal convolutions keep of the chunk before."""
_MOST_BYTES = 1 << 28
"""Of frames of earlier calls."""


@dataclass(frozen=True, eq=False)
class Known:
    """One tensor at hand.

    Attributes:
        tensor: As it lies, not copied.
        words: What it is, for a person who reads the suspect's code.
        file, line: Where it is made; empty and 0 for parameters.
        before: Number of calls of modules that the suspect had begun when the tensor was there.
    """

    tensor: torch.Tensor
    words: str
    file: str = ""
    line: int = 0
    before: int = 0
    version: int = 0

    @property
    def intact(self) -> bool:
        """Whether nothing was written into it since."""
        return self.tensor._version == self.version


@dataclass(eq=False)
class Call:
    """One call of a module by the suspect's own code.

    Attributes:
        module, occurrence: Which call.
        args, kwargs: What it was handed, after official tensors took their places.
        returned: What it returned, or none while it runs.
        file, line: Where it is called.
    """

    module: str
    occurrence: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    file: str
    line: int
    returned: Any = None


class Pool:
    """What one call of the suspect has at hand, collected while it runs.

    Attributes:
        calls: The calls of modules that its own code made.
        used: Identities of the tensors that its code took as an operand or handed on.
        frames: What a tensor is, in words -> its last frames in the calls of the suspect before this one
            (`remembered`).
    """

    def __init__(self, model: torch.nn.Module, scope: str) -> None:
        self.model = model
        self.scope = scope
        self.calls: list[Call] = []
        self.used: set[int] = set()
        self.frames: dict[str, torch.Tensor] = {}
        self._made: list[Known] = []
        self._arguments: list[Known] = []

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Another call of the suspect: what an earlier one had at hand is forgotten, but for its last frames."""
        for words, tensor in self._named():
            self._remember(words, tensor)
        self.calls, self.used, self._made = [], set(), []
        self._arguments = []
        for _, name, tensor in named_arguments(self.model.get_submodule(self.scope), args, kwargs):
            self._arguments.append(self._known(tensor, f"the argument `{name}` of {self.scope or 'the model'}"))

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Words and tensor of what the call made and handed to modules."""
        yield from ((item.words, item.tensor) for item in self._made if item.intact)
        for call in self.calls:
            tensor = first_tensor(call.args)
            if tensor is not None:
                yield handed_to(call.module), tensor

    def _remember(self, words: str, tensor: torch.Tensor) -> None:
        """Keep the last frames of a video, behind those of the calls before."""
        if tensor.ndim != 5 or not tensor.is_floating_point() or tensor.device.type == "meta":
            return
        last, before = tensor[:, :, -FRAMES:], self.frames.pop(words, None)
        if before is not None and before[:, :, :0].shape == last[:, :, :0].shape:
            last = torch.cat([before.to(last), last], dim=2)[:, :, -FRAMES:]
        if last.nbytes + sum(kept.nbytes for kept in self.frames.values()) <= _MOST_BYTES:
            self.frames[words] = last.clone()

    def remembered(self, words: str, like: torch.Tensor, count: int) -> torch.Tensor | None:
        """The last ``count`` frames (axis 2) of a tensor in the calls before, zeros before the first; none unknown.

        Args:
            words: What the tensor is.
            like: A tensor of [batch, channels, frames, height, width] with the same sizes but for the frames.
            count: At most `FRAMES`.
        """
        kept = self.frames.get(words)
        if kept is None or like.ndim != 5 or kept[:, :, :0].shape != like[:, :, :0].shape:
            return None
        zeros = kept.new_zeros(*kept.shape[:2], count, *kept.shape[3:])
        return torch.cat([zeros, kept], dim=2)[:, :, -count:]

    def words_of(self, tensor: torch.Tensor) -> str:
        """What a tensor is that the suspect's code made; empty if it is not known."""
        return next((item.words for item in reversed(self._made) if item.tensor is tensor), "")

    def made(self, value: Any, words: str, file: str, line: int) -> None:
        """A torch call or a module returned ``value``."""
        found = [(leaf, tensor) for leaf, tensor in leaves(value) if tensor.ndim or tensor.dtype != torch.float64]
        for leaf, tensor in found:
            if any(tensor is item.tensor for item in self._arguments):
                continue  # a cast that had nothing to do: it keeps its name
            which = f"{leaf} of {words}" if len(found) > 1 else words
            self._made.append(self._known(tensor, f"{which} (line {line})", file, line))
        del self._made[:-_MOST]

    def use(self, values: Any) -> None:
        """The suspect's code does something with the tensors in ``values``."""
        self.used.update(id(tensor) for _, tensor in leaves(values))

    def known(self, before: int | None = None) -> list[Known]:
        """All that is at hand (before a call of a module began), the nearest first, each tensor once.

        Results, then arguments, then parameters.
        """
        seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        found = []
        for item in (*reversed(self._made), *self._arguments, *self.parameters()):
            tensor = item.tensor
            key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
            late = before is not None and item.before > before
            if item.intact and not late and tensor.device.type != "meta" and key not in seen:
                seen.add(key)
                found.append(item)
        return found

    def arguments(self) -> list[Known]:
        """The tensors that the suspect was handed."""
        return self._arguments

    def unused(self) -> list[Known]:
        """Arguments and parameters with which the suspect's code does nothing."""
        return [
            item
            for item in (*self._arguments, *self.parameters())
            if id(item.tensor) not in self.used and item.tensor.is_floating_point() and item.tensor.numel() > 1
        ]

    def parameters(self) -> Iterator[Known]:
        """The suspect's own parameters and buffers, and those of modules in it that it did not call."""
        owner = self.model.get_submodule(self.scope)
        called = {call.module for call in self.calls}
        idle = [(name, module) for name, module in self.modules() if name not in called]
        own = itertools.chain(owner.named_parameters(recurse=False), owner.named_buffers(recurse=False))
        for leaf, tensor in own:
            yield self._known(tensor, f"`{leaf}`")
        for name, module in idle:
            inside = name.removeprefix(f"{self.scope}.")
            for leaf, tensor in itertools.islice(itertools.chain(module.named_parameters(), module.named_buffers()), 8):
                yield self._known(tensor, f"`{inside}.{leaf}`")

    def modules(self) -> list[tuple[str, torch.nn.Module]]:
        """The modules that the suspect's own code may call: its children, through containers; names from the root."""
        return list(callable_children(self.model.get_submodule(self.scope), self.scope))

    def _known(self, tensor: torch.Tensor, words: str, file: str = "", line: int = 0) -> Known:
        return Known(tensor, words, file, line, len(self.calls), tensor._version)


def callable_children(owner: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Children with a forward of their own; those of lists and dicts in their place."""
    for name, child in owner.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from callable_children(child, path)
        else:
            yield path, child


def named_arguments(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, str, torch.Tensor]]:
    """The tensors of a call: leaf of `passing`'s values, the name in the signature of ``forward``, the tensor."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        names = []
    found = []
    for place, value in enumerate((*args, kwargs)):
        for leaf, tensor in leaves(value):
            if not tensor.ndim and tensor.dtype == torch.float64:
                continue  # a number
            inside = leaf if not leaf or leaf.startswith("[") else f".{leaf}"
            name = f"{names[place] if place < len(names) else f'[{place}]'}{inside}" if place < len(args) else leaf
            found.append((f"[{place}]{inside}", name, tensor))
    return found


def handed_to(module: str) -> str:
    """The words of the first tensor that a module is handed."""
    return f"what `{module}` is handed"


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first floating tensor of what a module returned."""
    return next((tensor for _, tensor in leaves(value) if tensor.is_floating_point() and tensor.ndim), None)


def broadcasts(small: torch.Tensor, large: torch.Tensor) -> bool:
    """Whether one tensor broadcasts to the shape of the other."""
    return small.ndim <= large.ndim and all(
        a in (1, b) for a, b in zip(reversed(small.shape), reversed(large.shape), strict=False)
    )
