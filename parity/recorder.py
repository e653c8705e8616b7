"""The calls of one forward and the tensors that they received and returned, as they happen."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import is_dataclass
from types import CodeType
from typing import Any, NamedTuple

import torch

from .callsite import call_site
from .leaves import leaves
from .trace import Call, Trace
from .traced_tensors import Tensors


class _Open(NamedTuple):
    """A call that has not returned: its record, the place of that, where it may leave tensors, what was handled."""

    call: Call
    place: int
    owner: torch.nn.Module | None
    held: list[tuple[str, Any]]
    handled: BaseException | None


class Recorder:
    """Notes calls and tensors in as few steps as it can: a forward makes thousands of them."""

    def __init__(self, trace: Trace, sketches: bool, narrow: bool) -> None:
        """Prepare.

        Args:
            trace: Gets the calls; its tensors are those of `Recorder.tensors` at the end.
            sketches, narrow: As in `traced_tensors.Tensors`.
        """
        self.trace = trace
        self.calls = trace.calls
        self.tensors = Tensors(narrow=narrow, sketches=sketches)
        self.stack: list[_Open] = []
        self.ended = 0
        self.codes: dict[int, tuple[CodeType, bool]] = {}
        self.occurrences: Counter[str] = Counter()

    def begin(self, module: str, cls: str, values: Any, owner: torch.nn.Module | None = None) -> None:
        """Note a call that begins.

        Args:
            module: Qualified name, or ``module::function``.
            cls: Class of the module, or the function's name.
            values: Positional arguments; keyword arguments are a dict at their end.
            owner: The module, or the one that called the function.
        """
        occurrence = self.occurrences[module]
        self.occurrences[module] = occurrence + 1
        code, line = call_site(self.codes)
        file, function = (code.co_filename, code.co_name) if code is not None else ("", "")
        parent, index = self.stack[-1].place if self.stack else -1, len(self.calls)
        call = Call(module, cls, occurrence, parent, file, line, function)
        self.calls.append(call)
        call.inputs = self.record(values)
        self.stack.append(_Open(call, index, owner, _writable(values), sys.exc_info()[1]))

    def end(self, output: Any) -> None:
        """Note that the innermost open call returned ``output`` or, while an exception is handled, raised."""
        call, _, _, held, handled = self.stack.pop()
        if sys.exc_info()[1] is not handled:
            return  # it raised, and its caller may go on: such a call has no end
        call.outputs = self.record(output)
        if held:
            call.writes = self.left_in(call, held)
        call.ended = self.ended
        self.ended += 1

    def record(self, values: Any) -> list[tuple[str, int]]:
        """Names, as `leaves` gives them, and indices of all tensors and numbers in ``values``."""
        if isinstance(values, torch.Tensor):
            return [("", self.tensors.add(values))] if values.device.type != "meta" else []
        items: Iterable[tuple[Any, Any]]
        if type(values) is tuple:
            items = [(f"[{index}]", value) for index, value in enumerate(values)]
        elif type(values) is dict:
            items = values.items()
        else:
            return [(name, self.tensors.add(tensor)) for name, tensor in leaves(values) if tensor.device.type != "meta"]
        found = []
        for name, value in items:
            if isinstance(value, torch.Tensor):
                if value.device.type != "meta":
                    found.append((str(name), self.tensors.add(value)))
            elif isinstance(value, (bool, int, float)):
                found.append((str(name), self.tensors.add_number(float(value))))
            elif value is not None:
                found += [
                    (f"{name}{'.' if inner and inner[0] != '[' else ''}{inner}", place)
                    for inner, place in self.record(value)
                ]
        return found

    def left_in(self, call: Call, held: list[tuple[str, Any]]) -> list[tuple[str, int]]:
        """What the call's arguments hold now and did not when it began."""
        before = {index for _, index in call.inputs}
        found = []
        for argument, container in held:
            for name, tensor in leaves(container):
                if (
                    tensor.numel() > 1
                    and tensor.device.type != "meta"
                    and (index := self.tensors.add(tensor)) not in before
                ):
                    found.append((f"{argument}{'.' if name and name[0] != '[' else ''}{name}", index))
        return found


def _writable(values: Any) -> list[tuple[str, Any]]:
    """Arguments of a call into which it can put tensors, under the names that `leaves` gives them."""
    if type(values) is not tuple:
        return []
    found = []
    for place, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            continue
        if isinstance(value, dict):  # keyword arguments, or a dict among the others
            found += [(f"[{place}].{key}", item) for key, item in value.items() if _is_writable(item)]
        if _is_writable(value) and not (isinstance(value, dict) and place == len(values) - 1):
            found.append((f"[{place}]", value))
    return found


def _is_writable(value: Any) -> bool:
    return isinstance(value, (list, dict)) or (is_dataclass(value) and not isinstance(value, type))
