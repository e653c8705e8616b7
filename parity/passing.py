"""Look at, keep and replace what passes between a model's modules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open

from .leaves import leaves, swap_leaf
from .metrics import distance

Where = Literal["inputs", "outputs"]
Act = Callable[[str, int, Where, Any], Any]
"""``act(module, occurrence, where, values)``: what it returns, if not none, takes the place of the values."""


class Kwargs(dict[str, Any]):
    """The keyword arguments among the values of an `Act`; any other dict there is an argument."""


MASKED = -1e4
"""What additive masks add where nothing may be seen is less."""
NEAR = 0.5
"""Relative distance below which two tensors of one shape are meant to be the same, whatever their places."""


@contextmanager
def passing(
    model: torch.nn.Module,
    act: Act,
    names: Collection[str] | None = None,
    paused: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Call ``act`` with the inputs and the outputs of every call of a module while the block runs.

    Args:
        model: The model; its hooks are removed at the end.
        act: What to do; ``values`` is the tuple of arguments (keyword arguments as a last dict), or the output.
        names: Qualified names of the modules to watch; all of them when none.
        paused: While it is true, calls pass as if nobody watched, and are not counted: those that ``act`` makes.
    """
    begun: Counter[str] = Counter()
    open_calls: dict[str, list[int]] = defaultdict(list)
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> Any:
            if paused():
                return None
            occurrence = begun[name]
            begun[name] += 1
            open_calls[name].append(occurrence)
            changed = act(name, occurrence, "inputs", (*args, Kwargs(kwargs)) if kwargs else args)
            if changed is None:
                return None
            return apart(changed)

        def after(_: torch.nn.Module, __: Any, ___: Any, output: Any) -> Any:
            if paused():
                return None
            return act(name, open_calls[name].pop(), "outputs", output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))

    for name, module in model.named_modules():
        if names is None or name in names:
            watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def apart(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and keyword arguments of the values of an `Act`."""
    return (values[:-1], values[-1]) if values and isinstance(values[-1], Kwargs) else (values, {})


class Keeper:
    """Keeps copies of all that passes, on the CPU, up to a limit.

    Attributes:
        tensors: ``module|occurrence|where|leaf`` -> tensor.
        complete: Whether the limit sufficed.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.complete = True
        self._left = limit_bytes

    def __call__(self, module: str, occurrence: int, where: Where, values: Any) -> None:
        for leaf, tensor in leaves(values):
            if tensor.numel() < 2 or not tensor.is_floating_point() or tensor.device.type == "meta":
                continue
            self._left -= tensor.numel() * tensor.element_size()
            if self._left < 0:
                self.complete = False
                return
            self.tensors[f"{module}|{occurrence}|{where}|{leaf}"] = tensor.detach().to("cpu", copy=True).contiguous()


class Kept:
    """What a `Keeper` saved, read from its file."""

    def __init__(self, path: Path) -> None:
        self._file = cast(Any, safe_open(path, framework="pt"))
        self._names: dict[tuple[str, int, str], list[tuple[str, str]]] = defaultdict(list)
        names: list[str] = list(self._file.keys())
        for key in names:
            module, occurrence, where, leaf = key.split("|", 3)
            self._names[module, int(occurrence), where].append((leaf, key))

    def leaves(self, module: str, occurrence: int, where: Where) -> list[tuple[str, torch.Tensor]]:
        """The tensors of one call in their order."""
        names = sorted(self._names.get((module, occurrence, where), []), key=lambda pair: _order(pair[0]))
        return [(leaf, self._file.get_tensor(key)) for leaf, key in names]


def _order(leaf: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in leaf.replace("[", "]").split("]"))


class Forcer:
    """Puts the tensors of the official model in the place of the port's.

    Args:
        kept: The official tensors.
        partner: Port module -> official module.
        points: ``(module, where)`` to force; everything when none.

    Attributes:
        forced: How many tensors were put there.
        other_masks: ``(module, occurrence, leaf)`` of additive masks that kept out other positions than the official
            ones: no fingerprint shows which they keep out.
    """

    def __init__(
        self, kept: Kept, partner: Mapping[str, str], points: Collection[tuple[str, Where]] | None = None
    ) -> None:
        self.kept = kept
        self.partner = partner
        self.points = points
        self.forced = 0
        self.other_masks: list[tuple[str, int, str]] = []

    def __call__(self, module: str, occurrence: int, where: Where, values: Any) -> Any:
        if module not in self.partner or (self.points is not None and (module, where) not in self.points):
            return None
        theirs = self.kept.leaves(self.partner[module], occurrence, where)
        mine = [(leaf, t) for leaf, t in leaves(values) if t.numel() > 1 and t.is_floating_point()]
        own = dict(mine)
        for leaf, tensor in match(mine, theirs).items():
            if where == "inputs" and _keep_out_others(own[leaf], tensor):
                self.other_masks.append((module, occurrence, leaf))
            values = swap_leaf(values, leaf, tensor.clone())
            self.forced += 1
        return values


def _keep_out_others(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two additive masks, of minus infinity or very low numbers, keep out different positions."""
    first, second = (tensor.detach().squeeze().cpu() < MASKED for tensor in (mine, theirs))
    return bool((first.any() or second.any()) and first.shape == second.shape and (first != second).any())


def match(mine: list[tuple[str, torch.Tensor]], theirs: list[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Which of their tensors stands for which leaf of mine, with its axes in my order (see `in_my_axes`).

    Fields of one name (``last_hidden_state``), then the nearest values, then what is left: of one name (``[0]``), in
    its place.
    """
    found: dict[str, torch.Tensor] = {}
    left = dict(theirs)
    shapes = {leaf: tensor.shape for leaf, tensor in mine}

    def fits(leaf: str, name: str) -> bool:
        return in_my_axes(shapes[leaf], left[name]) is not None

    def take(leaf: str, name: str) -> None:
        aligned = in_my_axes(shapes[leaf], left.pop(name))
        assert aligned is not None
        found[leaf] = aligned

    for leaf, _ in mine:
        if leaf in left and not leaf.startswith("[") and leaf and fits(leaf, leaf):
            take(leaf, leaf)
    gaps = [
        (distance(tensor.detach().reshape(-1), aligned.reshape(-1)).relative_l2, leaf, name)
        for leaf, tensor in mine
        for name, other in left.items()
        if leaf not in found and (aligned := in_my_axes(tensor.shape, other)) is not None
    ]
    for gap, leaf, name in sorted(gaps):
        if gap < NEAR and leaf not in found and name in left:
            take(leaf, name)
    for leaf, _ in mine:
        if leaf not in found and leaf in left and fits(leaf, leaf):
            take(leaf, leaf)
    rest = [leaf for leaf, _ in mine if leaf not in found]
    if len(rest) == len(left):
        for leaf, name in zip(rest, list(left), strict=True):
            if fits(leaf, name):
                take(leaf, name)
    return found


def in_my_axes(shape: Sequence[int], other: torch.Tensor) -> torch.Tensor | None:
    """``other`` if it has this shape but for axes of length 1; with its inner axes exchanged if that makes it so.

    FastVideo keeps heads behind tokens, diffusers before them. The last axis stays, and no two of the axes that move
    may be equally long: else nothing says which is which.
    """
    mine, theirs = [n for n in shape if n != 1], [n for n in other.shape if n != 1]
    if mine == theirs:
        return other
    if len(mine) != len(theirs) or mine[-1:] != theirs[-1:]:
        return None
    moved = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    inner = slice(moved[0], moved[-1] + 1)
    if sorted(mine[inner]) != sorted(theirs[inner]) or len(set(mine[inner])) != len(mine[inner]):
        return None
    order = list(range(len(mine)))
    order[inner] = [moved[0] + theirs[inner].index(size) for size in mine[inner]]
    return other.reshape(theirs).permute(order).contiguous().reshape(tuple(shape))
