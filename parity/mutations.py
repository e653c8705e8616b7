"""The usual mistakes as changes of single torch calls: what else a port's author may have meant by this call.

Every variant is a sentence for a person and a function that makes the call in the other way. They are tried on a
suspect (`trials.search`), never written to a file. The families stand in ``mutations_*.py``, by subject.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import mutations_attention as heads
from . import mutations_layers as layers
from . import mutations_numbers as numbers
from . import mutations_shapes as shapes
from .variant import Call, Variant, argument, of_first, op_name

Family = Callable[[Call, tuple[Any, ...], dict[str, Any], Any], Iterator[Variant]]


def variants(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
    """What else this call may have been meant to be; looks at shapes and numbers, keeps no tensor of the call."""
    family = _FAMILIES.get(op_name(function))
    if family is not None:
        yield from family(function, args, kwargs, result)


def _swap_for(other: Callable[[Any], Any], words: str) -> Family:
    def family(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
        yield Variant(words, of_first(other), together=True)
        yield Variant(words, of_first(other))

    return family


def _dropped(words: str) -> Family:
    def family(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
        if isinstance(args[0], torch.Tensor) and args[0].shape == result.shape:
            yield Variant(words, argument(0))

    return family


def _all_of(*families: Family) -> Family:
    def family(function: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Iterator[Variant]:
        return itertools.chain.from_iterable(one(function, args, kwargs, result) for one in families)

    return family


_FAMILIES: dict[str, Family] = {
    "add": _all_of(numbers.adds, heads.added_masks, heads.positions),
    "sub": numbers.subtracts,
    "mul": numbers.multiplies,
    "div": numbers.divides,
    "pow": numbers.powers,
    **dict.fromkeys(("arange", "linspace"), numbers.ranges),
    "clamp": numbers.bounds,
    "tensor": numbers.constants,
    "embedding": numbers.indices,
    **dict.fromkeys(("to", "float", "half", "bfloat16", "type", "type_as"), numbers.casts),
    "var": numbers.variances,
    **dict.fromkeys(("gelu", "silu", "relu", "tanh", "sigmoid", "mish", "softplus"), layers.activations),
    "linear": layers.linears,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolutions),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), layers.norms),
    "normalize": layers.lengths,
    "interpolate": layers.interpolations,
    "scaled_dot_product_attention": heads.attention,
    "softmax": heads.softmaxes,
    "where": _all_of(heads.branches, heads.positions),
    "masked_fill": heads.fills,
    **dict.fromkeys(("matmul", "bmm", "mm"), heads.products),
    **dict.fromkeys(("chunk", "split", "unbind", "tensor_split"), shapes.parts),
    **dict.fromkeys(("cat", "stack"), shapes.joined),
    **dict.fromkeys(("view", "reshape", "unflatten", "flatten"), shapes.shapes),
    "getitem": shapes.items,
    **dict.fromkeys(("transpose", "permute", "movedim"), shapes.axes),
    "einsum": shapes.sums,
    **dict.fromkeys(("repeat", "repeat_interleave"), shapes.repeats),
    "pad": shapes.paddings,
    "cos": _swap_for(torch.sin, "sine in place of cosine"),
    "sin": _swap_for(torch.cos, "cosine in place of sine"),
    "neg": _dropped("the sign not changed"),
    "flip": _dropped("nothing flipped"),
    "roll": _dropped("nothing rolled"),
}
