"""Other modules called, and other operands taken, than the suspect's code does: changes of calls for a trial.

Candidates come from one recorded run (`pool.Pool`): calls of modules, torch calls, tensors at hand. The nearest to the
place that is measured come first.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from .leaves import leaves, swap_leaf
from .passing import apart
from .pool import FRAMES, Call, Pool, broadcasts, first_tensor, handed_to, named_arguments
from .variant import Variant, after, op_name

Alone = Callable[[], AbstractContextManager[Any]]
_ORDINALS = ("first", "second")
_SUMS = ("add", "sub", "mul", "addcmul")
_SHAPES = ("squeeze", "unsqueeze", "view", "reshape", "flatten", "unflatten", "transpose", "permute", "contiguous")
"""What changes no value comes after what does: the same sum is the same one operation earlier."""
_MOST_PERMUTED = 4
_MOST_HANDED = 200
_MOST_OPERANDS = 300


@dataclass(frozen=True)
class Rewiring:
    """One call of a module made otherwise.

    Attributes:
        words: What is different.
        module, occurrence: The call.
        file, line: Where it is made.
        handed: Makes other inputs of them, or none. The values are as for `passing.Act`.
        returned: Makes the result ``returned(inputs, output)``, or none.
        raw: The port's own inputs are needed, not the official ones of the module that is called.
    """

    words: str
    module: str
    occurrence: int
    file: str
    line: int
    handed: Callable[[Any], Any] | None = None
    returned: Callable[[Any, Any], Any] | None = None
    raw: bool = False


@dataclass(frozen=True)
class Op:
    """One torch call of the suspect's own code that returned floating tensors.

    Attributes:
        number: Which of its torch calls.
        name, file, line: What it is and where.
        operands: The tensors among its first two arguments, by position.
        results: The tensors that it returned.
        before: Number of calls of modules that had begun.
        parts: The tensors in its first argument, where that is a list.
    """

    number: int
    name: str
    file: str
    line: int
    operands: tuple[tuple[int, torch.Tensor], ...]
    results: tuple[torch.Tensor, ...]
    before: int
    parts: tuple[torch.Tensor, ...] = ()

    @property
    def result(self) -> torch.Tensor | None:
        """What it returned; none for several tensors."""
        return self.results[0] if len(self.results) == 1 else None


def op_of(
    number: int, function: Any, args: tuple[Any, ...], result: Any, file: str, line: int, before: int
) -> Op | None:
    """The record of a torch call; none if it makes no floating tensor."""
    made = tuple(tensor for _, tensor in leaves(result) if tensor.is_floating_point() and tensor.ndim)
    if not made:
        return None
    operands = tuple((place, value) for place, value in enumerate(args[:2]) if isinstance(value, torch.Tensor))
    listed = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    parts = tuple(value for value in listed if isinstance(value, torch.Tensor))
    return Op(number, op_name(function), file, line, operands, made, before, parts)


def rewirings(pool: Pool, partner: set[str], called: set[str], alone: Alone) -> Iterator[tuple[Rewiring, ...]]:
    """Other modules at the calls of the suspect's code, the last call first.

    Args:
        pool: What was recorded.
        partner: Modules whose inputs are official ones: no other arguments are tried there.
        called: Modules that a whole forward calls.
        alone: Runs a module without the hooks' doing anything.
    """
    modules = dict(pool.modules())
    calls = list(reversed(pool.calls))
    for call in calls:
        for change in (*_unpacked(call), *_siblings(call, modules, alone)):
            yield (change,)
    yield from _exchanged(calls, modules, alone)
    idle = {name: m for name, m in modules.items() if name not in called or next(m.parameters(), None) is None}
    for call in calls:
        for change in _followed(call, idle, alone):
            yield (change,)
    for call in calls:
        for change in _skipped(call, modules, alone):
            yield (change,)
    for call in calls:
        for change in _remembered(call, pool):
            yield (change,)
    handed = (change for call in calls if call.module not in partner for change in _handed(call, pool))
    for change in itertools.islice(handed, _MOST_HANDED):
        yield (change,)


def _unpacked(call: Call) -> Iterator[Rewiring]:
    """What a module returns as a tuple, taken in another order: two exchanged, or the halves (text before video)."""
    parts = call.returned if isinstance(call.returned, (tuple, list)) else ()
    if len(parts) < 2 or not all(isinstance(part, torch.Tensor) and part.shape == parts[0].shape for part in parts):
        return
    count = len(parts)
    orders = [tuple({a: b, b: a}.get(i, i) for i in range(count)) for a, b in itertools.combinations(range(count), 2)]
    if count > 2 and count % 2 == 0:
        orders += [(*range(count // 2, count), *range(count // 2))]
    for order in orders:
        moved = [i for i in range(count) if order[i] != i]
        if all(torch.equal(parts[i], parts[order[i]]) for i in moved):
            continue

        def returned(_: Any, output: Any, order: tuple[int, ...] = order) -> Any:
            return type(output)(output[i] for i in order)

        words = (
            f"numbers {moved[0] + 1} and {moved[1] + 1} of the {count} tensors that `{call.module}` returns exchanged"
            if len(moved) == 2
            else f"the last half of the {count} tensors that `{call.module}` returns taken for the first"
        )
        yield Rewiring(words, call.module, call.occurrence, call.file, call.line, returned=returned)


def _exchanged(
    calls: list[Call], modules: dict[str, torch.nn.Module], alone: Alone
) -> Iterator[tuple[Rewiring, Rewiring]]:
    """Each of two calls made of the other's module."""
    for second, first in itertools.combinations(calls, 2):
        both = {name: modules[name] for name in (first.module, second.module) if name in modules}
        one, other = next(_siblings(first, both, alone), None), next(_siblings(second, both, alone), None)
        if one is not None and other is not None:
            words = f"`{first.module}` and `{second.module}` called in the place of each other"
            yield replace(one, words=words), other


