"""Runs of a port whose model holds a scheduler, with something about the scheduler changed, on all inputs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from .code_run import lines_run
from .leaves import leaves
from .metrics import distance
from .scheduler_drive import OUTPUTS, SAMPLES
from .tables import first_difference
from .verdict import FLOOR, OUTPUT_PASS

Tensors = dict[str, torch.Tensor]
TABLES = ("sigmas", "timesteps")


@dataclass(frozen=True)
class Rolled:
    """One input and what the official side made of it.

    Attributes:
        key: Name of the input.
        run: Makes the port's outputs.
        official: The official outputs by name, float32 run.
        exact: The same in float64; empty where there is no such run.
    """

    key: str
    run: Callable[[], Any]
    official: Tensors
    exact: Tensors


def scheduler_in(model: torch.nn.Module) -> Any:
    """The scheduler that a module of a model without weights holds; none if there is none or several."""
    if any(True for _ in model.parameters()):
        return None  # the model itself would be run at every trial
    found = {
        id(value): value
        for module in model.modules()
        for value in vars(module).values()
        if callable(getattr(value, "set_timesteps", None)) and callable(getattr(value, "step", None))
    }
    return next(iter(found.values())) if len(found) == 1 else None


class SchedulerRehearsal:
    """Runs of the port with its scheduler as it was loaded, or changed.

    Args:
        scheduler: Of the port. `fresh` makes it what it was; every run begins with that.
        rolled: The inputs; those on which the port fails come first, it is the quickest to fail there.

    Attributes:
        names: Name of a table -> name of the output that holds it, where one does.
        before: Largest relative error of an output as it is, tables included.
    """

    def __init__(self, scheduler: Any, rolled: list[Rolled]) -> None:
        self.scheduler = scheduler
        self.state = copy.deepcopy(vars(scheduler))
        self.names: dict[str, str] = {}
        self.tables: dict[str, Tensors] = {}
        self.given: dict[str, Any] = {}
        self.before = 0.0
        wrong: dict[str, bool] = {}
        for row in rolled:
            outputs = self.outputs(row, self.listening())
            self._name_tables(outputs)
            self.tables[row.key] = {name: outputs[leaf] for name, leaf in self.names.items() if leaf in outputs}
        for row in rolled:
            right, error = self.judged(row, self.outputs(row))
            wrong[row.key], self.before = not right, max(self.before, error)
        self.rolled = sorted(rolled, key=lambda row: not wrong[row.key])

    def _name_tables(self, outputs: Tensors) -> None:
        for name in TABLES:
            table = getattr(self.scheduler, name, None)
            if isinstance(table, torch.Tensor) and table.numel() > 1:
                same = [leaf for leaf, t in outputs.items() if t.shape == table.shape and torch.equal(t, table.to(t))]
                if same:
                    self.names.setdefault(name, name if name in same else same[0])

    def fresh(self) -> None:
        """The scheduler as it was loaded."""
        inside = vars(self.scheduler)
        inside.clear()
        inside.update(copy.deepcopy(self.state))

    def outputs(self, row: Rolled, change: AbstractContextManager[Any] | None = None) -> Tensors:
        """The outputs of one run, by name."""
        self.fresh()
        with change or nullcontext():
            return {name or "output": tensor for name, tensor in leaves(row.run())}

    def lines_of(self, row: Rolled, files: set[str], method: str = "") -> dict[CodeType, set[int]]:
        """The lines of these files that run in a run, or in the scheduler's ``method`` alone."""
        if not method:
            return lines_run(lambda: self.outputs(row), files)
        found: dict[CodeType, set[int]] = {}
        self.outputs(row, self._traced(method, files, found))
        return found

    @contextmanager
    def _traced(self, method: str, files: set[str], found: dict[CodeType, set[int]]) -> Iterator[None]:
        real = getattr(self.scheduler, method)

        def traced(*args: Any, **kwargs: Any) -> Any:
            made = []
            found.update(lines_run(lambda: made.append(real(*args, **kwargs)), files))
            return made[0]

        vars(self.scheduler)[method] = traced
        yield

    def once(self, change: Callable[[Rolled], AbstractContextManager[Any]]) -> float:
        """The largest relative error with a change; infinite as soon as one input is not judged as passing."""
        largest = 0.0
        for row in self.rolled:
            try:
                right, error = self.judged(row, self.outputs(row, change(row)))
            except Exception:  # whatever the port's code raises when something in it is another
                return math.inf
            if not right:
                return math.inf
            largest = max(largest, error)
        return largest

    def judged(self, row: Rolled, outputs: Tensors) -> tuple[bool, float]:
        """Whether tables are equal and other outputs within the official rounding (`OUTPUT_PASS`), and the error."""
        right, largest = True, 0.0
        for name, official in row.official.items():
            mine = outputs.get(name)
            if mine is None or mine.shape != official.shape:
                return False, math.inf
            if not official.numel():
                continue
            mine = mine.to(official.device)
            error = distance(mine.float(), official.float()).relative_l2
            if math.isnan(error):
                return False, math.inf
            largest = max(largest, error)
            if name in self.names.values() or not official.is_floating_point():
                right &= first_difference(mine, official) is None
                continue
            exact = row.exact.get(name)
            own = distance(official, exact).relative_l2 if exact is not None else 0.0
            right &= distance(mine, exact if exact is not None else official).relative_l2 <= OUTPUT_PASS * max(
                own, FLOOR
            )
        return right, largest

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the numbers that ``set_timesteps`` is given (``shift``, ``mu``) in `given`."""
        real = self.scheduler.set_timesteps

        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.given.update({name: float(v) for name, v in kwargs.items() if isinstance(v, (int, float))})
            return real(*args, **kwargs)

        vars(self.scheduler)["set_timesteps"] = set_timesteps
        yield

    @contextmanager
    def on_tables(self, tables: Tensors) -> Iterator[None]:
        """The scheduler walks on other tables than its own."""
        real = self.scheduler.set_timesteps

        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            made = real(*args, **kwargs)
            for name, table in tables.items():
                own = getattr(self.scheduler, name)
                setattr(self.scheduler, name, table.to(own.device, own.dtype) if own is not None else table)
            return made

        vars(self.scheduler)["set_timesteps"] = set_timesteps
        yield

    @contextmanager
    def with_output(self, convert: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
        """Every step is handed ``convert(model output, sample, sigma)``; the steps are counted from the first."""
        real, number = self.scheduler.step, 0
        signature = inspect.signature(real)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            bound = signature.bind(*args, **kwargs)
            output, sample = (next(n for n in names if n in bound.arguments) for names in (OUTPUTS, SAMPLES))
            sigma = self.scheduler.sigmas[number].to(bound.arguments[sample])
            bound.arguments[output] = convert(bound.arguments[output], bound.arguments[sample], sigma)
            number += 1
            return real(*bound.args, **bound.kwargs)

        vars(self.scheduler)["step"] = step
        yield
