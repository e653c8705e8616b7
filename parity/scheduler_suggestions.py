"""What is wrong with a port's scheduler: the usual mistakes tried on its tables, its configuration and its code.

A suggestion is made only if with it the tables are equal and the latents of every input within the official rounding,
so it holds for all schedules that were compared. There is at most one: what has the same effect stands beside it.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType
from typing import Any

import numpy as np

from .classes import accepted
from .code_changes import CodeChange, code_changes
from .code_run import functions_of
from .reached import at_most, tolerant
from .scheduler_causes import Cause, Tables, sigma_cause, straight, timestep_cause, unshifted
from .scheduler_rehearsal import Rolled, SchedulerRehearsal
from .scheduler_steps import changes_to_try

BUDGET_S = 60.0
LONGEST_S = 5.0
"""Of one trial: a changed loop may never end."""
_FEWEST = 3
"""Steps below which two tables are too short to tell mistakes apart."""
_SHOWN = 3
_CLOSE = 1e-6
_TOO_VAGUE = ("rounding", "count", "shift-value")
"""Words that say no more than the table itself, or that stand on a shift that may be the mistake."""
_MEND = {
    "shift-twice": "apply it once",
    "shift-missing": "apply it",
    "terminal": "give the table the official last sigma",
    "flipped": "turn the table round",
    "inverted": "keep sigma, not 1 - sigma",
    "grid-float32": "build it in float64",
}
_CONVERSIONS: tuple[tuple[str, Callable[[Any, Any, Any], Any]], ...] = (
    ("the model output taken with the other sign", lambda v, x, s: -v),
    ("the model output taken for the clean sample, velocity (x - x0) / sigma", lambda v, x, s: (x - v) / s),
    ("the model output taken for the noise, velocity (noise - x) / (1 - sigma)", lambda v, x, s: (v - x) / (1 - s)),
    ("the model output taken for the velocity where the step takes it for the clean sample", lambda v, x, s: x - s * v),
    ("the model output taken for the velocity where the step takes it for the noise", lambda v, x, s: x + (1 - s) * v),
)


def suggestions(
    scheduler: Any, rolled: list[Rolled], official_config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Try the usual mistakes on the port's scheduler.

    Args:
        scheduler: Of the port.
        rolled: The inputs with the official outputs; tables among the outputs are compared too.
        official_config: Of the official scheduler. Entries that are the same there are not to blame.

    Returns:
        As `trials.search`: ``tried``, ``before``, ``found`` (at most one row), ``layout`` (none).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is deprecated in the port was said in the comparison
        return _Search(SchedulerRehearsal(scheduler, rolled), official_config or {}).answer()


class _Search:
    def __init__(self, rehearsal: SchedulerRehearsal, official_config: Mapping[str, Any]) -> None:
        self.rehearsal = rehearsal
        self.official_config = official_config
        self.tried = 0
        self.started = time.thread_time()
        cls = type(rehearsal.scheduler)
        top = cls.__module__.partition(".")[0]
        self.files = {
            inspect.getfile(kind)
            for kind in cls.__mro__
            if kind is not object and kind.__module__.partition(".")[0] == top
        }

    def answer(self) -> dict[str, Any]:
        try:
            row = self._on_tables() or self._of_code() or self._of_conversions()
        finally:
            self.rehearsal.fresh()
        found = [row] if row else []
        return {"tried": self.tried, "before": self.rehearsal.before, "found": found, "layout": None}

    def _once(self, change: Callable[[Rolled], AbstractContextManager[Any]]) -> float:
        self.tried += 1
        with at_most(LONGEST_S):
            return self.rehearsal.once(change)

    def _on_tables(self) -> dict[str, Any] | None:
        """The cause of different tables, if on the official ones everything agrees."""
        cause = self._table_cause()
        if cause is None:
            return None
        rehearsal = self.rehearsal
        official = {
            row.key: {name: row.official[leaf] for name, leaf in rehearsal.names.items()} for row in rehearsal.rolled
        }
        after = self._once(lambda row: rehearsal.on_tables(official[row.key]))
        if math.isinf(after):
            return None
        file, line = self._line_of("set_timesteps")
        said = cause.words
        changes = self._code_found("set_timesteps", limit=1)
        if changes:
            change = changes[0][1]
            file, line, said = change.file, change.line, f"{said}; in the code: {change.words}"
        return {"words": f"the official tables ({said})", "file": file, "line": line, "after": after}

    def _table_cause(self) -> Cause | None:
        """The one mistake that turns the official tables of all inputs into the port's."""
        rehearsal, causes = self.rehearsal, []
        config = getattr(rehearsal.scheduler, "config", {}) or {}
        train = float(_entry(config, "num_train_timesteps") or 1000)
        shifts = self._shifts(config)
        for row in rehearsal.rolled:
            mine, official = rehearsal.tables[row.key], row.official
            theirs = {name: official.get(leaf) for name, leaf in rehearsal.names.items()}
            port, other = (_tables(tables, train) for tables in (mine, theirs))
            if port is None or other is None:
                return None
            cause, differs = None, False
            if port.sigmas is not None and other.sigmas is not None and not np.array_equal(port.sigmas, other.sigmas):
                differs = True
                found = [sigma_cause(port, other, shift, train, self._ends(other, shift)) for shift in shifts]
                cause = next((c for c in found if c and c.code not in _TOO_VAGUE), None)
                cause = cause or _other_shift(port, other, shifts)
                if cause is not None:
                    cause = _with_remedy(cause, other, shifts, train)
            elif not np.array_equal(port.timesteps, other.timesteps):
                differs, cause = True, timestep_cause(port, other, train)
            if differs and (len(other.timesteps) >= _FEWEST or (cause and cause.code == "terminal")):
                causes.append((len(other.timesteps), cause))
        named = [cause for _, cause in sorted(causes, key=lambda pair: -pair[0])]
        first = named[0] if named else None
        if first is None or first.code == "rounding" or any(c is None or c.code != first.code for c in named):
            return None
        return first

    def _ends(self, official: Tables, shift: float) -> dict[str, float]:
        """The port's exact ends of the grid before the shift, where they are the official ones."""
        assert official.sigmas is not None
        raw = unshifted(official.sigmas[: len(official.timesteps)], shift)
        found = {}
        for name, value in (("sigma_max", raw[0]), ("sigma_min", raw[-1])):
            mine = getattr(self.rehearsal.scheduler, name, None)
            if isinstance(mine, (int, float)) and abs(mine - value) < _CLOSE:
                found[name] = float(mine)
        return found

    def _shifts(self, config: Any) -> list[float]:
        """The shifts that the port may have meant: given to ``set_timesteps``, configured, of the resolution."""
        given, scheduler = self.rehearsal.given, self.rehearsal.scheduler
        found = [given.get("shift"), given.get("flow_shift")]
        found += [math.exp(given["mu"])] if "mu" in given else []
        found += [_entry(config, "shift"), _entry(config, "flow_shift"), getattr(scheduler, "shift", None)]
        numbers = [float(value) for value in found if isinstance(value, (int, float)) and value > 0]
        return list(dict.fromkeys([*numbers, 1.0]))

    def _line_of(self, method: str) -> tuple[str, int]:
        function = inspect.unwrap(getattr(type(self.rehearsal.scheduler), method))
        return function.__code__.co_filename, function.__code__.co_firstlineno

    def _of_code(self) -> dict[str, Any] | None:
        """The plainest change of one statement, or of one entry of the configuration, and what else does the same."""
        found = self._code_found()
        rows = [
            {"words": change.words, "file": change.file, "line": change.line, "after": after} for after, change in found
        ]
        rows += [] if len(rows) >= _SHOWN else self._configured()
        if not rows:
            return None
        first, *others = rows
        same = [f"line {row['line']}: {row['words']}" if row["line"] else str(row["words"]) for row in others]
        return {**first, "words": "; or, to the same effect, ".join([str(first["words"]), *same[: _SHOWN - 1]])}

    def _code_found(self, method: str = "", limit: int = _SHOWN) -> list[tuple[float, CodeChange]]:
        """Changes of statements (that run in this method alone) that take the error away, one a line."""
        functions = functions_of(type(self.rehearsal.scheduler), self.files)
        ran: dict[FunctionType, set[int]] = {}
        for row in self.rehearsal.rolled:
            for code, lines in self.rehearsal.lines_of(row, self.files, method).items():
                if code in functions:
                    ran.setdefault(functions[code], set()).update(lines)
        found: list[tuple[float, CodeChange]] = []
        for change in code_changes(ran):
            if len(found) >= limit or time.thread_time() - self.started > BUDGET_S:
                break
            if any((row.file, row.line) == (change.file, change.line) for _, row in found):
                continue
            if any(row.rank < change.rank for _, row in found):
                break  # a plainer change explains it
            with change.made():
                after = self._once(lambda row: nullcontext())
            if not math.isinf(after):
                found.append((after, change))
        return found

    def _configured(self) -> list[dict[str, Any]]:
        """Entries of the configuration with another value."""
        scheduler = self.rehearsal.scheduler
        config = getattr(scheduler, "config", None)
        if not isinstance(config, Mapping):
            return []
        plain = {name: value for name, value in dict(config).items() if not str(name).startswith("_")}
        rows: list[dict[str, Any]] = []
        for change in changes_to_try(plain, 0):
            alike = all(n in self.official_config and self.official_config[n] == plain[n] for n in change)
            if alike or "disable_corrector" in change:
                continue
            with tolerant():
                made = type(scheduler)(**accepted(type(scheduler).__init__, {**plain, **change}))
                after = self._once(lambda row, made=made: self._as(made))  # type: ignore[misc]
                if not math.isinf(after):
                    words = ", ".join(f"{n}={v!r} in place of {plain[n]!r}" for n, v in change.items())
                    rows.append({"words": f"{words} in its configuration", "file": "", "line": 0, "after": after})
        return rows

    @contextmanager
    def _as(self, other: Any) -> Iterator[None]:
        """The scheduler as another one of its class."""
        inside = vars(self.rehearsal.scheduler)
        inside.clear()
        inside.update(copy.deepcopy(vars(other)))
        yield

    def _of_conversions(self) -> dict[str, Any] | None:
        for words, convert in _CONVERSIONS:
            after = self._once(lambda row, convert=convert: self.rehearsal.with_output(convert))  # type: ignore[misc]
            if not math.isinf(after):
                file, line = self._line_of("step")
                return {"words": f"step: {words}", "file": file, "line": line, "after": after}
        return None