def _siblings(call: Call, modules: dict[str, torch.nn.Module], alone: Alone) -> Iterator[Rewiring]:
    """Another module of the same class and sizes in the place of the one that is called."""
    mine = modules.get(call.module)
    for name, other in modules.items():
        if mine is None or other is mine or type(other) is not type(mine) or _shapes(other) != _shapes(mine):
            continue

        def returned(values: Any, _: Any, other: torch.nn.Module = other) -> Any:
            args, kwargs = apart(values)
            with alone():
                return other.forward(*args, **kwargs)

        words = f"`{name}` called in the place of `{call.module}`"
        yield Rewiring(words, call.module, call.occurrence, call.file, call.line, returned=returned, raw=True)


def _followed(call: Call, idle: dict[str, torch.nn.Module], alone: Alone) -> Iterator[Rewiring]:
    """The result passed through a module that is not called, or one without weights (an activation)."""
    for name, other in idle.items():
        if name == call.module:
            continue

        def returned(_: Any, output: Any, other: torch.nn.Module = other) -> Any:
            leaf, tensor = next(pair for pair in leaves(output) if pair[1].is_floating_point())
            return swap_leaf(output, leaf, _through(other, alone, tensor))

        words = f"what `{call.module}` returns passed through `{name}`"
        yield Rewiring(words, call.module, call.occurrence, call.file, call.line, returned=returned)


def _skipped(call: Call, modules: dict[str, torch.nn.Module], alone: Alone) -> Iterator[Rewiring]:
    module, output = modules.get(call.module), call.returned
    given = first_tensor(call.args)
    if module is None or given is None or not isinstance(output, torch.Tensor) or output.shape != given.shape:
        return
    place = call.module, call.occurrence, call.file, call.line

    def first(values: Any, _: Any) -> Any:
        return first_tensor(values)

    def again(values: Any, output: Any) -> Any:
        args, kwargs = apart(values)
        with alone():
            return module.forward(output, *args[1:], **kwargs)

    yield Rewiring(f"`{call.module}` left out", *place, returned=first)
    yield Rewiring(f"`{call.module}` called twice", *place, returned=again)


def _handed(call: Call, pool: Pool) -> Iterator[Rewiring]:
    """Another tensor at hand in the place of an argument, the nearest first."""
    module = pool.model.get_submodule(call.module)
    given = named_arguments(module, call.args, call.kwargs)
    yield from _reordered(call, given)
    number = pool.calls.index(call)
    for item in pool.known(before=number):
        for leaf, name, tensor in given:
            if not _exchangeable(item.tensor, tensor):
                continue

            def handed(values: Any, leaf: str = leaf, other: torch.Tensor = item.tensor) -> Any:
                return swap_leaf(values, leaf, other)

            words = f"{item.words} handed to `{call.module}` as its `{name}`"
            yield Rewiring(words, call.module, call.occurrence, call.file, call.line, handed=handed)


