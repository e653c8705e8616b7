"""Recognise what an ATen operation is for: norm, softmax, rotation, timestep embedding, residual addition, modulation.

What is followed through a forward are a few marks on tensors:

* ``frequency``: made from `arange`, `exp` of a vector or a power of a base; what goes into sine and cosine.
* ``angle``: sine, cosine or a complex phase of it, or a buffer named so. Multiplied with an activation it was a rotary
  table; put into a matrix product it was a timestep embedding. Only then is it known which role its sine had.
* ``statistic``: a root, mean or variance: multiplying by it is part of a norm and no modulation.
* ``parameter``: a parameter, cast or reshaped: multiplying by it is a norm's affine part.
* ``scores``: a batched matrix product: adding a bias or mask to it is no residual addition.
* ``rotated``: a product that the sum of two makes a rotation (``x * cos + rotate(x) * sin``).

A mark carries the narrowest dtype that its values went through, so a table that was rounded and widened again shows.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
_COMPLEX = {torch.complex128: "float64", torch.complex64: "float32", torch.complex32: "float16"}

FUSED_NORMS = (
    "native_layer_norm",
    "native_group_norm",
    "_fused_rms_norm",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
)
"""Kernels that accumulate in float32 (`at::opmath_type`) whatever they are given."""
IN_KERNEL = "(in the attention kernel)"
"""Stands behind the dtype of a softmax that torch's attention computes; it is never below float32."""
_MOMENTS = ("mean", "var", "var_mean", "std", "sum")
_ROOTS = ("rsqrt", "sqrt")
_LENGTHS = ("linalg_vector_norm", "norm")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "_convolution", "mkldnn_rnn_layer", "matmul")
# fmt: off
_MOVES = (
    "view", "_unsafe_view", "_reshape_alias", "reshape", "unsqueeze", "squeeze", "expand", "permute",
    "transpose", "t", "slice", "select", "split", "split_with_sizes", "chunk", "cat", "stack", "repeat",
    "repeat_interleave", "index", "index_select", "clone", "_to_copy", "to", "contiguous", "detach", "alias",
    "unbind", "unflatten", "flatten", "neg", "view_as_complex", "view_as_real", "_conj", "real", "imag",
    "lift_fresh", "copy", "as_strided", "_neg_view", "complex", "flip", "roll", "movedim", "gather",
    "constant_pad_nd",
)
# fmt: on
_ELEMENTWISE = ("mul", "div", "add", "sub", "rsub", "pow", "reciprocal", "clamp", "clamp_min", "exp", "log", "outer")
_TABLE = re.compile(r"freq|cos|sin|rope|rotary", re.IGNORECASE)


def label(dtype: torch.dtype) -> str:
    """Name of a dtype; a complex one is called after its parts."""
    return _COMPLEX.get(dtype) or str(dtype).removeprefix("torch.")


def bits(name: str) -> int:
    """Bits of the mantissa that a dtype stores, for comparing widths; a remark in brackets is ignored."""
    return _BITS.get(name.partition(" ")[0], 0)


def narrower(first: str, second: str) -> str:
    """The narrower of two dtypes."""
    return first if bits(first) <= bits(second) else second


@dataclass(frozen=True)
class Mark:
    """What is known of a tensor.

    Attributes:
        kind: See the module.
        narrowest: The narrowest dtype on the way here.
        sources: For an angle, module and dtype of every sine and cosine that it comes from.
    """

    kind: str
    narrowest: str
    sources: frozenset[tuple[str, str]] = frozenset()


@dataclass
class Frame:
    """One running module call: what was seen in its own forward, not in its children's."""

    name: str
    container: bool
    moments: list[str] = field(default_factory=list)
    root: bool = False
    peak: bool = False
    scored: bool = False
    softened: bool = False
    applied: bool = False

    def take(self, child: Frame) -> None:
        """A child that is only a softmax stands between its parent's two products."""
        self.softened |= child.softened and not child.scored

    def finished_attention(self) -> bool:
        """Whether product, softmax, product have just been seen; asked once."""
        done, self.applied = self.applied, False
        if done:
            self.scored = self.softened = False
        return done


