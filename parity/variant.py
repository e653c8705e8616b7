"""Another way to make one torch call, and the small changes of which such ways are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[..., Any]
Change = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]

_NAMES = {
    "radd": "add",
    "iadd": "add",
    "add_": "add",
    "rmul": "mul",
    "imul": "mul",
    "mul_": "mul",
    "multiply": "mul",
    "isub": "sub",
    "sub_": "sub",
    "truediv": "div",
    "itruediv": "div",
    "div_": "div",
    "rpow": "pow",
    "rpow__": "pow",
    "concat": "cat",
    "concatenate": "cat",
    "split_with_sizes": "split",
    "swapaxes": "transpose",
    "clip": "clamp",
    "setitem": "getitem",
    "masked_fill_": "masked_fill",
}


@dataclass(frozen=True)
class Variant:
    """One other way to make a call.

    Attributes:
        words: What is different, to follow "with".
        change: Makes the call ``change(function, args, kwargs)``.
        together: The variant makes sense only at all calls like this one at once (both halves of a rotation).
    """

    words: str
    change: Change
    together: bool = False


def op_name(function: Call) -> str:
    """The plain name of a torch function, method or operator: ``add`` for ``Tensor.__radd__``."""
    name = str(getattr(function, "__name__", "")).strip("_")
    return _NAMES.get(name, name)


def with_argument(position: int, value: Any) -> Change:
    """The call with another positional argument."""

    def change(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args[:position], value, *args[position + 1 :], **kwargs)

    return change


def with_keywords(**changed: Any) -> Change:
    """The call with other keyword arguments."""
    return lambda function, args, kwargs: function(*args, **{**kwargs, **changed})


def given(position: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], default: Any = None) -> Any:
    """An argument that may stand at its place or under its name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def set_to(position: int, name: str, value: Any) -> Change:
    """The call with another value of an argument that may stand at its place or under its name."""

    def change(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > position:
            return function(*args[:position], value, *args[position + 1 :], **kwargs)
        return function(*args, **{**kwargs, name: value})

    return change


def argument(position: int) -> Change:
    """No call: one of its arguments is the result."""
    return lambda function, args, kwargs: args[position]


def after(change: Callable[[Any], Any]) -> Change:
    """The call, and something more done to its result."""
    return lambda function, args, kwargs: change(function(*args, **kwargs))


def of_first(change: Callable[..., Any]) -> Change:
    """Another function of the first argument."""
    return lambda function, args, kwargs: change(args[0])


def is_number(value: Any) -> bool:
    """Whether it is a Python number and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def operands(args: tuple[Any, ...]) -> tuple[list[int], list[int]]:
    """Positions of the numbers and of the tensors among the first two arguments."""
    pair = range(min(2, len(args)))
    return [i for i in pair if is_number(args[i])], [i for i in pair if isinstance(args[i], torch.Tensor)]


def swap_last(value: torch.Tensor) -> torch.Tensor:
    """The last two axes exchanged."""
    return value.transpose(-1, -2)