def _remembered(call: Call, pool: Pool) -> Iterator[Rewiring]:
    """The last frames that a module was handed before, as the argument that it is not handed (a causal cache)."""
    parameters = list(inspect.signature(pool.model.get_submodule(call.module).forward).parameters.values())
    place = next((i for i, value in enumerate(call.args) if value is None), len(call.args))
    tensor = first_tensor(call.args)
    if place >= len(parameters) or tensor is None or call.kwargs or parameters[place].default is not None:
        return
    for count in range(FRAMES, 0, -1):
        frames = pool.remembered(handed_to(call.module), tensor, count)
        if frames is not None and (count == FRAMES or pool.frames[handed_to(call.module)].shape[2] == FRAMES):

            def handed(values: Any, frames: torch.Tensor = frames) -> Any:
                return (*values[:place], frames, *values[place + 1 :])

            words = f"the last {count} of the frames that `{call.module}` was handed before (zeros before the first)"
            words += f" handed to it as its `{parameters[place].name}`"
            yield Rewiring(words, call.module, call.occurrence, call.file, call.line, handed=handed)


def remembered_parts(ops: Sequence[Op], pool: Pool) -> Iterator[tuple[str, int, Variant, str, int]]:
    """Before a chunk of frames, the last frames of the chunk before as a part of what is joined; as `forgotten`."""
    for op in reversed(ops):
        if op.name != "cat" or len(op.parts) != 2:
            continue
        first, chunk = op.parts
        name = pool.words_of(chunk)
        frames = pool.remembered(name, chunk, first.shape[2]) if first.ndim == 5 and first.shape[2] <= FRAMES else None
        if frames is None or frames.shape != first.shape:
            continue

        def change(f: Any, a: Any, k: Any, frames: torch.Tensor = frames) -> Any:
            return f([frames, a[0][1]], *a[1:], **k)

        words = f"{op.name}: the last {first.shape[2]} of the frames of {name} in the call before as its first part"
        yield words, op.number, Variant(words, change), op.file, op.line


def _reordered(call: Call, given: list[tuple[str, str, torch.Tensor]]) -> Iterator[Rewiring]:
    """Arguments of one shape in every other order; of more than `_MOST_PERMUTED`, two exchanged."""
    groups: dict[torch.Size, list[int]] = {}
    for number, (_, _, tensor) in enumerate(given):
        if tensor.is_floating_point() and tensor.numel() > 1:
            groups.setdefault(tensor.shape, []).append(number)
    for places in groups.values():
        pairs = [{a: b, b: a} for a, b in itertools.combinations(places, 2)]
        orders = [tuple(pair.get(place, place) for place in places) for pair in pairs]
        if len(places) <= _MOST_PERMUTED:
            orders += [order for order in itertools.permutations(places) if order not in orders]
        for order in orders:
            moved = [(a, b) for a, b in zip(places, order, strict=True) if not torch.equal(given[a][2], given[b][2])]
            if moved:

                def handed(values: Any, moved: list[tuple[int, int]] = moved) -> Any:
                    tensors = dict(leaves(values))
                    for a, b in moved:
                        values = swap_leaf(values, given[a][0], tensors[given[b][0]])
                    return values

                which = ", ".join(f"its `{given[a][1]}` what is now its `{given[b][1]}`" for a, b in moved)
                words = f"`{call.module}` handed as {which}"
                yield Rewiring(words, call.module, call.occurrence, call.file, call.line, handed=handed)


