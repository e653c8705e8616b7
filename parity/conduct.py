"""What an adapter's call does besides computing: code it runs elsewhere, hooks, random numbers, flags, its inputs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from .adapter import MODULE_NAME
from .audit import flags
from .leaves import leaves, map_tensors
from .meddling import Meddling

_TORCH = str(Path(torch.__file__).resolve().parent)


def class_file(cls: type) -> str:
    """The file that holds the class's forward, resolved; "" when its code has none."""
    code = _code(getattr(cls, "forward", None))
    if code is None or code.co_filename.startswith(_TORCH):
        home = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    else:
        home = code.co_filename
    return str(Path(home).resolve()) if home and not home.startswith("<") else home


def _code(function: Any) -> CodeType | None:
    function = getattr(function, "func", function)  # functools.partial
    function = getattr(function, "__func__", function)
    try:
        function = inspect.unwrap(function) if callable(function) else None
    except ValueError:
        return None
    code = getattr(function, "__code__", None)
    if code is None and function is not None:
        code = getattr(vars(type(function)).get("__call__"), "__code__", None)
    return code if isinstance(code, CodeType) else None


class Conduct:
    """Watches one side's calls.

    Attributes:
        called, code: Class -> file, of the modules that were called, and of those that the model consists of.
        draws: Whether a call moved or reset torch's random state.
        changed_inputs: Names of inputs that a call changed in place.
        changed_flags: Sentences on global switches that a call left changed.
        outside: Classes of called modules that are no part of the loaded model.
        interventions: Hooks and forwards that the adapter put into the model, and attributes that it changed there.
        patched: Functions of the adapter in the modules and classes that the model is made of.
        dtypes: Asked dtype -> floating dtypes of the model's parameters.
    """

    def __init__(self, adapter: Path) -> None:
        self.adapter = str(adapter.resolve())
        self.meddling = Meddling(adapter)
        self.patched: list[str] = []
        self.called: dict[str, str] = {}
        self.draws = False
        self.changed_inputs: list[str] = []
        self.changed_flags: list[str] = []
        self.outside: list[str] = []
        self.code: dict[str, str] = {}
        self.interventions: list[str] = []
        self.dtypes: dict[str, list[str]] = {}

    @contextmanager
    def watching(self, model: torch.nn.Module, bundle: Any) -> Iterator[None]:
        """Around one call of the adapter with these inputs."""
        own = {id(part) for part in model.modules()}
        seen: set[int] = set()

        def before(part: torch.nn.Module, _: Any) -> None:
            if id(type(part)) not in seen or id(part) not in own:
                seen.add(id(type(part)))
                self._called(type(part), id(part) in own)

        given = map_tensors(bundle, torch.Tensor.clone)
        switches, random = flags(), _random_state()
        handle = torch_module.register_module_forward_pre_hook(before)
        try:
            with self.meddling.watching():
                yield
        finally:
            handle.remove()
            # A side without weights may be the first to touch the GPU here: then its generator is new, not drawn from.
            self.draws |= any(not torch.equal(a, b) for a, b in zip(random, _random_state(), strict=False))
            self._flags(switches)
            self._inputs(given, bundle)

    def _called(self, cls: type, own: bool) -> None:
        name = f"{cls.__module__}.{cls.__qualname__}"
        file = class_file(cls)
        if file.startswith(_TORCH):
            return
        self.called[name] = file
        if not own and name not in self.outside:
            self.outside.append(name)

    def _flags(self, before: dict[str, Any]) -> None:
        for name, value in flags().items():
            if value != before[name]:
                sentence = f"{name} from {before[name]} to {value}"
                if sentence not in self.changed_flags:
                    self.changed_flags.append(sentence)

    def _inputs(self, given: Any, bundle: Any) -> None:
        for (name, before), (_, after) in zip(leaves(given), leaves(bundle), strict=False):
            same = before.shape == after.shape and torch.equal(torch.nan_to_num(before), torch.nan_to_num(after))
            if not same and name not in self.changed_inputs:
                self.changed_inputs.append(name)

    def look_at(self, model: torch.nn.Module, asked: torch.dtype) -> None:
        """Note what a model consists of, as the calls left it."""
        own = {f"{type(part).__module__}.{type(part).__qualname__}": class_file(type(part)) for part in model.modules()}
        self.code.update({**own, **_held(model, self.adapter)})
        changes = interventions(model, self.adapter) + self.meddling.in_model(model)
        self.interventions += [row for row in dict.fromkeys(changes) if row not in self.interventions]
        self.patched += [row for row in self.meddling.in_code(model) if row not in self.patched]
        floats = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
        self.dtypes[str(asked).removeprefix("torch.")] = sorted(floats)

    def report(self, engine_changed: list[str]) -> dict[str, Any]:
        """What was seen, for the coordinator.

        Args:
            engine_changed: Names of parts that were replaced (see `Seal`).
        """
        code = {name: file for name, file in {**self.code, **self.called}.items() if not file.startswith(_TORCH)}
        return {
            "code": {name: file for name, file in code.items() if file != self.adapter},
            "outside": self.outside,
            "draws": self.draws,
            "changed_inputs": self.changed_inputs,
            "changed_flags": self.changed_flags,
            "interventions": self.interventions,
            "patched": self.patched,
            "engine_changed": engine_changed,
            "dtypes": self.dtypes,
        }


def _held(model: torch.nn.Module, adapter: str) -> dict[str, str]:
    """Classes of what the adapter's own wrapper modules hold (a scheduler is no module)."""
    found = {}
    for part in model.modules():
        if class_file(type(part)) != adapter:
            continue
        for value in vars(part).values():
            cls = type(value)
            file = getattr(sys.modules.get(cls.__module__), "__file__", None)
            if file and cls.__module__.split(".")[0] not in ("builtins", "torch", "collections"):
                found[f"{cls.__module__}.{cls.__qualname__}"] = str(Path(file).resolve())
    return found


def interventions(model: torch.nn.Module, adapter: str) -> list[str]:
    """Where code of the adapter file sits inside a model: hooks and replaced forwards."""
    found: dict[str, None] = {}

    def mine(function: Any) -> bool:
        code = _code(function)
        return code is not None and str(Path(code.co_filename).resolve()) == adapter

    tables = ("_forward_hooks", "_forward_pre_hooks")
    for name, part in model.named_modules():
        place = name or "the model"
        for table in tables:
            if any(mine(hook) for hook in vars(part).get(table, {}).values()):
                found[f"a hook on {place}"] = None
        if "forward" in vars(part) and mine(vars(part)["forward"]):
            found[f"the forward of {place} replaced"] = None
        cls = type(part)
        if mine(cls.forward) and cls.__module__ != MODULE_NAME:
            found[f"the forward of class {cls.__qualname__} replaced"] = None
    for table in ("_global_forward_hooks", "_global_forward_pre_hooks"):
        if any(mine(hook) for hook in getattr(torch_module, table, {}).values()):
            found["a hook on all modules"] = None
    return list(found)


def _random_state() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(torch.cuda.get_rng_state())
    return states