def _entry(config: Any, name: str) -> Any:
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _tables(tables: dict[str, Any], train: float) -> Tables | None:
    """The tables of one walk; timesteps that no output holds are those of the sigmas."""
    sigmas, timesteps = tables.get("sigmas"), tables.get("timesteps")
    if sigmas is None and timesteps is None:
        return None
    wide = None if sigmas is None else sigmas.double().cpu().numpy()
    if timesteps is None:
        assert wide is not None
        return Tables(wide[:-1] * train, wide)
    return Tables(timesteps.double().cpu().numpy(), wide)


def _other_shift(port: Tables, official: Tables, shifts: list[float]) -> Cause | None:
    """Another shift: it multiplies the odds sigma / (1 - sigma), so their quotient is the same everywhere."""
    n = len(official.timesteps)
    if port.sigmas is None or official.sigmas is None or len(port.sigmas) != len(official.sigmas):
        return None
    mine, theirs = port.sigmas[:n], official.sigmas[:n]
    inside = (mine > 1e-3) & (mine < 1 - 1e-3) & (theirs > 1e-3) & (theirs < 1 - 1e-3)
    if inside.sum() < _FEWEST:
        return None
    quotients = (mine / (1 - mine) * (1 - theirs) / theirs)[inside]
    factor = float(np.median(quotients))
    if abs(factor - 1) < 1e-3 or not np.allclose(quotients, factor, rtol=1e-4):
        return None
    for shift in shifts:  # the official table says which of the two shifts is its own
        for own, ports in ((shift, shift * factor), (shift / factor, shift)):
            if straight(unshifted(theirs, own)):
                return Cause("shift-value", f"the shift is {ports:.5g} in place of {own:.5g}")
    words = f"the shift of the sigmas is {factor:.5g} times the official one"
    return Cause("shift-value", words)


def _with_remedy(cause: Cause, official: Tables, shifts: list[float], train: float) -> Cause:
    """The cause, and what to do about it."""
    mend = _MEND.get(cause.code, "")
    if cause.code == "shift-formula":
        mend = "take s u / (1 + (s - 1) u)"
    if cause.code in ("grid-points", "grid-ends", "sigma-min-zero"):
        mend = _official_grid(official, shifts)
    return Cause(cause.code, f"{cause.words}: {mend}" if mend else cause.words)


def _official_grid(official: Tables, shifts: list[float]) -> str:
    """The official grid before its shift, in words, if with one of these shifts it is a straight line."""
    assert official.sigmas is not None
    n = len(official.timesteps)
    for shift in shifts:
        raw = unshifted(official.sigmas[:n], shift)
        if n >= _FEWEST and straight(raw):
            words = f"of {n} points the official one is, before the shift {shift:g}, linspace({raw[0]:.6g}, "
            past = raw[-1] + (raw[-1] - raw[0]) / (n - 1)
            if abs(past) < 1e-5:
                return f"{words}{0}, {n + 1})[:-1]"
            return f"{words}{raw[-1]:.6g}, {n})"
    return ""
