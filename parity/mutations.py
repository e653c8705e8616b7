"""The usual mistakes as changes of single torch calls: what else a port's author may have meant by this call.

Every variant is a sentence for a person and a function that makes the call in the other way. They are tried on a
suspect (`trials.search`), never written to a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

Call = Callable[..., Any]
Change = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-4, 1e-3, 1e-7, 0.0)
THETAS = (10000.0, 256.0, 500000.0, 1000000.0, 1000.0)
_SMALL = 1e-2
_QUICK = 1.702
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


def variants(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """What else this call may have been meant to be; looks at shapes and numbers, keeps no tensor."""
    family = _FAMILIES.get(op_name(function))
    if family is not None:
        yield from family(function, args, kwargs, result)


def _with(position: int, value: Any) -> Change:
    def change(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args[:position], value, *args[position + 1 :], **kwargs)

    return change


def _keyword(**changed: Any) -> Change:
    return lambda function, args, kwargs: function(*args, **{**kwargs, **changed})


def _argument(position: int) -> Change:
    return lambda function, args, kwargs: args[position]


def _after(change: Callable[[Any], Any]) -> Change:
    return lambda function, args, kwargs: change(function(*args, **kwargs))


def _of_first(change: Callable[..., Any]) -> Change:
    return lambda function, args, kwargs: change(args[0])


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _operands(args: tuple[Any, ...]) -> tuple[list[int], list[int]]:
    """Positions of the numbers and of the tensors among the first two arguments."""
    pair = range(min(2, len(args)))
    return [i for i in pair if _number(args[i])], [i for i in pair if isinstance(args[i], torch.Tensor)]


def _add(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = _operands(args)
    for i in numbers:
        if 0 < abs(args[i]) <= _SMALL:
            for value in EPSILONS:
                if value != args[i]:
                    yield Variant(f"an epsilon of {value:g} in place of {args[i]:g}", _with(i, value))
        elif args[i] == 1:
            yield Variant("no 1 added (x in place of 1 + x)", _argument(1 - i))
    if len(tensors) == 2:
        for i in tensors:
            if args[i].shape == result.shape:
                yield Variant(f"the {'first' if i else 'second'} term of the sum left out", _argument(i))
        yield Variant("a difference in place of the sum", lambda f, a, k: torch.sub(a[0], a[1]))
        yield Variant("the sum's sign changed (b - a)", lambda f, a, k: torch.sub(a[1], a[0]))


def _sub(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = _operands(args)
    if len(tensors) == 2:
        yield Variant("a sum in place of the difference", lambda f, a, k: torch.add(a[0], a[1]))
        yield Variant("the difference taken the other way round", lambda f, a, k: torch.sub(a[1], a[0]))
    for i in numbers:
        yield Variant(f"{args[i]:g} not subtracted", _argument(1 - i))


def _mul(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    numbers, tensors = _operands(args)
    for i in numbers:
        value = float(args[i])
        yield Variant(f"the factor {value:g} left out", _argument(1 - i))
        others = {1 / value, math.copysign(abs(value) ** 0.5, value), value * abs(value), -value} if value else set()
        for other in sorted(others - {value, 1.0}):
            yield Variant(f"a factor of {other:g} in place of {value:g}", _with(i, other))
        if 1.0 < value < 2.5:
            yield from (
                Variant(f"a factor of {c:g} in place of {value:g}", _with(i, c)) for c in (1.702,) if c != value
            )
    if len(tensors) == 2:
        yield Variant("1 added to the second factor (a * (1 + b))", lambda f, a, k: a[0] * (1 + a[1]))
        yield Variant("1 added to the first factor ((1 + a) * b)", lambda f, a, k: (1 + a[0]) * a[1])
        for i in tensors:
            if args[i].shape == result.shape:
                yield Variant(f"the {'first' if i else 'second'} factor left out", _argument(i))


def _div(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) > 1 and _number(args[1]) and args[1]:
        yield Variant(f"no division by {args[1]:g}", _argument(0))
        yield Variant(f"a product with {args[1]:g} in place of the quotient", lambda f, a, k: a[0] * a[1])
        yield Variant(f"a division by {abs(args[1]) ** 0.5:g}", lambda f, a, k: a[0] / abs(a[1]) ** 0.5)


def _parts(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Chunks in another order: scale and shift, query and key, halves of a gated unit."""
    if not isinstance(result, (tuple, list)) or not 2 <= len(result) <= 12:
        return
    if not all(isinstance(part, torch.Tensor) for part in result):
        return
    for i, j in itertools.combinations(range(len(result)), 2):
        if result[i].shape != result[j].shape:
            continue

        def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], i: int = i, j: int = j) -> Any:
            parts = list(f(*a, **k))
            parts[i], parts[j] = parts[j], parts[i]
            return tuple(parts)

        yield Variant(f"parts {i} and {j} of the {op_name(function)} swapped", change)
    halves = len(result) == 2 and result[0].shape == result[1].shape and isinstance(args[0], torch.Tensor)
    if halves and args[0].shape[-1] == 2 * result[0].shape[-1]:
        yield Variant(
            "even and odd elements in place of the two halves",
            lambda f, a, k: (a[0][..., ::2], a[0][..., 1::2]),
            together=True,
        )


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the exact GELU (erf)": lambda x: F.gelu(x),
    "the tanh GELU": lambda x: F.gelu(x, approximate="tanh"),
    "SiLU": F.silu,
    "the quick GELU (x * sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU": F.relu,
    "no activation": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def _activation(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for words, other in _ACTIVATIONS.items():
        yield Variant(f"{words} in place of {op_name(function)}", _of_first(other))


def _linear(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) > 2 and args[2] is not None:
        yield Variant("no bias", lambda f, a, k: f(*a[:2]))
    for words in ("the exact GELU (erf)", "the tanh GELU", "SiLU", "ReLU"):
        yield Variant(f"{words} after the linear layer", _after(_ACTIVATIONS[words]))


def _attention(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    width = next((value.shape[-1] for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), 1)
    scales = {
        "the default softmax scale 1/sqrt(d)": None,
        "a softmax scale of 1": 1.0,
        "a softmax scale of 1/d": 1.0 / width,
        "a softmax scale of sqrt(d)": width**0.5,
    }
    for words, scale in scales.items():
        if kwargs.get("scale") != scale:
            yield Variant(words, _keyword(scale=scale))
    causal = bool(kwargs.get("is_causal"))
    masked = kwargs.get("attn_mask") if len(args) < 4 else args[3]
    if masked is None or causal:
        yield Variant("no causal mask" if causal else "a causal mask", _keyword(is_causal=not causal))
    if masked is not None:

        def unmasked(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return f(
                *a[:3], *((None, *a[4:]) if len(a) > 3 else ()), **{n: v for n, v in k.items() if n != "attn_mask"}
            )

        yield Variant("no attention mask", unmasked)
        if masked.dtype == torch.bool and "attn_mask" in kwargs:
            yield Variant("the mask inverted", lambda f, a, k: f(*a, **{**k, "attn_mask": ~k["attn_mask"]}))
    if len(args) >= 3:
        swaps = (("query", 0), ("key", 1), ("value", 2))
        for (first, i), (second, j) in itertools.combinations(swaps, 2):
            if args[i].shape == args[j].shape:

                def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], i: int = i, j: int = j) -> Any:
                    changed = list(a)
                    changed[i], changed[j] = changed[j], changed[i]
                    return f(*changed, **k)

                yield Variant(f"{first} and {second} of the attention swapped", change)


def _softmax(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for dim in range(1, min(result.ndim, 4) + 1):
        yield Variant(f"the softmax over dimension {-dim}", _of_first(partial(torch.softmax, dim=-dim)))


def _norm(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    place = next((i for i in range(len(args) - 1, 0, -1) if isinstance(args[i], float)), None)
    now = kwargs.get("eps", args[place] if place is not None else None)
    for value in EPSILONS:
        if now is not None and value != now:
            change = _keyword(eps=value) if "eps" in kwargs or place is None else _with(place, value)
            yield Variant(f"an epsilon of {value:g} in place of {now:g}", change)
    for name, position in (("weight", 2), ("bias", 3)):
        if isinstance(kwargs.get(name), torch.Tensor):
            yield Variant(f"no {name} in the norm", _keyword(**{name: None}))
        elif len(args) > position and isinstance(args[position], torch.Tensor):
            yield Variant(f"no {name} in the norm", _with(position, None))


def _joined(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    tensors = args[0] if args else kwargs.get("tensors")
    if isinstance(tensors, (tuple, list)) and 2 <= len(tensors) <= 4:
        for order in itertools.permutations(range(len(tensors))):
            if order == tuple(range(len(tensors))):
                continue

            def change(f: Call, a: tuple[Any, ...], k: dict[str, Any], order: tuple[int, ...] = order) -> Any:
                parts = a[0] if a else k["tensors"]
                rest = {name: value for name, value in k.items() if name != "tensors"}
                return f([parts[i] for i in order], *a[1:], **rest)

            yield Variant(f"the parts of the {op_name(function)} in the order {list(order)}", change)


def _swap_last(value: torch.Tensor) -> torch.Tensor:
    return value.transpose(-1, -2)


def _shape(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Pairs of neighbours against halves, interleaved heads against stacked ones."""
    before, after = args[0].shape, result.shape
    if len(after) == len(before) + 1 and min(after[-2:]) > 1 and before[-1] == after[-1] * after[-2]:

        def split(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return _swap_last(a[0].reshape(*after[:-2], after[-1], after[-2]))

        yield Variant("the last axis split the other way (neighbours against halves)", split, together=True)
    if len(before) == len(after) + 1 and min(before[-2:]) > 1 and after[-1] == before[-1] * before[-2]:

        def join(f: Call, a: tuple[Any, ...], k: dict[str, Any]) -> Any:
            return _swap_last(a[0]).reshape(after)

        yield Variant("the last two axes joined the other way (neighbours against halves)", join, together=True)


def _item(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Every second element against halves."""
    index = args[1] if len(args) > 1 else None
    last = index[-1] if isinstance(index, tuple) and index else index
    if not isinstance(last, slice) or not isinstance(args[0], torch.Tensor) or args[0].ndim == 0:
        return
    width = args[0].shape[-1]
    if width % 2 or result.shape[-1:] != (width // 2,):
        return
    first = (last.start or 0) == 0
    other = slice(None, width // 2) if last.step == 2 else slice(0, None, 2)
    if not first:
        other = slice(width // 2, None) if last.step == 2 else slice(1, None, 2)
    words = "halves in place of every second element" if last.step == 2 else "every second element in place of halves"
    place = (*index[:-1], other) if isinstance(index, tuple) else other
    yield Variant(words, _with(1, place), together=True)


def _axes(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """Axes of one size in another order: what no shape check sees."""
    for i, j in itertools.combinations(range(result.ndim), 2):
        if result.shape[i] == result.shape[j] > 1:
            yield Variant(
                f"axes {i} and {j} of the {op_name(function)} swapped",
                _after(partial(torch.transpose, dim0=i, dim1=j)),
            )


def _repeat(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    grown = [d for d in range(min(args[0].ndim, result.ndim)) if result.shape[d] != args[0].shape[d]]
    if args[0].ndim != result.ndim or len(grown) != 1:
        return
    dim, times = grown[0], result.shape[grown[0]] // args[0].shape[grown[0]]
    if op_name(function) == "repeat_interleave":
        tiles = [times if d == dim else 1 for d in range(result.ndim)]
        yield Variant("repeat in place of repeat_interleave", lambda f, a, k: a[0].repeat(tiles), together=True)
    else:
        yield Variant(
            "repeat_interleave in place of repeat",
            lambda f, a, k: a[0].repeat_interleave(times, dim=dim),
            together=True,
        )


def _cast(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    narrow = isinstance(result, torch.Tensor) and result.dtype in (torch.bfloat16, torch.float16)
    if narrow and args[0].is_floating_point() and args[0].dtype.itemsize > result.dtype.itemsize:
        yield Variant(f"no cast to {str(result.dtype).removeprefix('torch.')}", _argument(0))


def _pow(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) < 2:
        return
    reversed_operands = "rpow" in str(getattr(function, "__name__", ""))
    base = 1 if reversed_operands else 0
    if _number(args[base]):
        for theta in THETAS:
            if theta != args[base]:
                yield Variant(f"a base (theta) of {theta:g} in place of {args[base]:g}", _with(base, theta))


def _range(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if isinstance(result, torch.Tensor) and result.ndim == 1:
        yield Variant("the range moved by one (from 1)", _after(lambda value: value + 1), together=True)
        yield Variant("the range moved by one (from -1)", _after(lambda value: value - 1), together=True)
        yield Variant("the range reversed", _after(lambda value: value.flip(0)), together=True)


def _swap_for(other: Callable[[Any], Any], words: str) -> Callable[..., Iterator[Variant]]:
    def family(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
        yield Variant(words, _of_first(other), together=True)
        yield Variant(words, _of_first(other))

    return family


def _dropped(words: str) -> Callable[..., Iterator[Variant]]:
    def family(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
        if isinstance(args[0], torch.Tensor) and args[0].shape == result.shape:
            yield Variant(words, _argument(0))

    return family


def _where(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if len(args) == 3:
        yield Variant("the branches of where swapped", lambda f, a, k: f(a[0], a[2], a[1]))


def _masked(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    yield Variant("nothing masked", _argument(0))
    yield Variant("the mask inverted", lambda f, a, k: f(a[0], ~a[1].bool(), *a[2:], **k))


def _matmul(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    if isinstance(args[1], torch.Tensor) and args[1].ndim >= 2 and args[1].shape[-1] == args[1].shape[-2]:
        yield Variant("the second factor transposed", lambda f, a, k: f(a[0], _swap_last(a[1])))


def _variance(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    for correction in (0, 1):
        rest = {"dim": kwargs.get("dim", args[1] if len(args) > 1 else None), "keepdim": kwargs.get("keepdim", False)}
        words = f"a variance divided by n{' - 1' if correction else ''}"
        yield Variant(words, _of_first(partial(torch.var, correction=correction, **rest)))


_FAMILIES: dict[str, Callable[..., Iterator[Variant]]] = {
    "add": _add,
    "sub": _sub,
    "rsub": lambda f, a, k, r: iter(()),
    "mul": _mul,
    "div": _div,
    **dict.fromkeys(("chunk", "split", "unbind", "tensor_split"), _parts),
    **dict.fromkeys(("gelu", "silu", "relu", "tanh", "sigmoid", "mish", "softplus"), _activation),
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), _norm),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(("view", "reshape", "unflatten", "flatten"), _shape),
    "getitem": _item,
    **dict.fromkeys(("transpose", "permute", "movedim"), _axes),
    **dict.fromkeys(("repeat", "repeat_interleave"), _repeat),
    **dict.fromkeys(("to", "float", "half", "bfloat16", "type", "type_as"), _cast),
    "pow": _pow,
    **dict.fromkeys(("arange", "linspace"), _range),
    "cos": _swap_for(torch.sin, "sine in place of cosine"),
    "sin": _swap_for(torch.cos, "cosine in place of sine"),
    "neg": _dropped("the sign not changed"),
    "clamp": _dropped("nothing clamped"),
    "clip": _dropped("nothing clamped"),
    "flip": _dropped("nothing flipped"),
    "roll": _dropped("nothing rolled"),
    "where": _where,
    "masked_fill": _masked,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "var": _variance,
}