class Roles:
    """Says the role of each operation to ``add(module, role, dtype)``."""

    def __init__(self, model: torch.nn.Module, add: Callable[[str, str, str], None]) -> None:
        self.add = add
        self.final: list[str] = []
        self._marks: dict[int, tuple[weakref.ref[torch.Tensor], Mark]] = {}
        for parameter in model.parameters():
            self._mark(parameter, Mark("parameter", label(parameter.dtype)))
        for name, tensor in model.named_buffers():
            last = name.rpartition(".")[2]
            if _TABLE.search(last) and (tensor.is_floating_point() or tensor.is_complex()):
                kind = "frequency" if "inv" in last else "angle"
                self._mark(tensor, Mark(kind, label(tensor.dtype)))

    def _mark(self, tensor: torch.Tensor, mark: Mark) -> None:
        self._marks[id(tensor)] = (weakref.ref(tensor), mark)

    def mark(self, tensor: torch.Tensor) -> Mark | None:
        """The mark of a tensor, or none."""
        found = self._marks.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def saw(self, frame: Frame, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note one operation that ran in ``frame``."""
        inplace = name.endswith("_") and not name.endswith("__")
        name = name.rstrip("_") if inplace else name
        inputs = [t for t in _tensors(args) if t.is_floating_point() or t.is_complex()]
        outputs = [t for t in _tensors((output,)) if t.is_floating_point() or t.is_complex()]
        if not outputs:
            frame.peak |= name in ("amax", "max", "argmax")
            return
        made = label(outputs[0].dtype)
        if name == "arange" or (name == "pow" and not isinstance(args[0], torch.Tensor)):
            self._set(outputs, Mark("frequency", made))
            return
        if not inputs:
            return
        taken = label(inputs[0].dtype)
        if name in FUSED_NORMS or (name in _LENGTHS and inputs[0].ndim > 1):
            self.add(frame.name, "norm", taken if bits(taken) >= bits("float32") else f"{taken} (float32 inside)")
            if name in _LENGTHS:
                self._set(outputs, Mark("statistic", made))
        elif name in ("_softmax", "_safe_softmax"):
            self._softmax(frame, made)
        elif name in ("cos", "sin", "polar"):
            self._angle(frame, inputs, outputs, made)
        elif name == "exp":
            self._exp(frame, inputs[0], outputs, made)
        elif name in _PRODUCTS:
            self._product(frame, name, inputs, outputs, taken)
        else:
            self._plain(frame, name, args, inputs, outputs, made)

    def close(self, frame: Frame) -> None:
        """A module call ends: means and roots in its forward were a norm if there were both."""
        if frame.root:
            for dtype in frame.moments:
                self.add(frame.name, "norm", dtype)

    # Operations by kind

    def _softmax(self, frame: Frame, dtype: str) -> None:
        self.add(frame.name, "softmax", dtype)
        frame.softened = True

    def _angle(self, frame: Frame, inputs: list[torch.Tensor], outputs: list[torch.Tensor], made: str) -> None:
        dtype = made
        for tensor in inputs:
            mark = self.mark(tensor)
            dtype = narrower(dtype, narrower(label(tensor.dtype), mark.narrowest if mark else made))
        self._set(outputs, Mark("angle", made, frozenset({(frame.name, dtype)})))

    def _exp(self, frame: Frame, taken: torch.Tensor, outputs: list[torch.Tensor], made: str) -> None:
        if taken.ndim <= 1 or self._is(taken, "frequency"):
            self._set(outputs, Mark("frequency", made))
        elif frame.peak:
            self._softmax(frame, made)

    def _product(
        self, frame: Frame, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], taken: str
    ) -> None:
        self.final = [frame.name, taken]
        marks = [mark for tensor in inputs if (mark := self.mark(tensor))]
        angles = [mark for mark in marks if mark.kind == "angle"]
        if angles:
            self.add(frame.name, "timestep projection", taken)
            self._sources(angles, "timestep embedding")
        elif any(mark.kind == "frequency" for mark in marks):
            self._set(outputs, Mark("frequency", label(outputs[0].dtype)))
        elif name in ("bmm", "baddbmm", "matmul"):
            frame.applied = frame.scored and frame.softened
            frame.scored, frame.softened = True, False
            self._set(outputs, Mark("scores", taken))

    def _plain(
        self,
        frame: Frame,
        name: str,
        args: tuple[Any, ...],
        inputs: list[torch.Tensor],
        outputs: list[torch.Tensor],
        made: str,
    ) -> None:
        taken, size = label(inputs[0].dtype), inputs[0].ndim
        square = (name == "pow" and args[1:2] == (2,)) or (name == "mul" and len(inputs) > 1 and inputs[0] is inputs[1])
        if (name in _MOMENTS or square) and size > 1:
            frame.moments.append(taken)
        if name in _ROOTS and size > 1:
            frame.moments.append(taken)
            frame.root = True
        frame.peak |= name in ("amax", "max")
        if name in _MOMENTS or name in _ROOTS:
            self._set(outputs, Mark("statistic", made))
        elif name == "addcmul":
            self._modulation(frame, inputs[1:3], made)
            self._residual(frame, [inputs[0], outputs[0]], made)
        elif name == "mul" and len(inputs) == 2 and not square and self._multiplied(frame, inputs, outputs, made):
            return
        elif name in ("add", "sub") and len(inputs) == 2:
            if all(self._is(tensor, "rotated") for tensor in inputs) and self._rotated(frame, inputs):
                return
            self._residual(frame, inputs, made)
        self._pass_on(name, inputs, outputs, made)

    def _multiplied(self, frame: Frame, inputs: list[torch.Tensor], outputs: list[torch.Tensor], made: str) -> bool:
        """A product of two tensors: a rotation, half of one, or a modulation; True when it was one of them."""
        marks = [self.mark(tensor) for tensor in inputs]
        for mark, tensor, other, theirs in zip(marks, inputs, inputs[::-1], marks[::-1], strict=True):
            table = mark is not None and mark.kind == "angle"
            if (
                other.ndim >= 3
                and (theirs is None or theirs.kind in ("parameter", "statistic", "scores"))
                and (table or tensor.is_complex())
            ):
                narrowest = narrower(mark.narrowest, label(tensor.dtype)) if mark and table else label(tensor.dtype)
                self.add(frame.name, "rope", made)
                self.add(frame.name, "rope table", narrowest)
                self._sources([mark] if mark and table else [], "rope angles")
                self._set(outputs, Mark("turned", made))
                return True
        if any(mark is not None for mark in marks):
            return False
        small = min(inputs, key=torch.Tensor.numel)
        if small.numel() < outputs[0].numel():
            self._modulation(frame, inputs, made)
            self._set(outputs, Mark("rotated", made, frozenset({("", label(small.dtype))})))
            return True
        return False

    def _rotated(self, frame: Frame, inputs: list[torch.Tensor]) -> bool:
        """The sum of two broadcast products of halves is a rotation, with a table that came from elsewhere."""
        marks = [mark for tensor in inputs if (mark := self.mark(tensor))]
        for mark in marks:
            self.add(frame.name, "rope", mark.narrowest)
            for _, table in mark.sources:
                self.add(frame.name, "rope table", table)
        return True

    def _modulation(self, frame: Frame, inputs: list[torch.Tensor], made: str) -> None:
        if any(self.mark(tensor) for tensor in inputs) or len({tensor.numel() for tensor in inputs}) < 2:
            return
        if max(tensor.ndim for tensor in inputs) >= 3 and min(tensor.numel() for tensor in inputs) > 1:
            self.add(frame.name, "modulation", made)

    def _residual(self, frame: Frame, inputs: list[torch.Tensor], made: str) -> None:
        same = inputs[0].shape == inputs[1].shape and inputs[0].ndim >= 3
        blocked = any((mark := self.mark(t)) and mark.kind != "rotated" for t in inputs)
        if same and frame.container and not blocked:
            self.add(frame.name, "residual", made)

    # Marks

    def _is(self, tensor: torch.Tensor, kind: str) -> bool:
        mark = self.mark(tensor)
        return mark is not None and mark.kind == kind

    def _set(self, tensors: list[torch.Tensor], mark: Mark) -> None:
        for tensor in tensors:
            self._mark(tensor, mark)

    def _sources(self, marks: list[Mark], role: str) -> None:
        for module, dtype in sorted({source for mark in marks for source in mark.sources}):
            self.add(module, role, dtype)

    def _pass_on(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], made: str) -> None:
        marks = [mark for tensor in inputs if (mark := self.mark(tensor))]
        moves, arithmetic = name in _MOVES, name in _ELEMENTWISE
        if not marks or not (moves or arithmetic):
            return
        for kind in ("angle", "frequency", "statistic", "parameter", "scores", "turned"):
            found = [mark for mark in marks if mark.kind == kind]
            alone = len(inputs) == len(found)
            if found and (moves or (kind == "frequency") or (alone and kind != "scores") or len(inputs) == 1):
                narrowest = made
                for mark in found:
                    narrowest = narrower(narrowest, mark.narrowest)
                sources = frozenset(source for mark in found for source in mark.sources)
                self._set(outputs, replace(found[0], narrowest=narrowest, sources=sources))
                return


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