def forgotten(ops: Sequence[Op], pool: Pool) -> Iterator[tuple[str, int, Variant, str, int]]:
    """An argument or parameter that the code does nothing with: added to or multiplied with a result or an operand.

    Yields:
        Words of the trial, number of the torch call, the change, file and line.
    """
    joins: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
        ("{x} times {t}", lambda x, t: x * t),
        ("{x} plus {t}", lambda x, t: x + t),
        ("{x} times (1 + {t})", lambda x, t: x * (1 + t)),
    )
    nearest = list(reversed(ops))
    nearest.sort(key=lambda op: op.name in _SHAPES)
    given = {id(item.tensor) for item in pool.arguments()}
    for item in pool.unused():
        for op in nearest:
            for words, join in joins:
                if op.result is not None and broadcasts(item.tensor, op.result):

                    def result(f: Any, a: Any, k: Any, join: Any = join, t: torch.Tensor = item.tensor) -> Any:
                        return join(f(*a, **k), t)

                    change = Variant(words.format(x="its result", t=item.words), result)
                    yield f"{op.name}: {change.words}", op.number, change, op.file, op.line
                for place, operand in op.operands:
                    if (op.name in _SUMS or id(operand) in given) and broadcasts(item.tensor, operand):
                        change = Variant(
                            words.format(x=f"its {_ORDINALS[place]} operand", t=item.words),
                            _operand(place, partial(_joined, join, item.tensor)),
                        )
                        yield f"{op.name}: {change.words}", op.number, change, op.file, op.line


def passed_through(
    ops: Sequence[Op], pool: Pool, called: set[str], alone: Alone
) -> Iterator[tuple[str, int, Variant, str, int]]:
    """An operand or a result passed through a module that a whole forward does not call; as `forgotten`."""
    idle = [(name, module) for name, module in pool.modules() if name not in called]
    for (name, module), op in itertools.islice(itertools.product(idle, reversed(ops)), _MOST_OPERANDS):
        through = partial(_through, module, alone)
        changes = [
            Variant(f"its {_ORDINALS[place]} operand passed through `{name}`", _operand(place, through))
            for place, operand in op.operands
            if operand.is_floating_point()
        ]
        if op.result is not None:
            changes.append(Variant(f"its result passed through `{name}`", after(through)))
        for change in changes:
            yield f"{op.name}: {change.words}", op.number, change, op.file, op.line


def _through(module: torch.nn.Module, alone: Alone, tensor: torch.Tensor) -> torch.Tensor:
    """What a module makes of a tensor.

    Raises:
        ValueError: It is of another shape.
    """
    with alone():
        made = first_tensor(module.forward(tensor))
    if made is None or made.shape != tensor.shape:
        raise ValueError("the module makes something else of it")
    return made


def resplit(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Two parts of unequal size cut from the other ends."""
    if not isinstance(result, (tuple, list)) or len(result) != 2 or op_name(function) != "split":
        return
    if not all(isinstance(part, torch.Tensor) for part in result):
        return
    axes = [d for d in range(result[0].ndim) if result[0].shape[d] != result[1].shape[d]]
    if len(axes) != 1:
        return
    axis, sizes = axes[0], [part.shape[axes[0]] for part in result]

    def change(f: Any, a: Any, k: Any) -> Any:
        second, first = torch.split(a[0], sizes[::-1], dim=axis)
        return first, second

    yield Variant(f"the part of {sizes[1]} cut off first, then that of {sizes[0]}", change)


def other_operands(ops: Sequence[Op], pool: Pool) -> Iterator[tuple[str, int, Variant, str, int]]:
    """Another tensor at hand as an operand of a sum or product, the last torch calls first; as `forgotten`."""
    tried = 0
    for op in reversed(ops):
        if op.name not in _SUMS or len(op.operands) < 2:
            continue
        for item in pool.known(before=op.before):
            for place, operand in op.operands:
                late = item.file == op.file and item.line >= op.line and item.line > 0
                if late or not _exchangeable(item.tensor, operand):
                    continue
                tried += 1
                if tried > _MOST_OPERANDS:
                    return
                words = f"{item.words} as its {_ORDINALS[place]} operand"
                change = Variant(words, _operand(place, partial(_other, item.tensor)))
                yield f"{op.name}: {words}", op.number, change, op.file, op.line


def _joined(join: Callable[[Any, Any], Any], tensor: torch.Tensor, x: Any) -> Any:
    return join(x, tensor)


def _other(tensor: torch.Tensor, _: Any) -> torch.Tensor:
    return tensor


def _operand(place: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
    def changed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args[:place], change(args[place]), *args[place + 1 :], **kwargs)

    return changed


def _exchangeable(other: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether one tensor may stand for another: one shape, floating, other values."""
    return (
        other is not tensor
        and other.shape == tensor.shape
        and other.is_floating_point()
        and tensor.is_floating_point()
        and tensor.numel() > 1
        and not torch.equal(other, tensor)
    )


def _shapes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters()]
