"""Why two tables of sigmas or timesteps differ: each usual mistake is made to the official table, and compared.

Formulas: flow matching shifts a raw grid ``u`` to ``s u / (1 + (s - 1) u)`` (Esser et al. 2024, eq. 23); its inverse is
``x / (s - (s - 1) x)``. Everything here is float64 except where a mistake of precision itself is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
"""A numpy array of float64."""

_NEAR = 2e-6
"""Sigmas this close are the same up to float32 roundings and their amplification by a shift back and forth."""


@dataclass(frozen=True)
class Cause:
    """A mistake that turns the official table into the port's.

    Attributes:
        code: Stable short name.
        words: What it is, as a sentence without a full stop.
    """

    code: str
    words: str


@dataclass(frozen=True)
class Tables:
    """One walk's tables of one side, in float64."""

    timesteps: Array
    sigmas: Array | None


def shifted(raw: Array, shift: float) -> Array:
    """A raw grid with the shift."""
    return shift * raw / (1 + (shift - 1) * raw)


def unshifted(sigmas: Array, shift: float) -> Array:
    """The raw grid of shifted sigmas."""
    return sigmas / (shift - (shift - 1) * sigmas)


def sigma_cause(
    port: Tables, official: Tables, shift: float | None, train: float, facts: dict[str, float]
) -> Cause | None:
    """The cause of different sigmas.

    Args:
        port, official: The tables.
        shift: Shift of the configuration, none when unknown.
        train: Number of training timesteps.
        facts: ``sigma_min`` and ``sigma_max`` of the official scheduler, where it has them.
    """
    if port.sigmas is None or official.sigmas is None:
        return None
    n, m = len(official.timesteps), len(port.timesteps)
    mine, theirs = port.sigmas, official.sigmas
    if m != n:
        return _count(port.timesteps, official.timesteps)
    body, their_body = mine[:n], theirs[:n]
    if len(mine) != len(theirs) or _same(body, their_body):
        return _terminal(mine, theirs, n, train)
    for cause, table in _whole(mine, theirs, n, train):
        if table.shape == mine.shape and _near(table, mine, theirs):
            return cause
    grids = _grids(body, their_body, shift or 1.0, train, facts)
    for cause, table in grids:
        if table.shape == body.shape and _near(table, body, their_body):
            return cause
    return _precision(body, their_body, shift or 1.0, train, facts) or _fitted(body, their_body, shift or 1.0)


def timestep_cause(port: Tables, official: Tables, train: float) -> Cause | None:
    """The cause of different timesteps beside equal sigmas."""
    mine, theirs = port.timesteps, official.timesteps
    if len(mine) != len(theirs):
        return _count(mine, theirs)
    exact = official.sigmas[: len(theirs)] * train if official.sigmas is not None else theirs
    for cause, table in _rounded(theirs, exact, train):
        if np.array_equal(table, mine):
            return cause
    for factor, words in ((1 / train, "they run from 0 to 1 in place of 0 to N"), (train, "they are multiplied twice")):
        if np.allclose(mine, theirs * factor, rtol=1e-6, atol=0):
            return Cause("timesteps-scaled", f"the timesteps have another unit: {words}")
    if np.allclose(mine, train - theirs, rtol=0, atol=1e-3):
        return Cause("timesteps-inverted", "the timesteps count the other way, N - t in place of t")
    if np.array_equal(mine, theirs[::-1]):
        return Cause("flipped", "the timesteps are in the opposite order")
    offset = mine[0] - theirs[0]
    if offset and np.allclose(mine - theirs, offset, rtol=0, atol=1e-3):
        return Cause("timesteps-offset", f"every timestep is moved by {offset:.6g}")
    if np.allclose(mine[1:], theirs[:-1], rtol=0, atol=1e-3) and len(mine) > 2:
        return Cause("off-by-one", "every timestep is the one before")
    if np.allclose(mine[:-1], theirs[1:], rtol=0, atol=1e-3) and len(mine) > 2:
        return Cause("off-by-one", "every timestep is the one after")
    if _units(mine, theirs) <= 16:
        return Cause("rounding", f"they differ by at most {_units(mine, theirs):.0f} float32 units in the last place")
    return None


def _rounded(theirs: Array, exact: Array, train: float) -> Iterator[tuple[Cause, Array]]:
    was = "cuts off" if np.array_equal(np.floor(exact), theirs) else "keeps the fraction"
    for words, function in (
        ("rounds to the nearest integer", np.rint),
        ("cuts off to an integer", np.floor),
        ("rounds up to an integer", np.ceil),
    ):
        for source in (exact, theirs):
            yield Cause("integer-rounding", f"the port {words} where the official code {was}"), function(source)
    if was == "cuts off":
        yield Cause("integer-rounding", "the port keeps the fraction that the official code cuts off"), exact
    yield Cause("timesteps-bfloat16", "the timesteps are rounded to bfloat16"), _bfloat16(theirs)
    yield Cause("timesteps-float16", "the timesteps are rounded to float16"), theirs.astype(np.float16).astype(float)


def _bfloat16(values: Array) -> Array:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(float)


def _count(mine: Array, theirs: Array) -> Cause:
    words = f"the port has {len(mine)} timesteps in place of {len(theirs)}"
    if len(mine) == len(theirs) + 1 and np.allclose(mine[:-1], theirs, rtol=0, atol=1e-3):
        return Cause("terminal", f"{words}: the terminal point is among the timesteps")
    return Cause("count", words)


def _terminal(mine: Array, theirs: Array, n: int, train: float) -> Cause:
    if len(mine) < len(theirs):
        return Cause("terminal", f"the terminal sigma {theirs[n]:.6g} is missing")
    if len(mine) > len(theirs):
        return Cause("terminal", f"a terminal sigma {mine[-1]:.6g} is appended that the official table does not have")
    last = mine[n]
    how = ""
    if abs(last - mine[n - 1]) < _NEAR:
        how = ", the last sigma again"
    elif abs(last * train - 1) < 1e-4:
        how = ", 1 / N"
    return Cause("terminal", f"the last step ends at sigma {last:.6g}{how} in place of {theirs[n]:.6g}")


def _whole(mine: Array, theirs: Array, n: int, train: float) -> Iterator[tuple[Cause, Array]]:
    body = theirs[:n]
    reversed_body = np.concatenate([body[::-1], theirs[n:]])
    order = Cause("flipped", "the sigmas are in the opposite order")
    yield order, reversed_body
    yield order, theirs[::-1]
    ends = ((theirs[n:], "the terminal one as it was"), (1 - theirs[n:], "the terminal one too"))
    for end, words in ends:
        yield Cause("inverted", f"the sigmas are 1 - sigma, {words}"), np.concatenate([1 - body, end])
    yield Cause("scaled", "the sigmas are in units of timesteps (times N)"), theirs * train
    yield Cause("scaled", "the sigmas are divided by N once more"), theirs / train


def _grids(
    body: Array, theirs: Array, shift: float, train: float, facts: dict[str, float]
) -> Iterator[tuple[Cause, Array]]:
    n = len(theirs)
    raw = unshifted(theirs, shift)
    if shift != 1:
        yield Cause("shift-twice", f"the shift {shift:g} is applied twice"), shifted(theirs, shift)
        yield Cause("shift-missing", f"the shift {shift:g} is not applied"), raw
        words = f"the formula of the shift is {shift:g} u / (1 + {shift:g} u): the - 1 in (shift - 1) is missing"
        yield Cause("shift-formula", words), shift * raw / (1 + shift * raw)
    if n > 1:
        yield Cause("off-by-one", "every sigma is the one after"), np.append(theirs[1:], 0.0)
        yield Cause("off-by-one", "every sigma is the one before"), np.insert(theirs[:-1], 0, theirs[0])
    start, end = raw[0], raw[-1]
    low = float(facts.get("sigma_min", end))
    high = float(facts.get("sigma_max", start))
    past = end - (start - end) / max(n - 1, 1)  # where a grid ends whose last point was dropped
    for top, bottom in dict.fromkeys([(start, end), (high, low), (start, low), (start, past)]):
        for extra, cut, words in (
            (1, slice(None, -1), "the grid has one point more, and the last one is dropped"),
            (1, slice(1, None), "the grid has one point more, and the first one is dropped"),
            (2, slice(1, -1), "the grid has two points more, and both ends are dropped"),
            (0, slice(None), "the grid keeps its last point in place of dropping it"),
        ):
            yield Cause("grid-points", words), shifted(np.linspace(top, bottom, n + extra)[cut], shift)
    mine = unshifted(body, shift)
    ends = {0.0: "zero", 1 / train: "1 / N, as of a schedule without shift"}
    if n > 1 and straight(mine) and straight(raw):
        told = []
        for name, at in (("begins", 0), ("ends", -1)):
            if abs(mine[at] - raw[at]) > _NEAR:
                known = next((text for value, text in ends.items() if abs(mine[at] - value) < 1e-7 + 1e-4 * value), "")
                what = f"{name} at {mine[at]:.6g}{f' ({known})' if known else ''}"
                told.append(f"{what} in place of {raw[at]:.6g}, before the shift")
        if told:
            zero = abs(mine[-1]) < 1e-7 < abs(raw[-1])
            code = "sigma-min-zero" if zero else "grid-ends"
            yield Cause(code, f"the grid {' and '.join(told)}"), shifted(np.linspace(mine[0], mine[-1], n), shift)


def _precision(body: Array, theirs: Array, shift: float, train: float, facts: dict[str, float]) -> Cause | None:
    """Differences of a few units in the last place: the grid is built in float32, or something else rounds."""
    units = _units(body, theirs)
    if units > 64:
        return None
    n = len(theirs)
    raw = unshifted(theirs, shift)
    high, low = float(facts.get("sigma_max", raw[0])), float(facts.get("sigma_min", raw[-1]))
    single = np.float32
    for points in (n, n + 1):
        steps = np.linspace(high * train, low * train, points, dtype=single)[:n] / single(train)
        plain = np.linspace(high, low, points, dtype=single)[:n]
        for grid in (steps, plain):
            one = single(1)
            for table in (
                single(shift) * grid / (one + single(shift - 1) * grid),
                shifted(grid.astype(float), shift).astype(single),
            ):
                if np.array_equal(table.astype(float), body):
                    return Cause("grid-float32", "the grid is built in float32 in place of float64")
    return Cause(
        "rounding", f"at most {units:.0f} float32 units in the last place: built in another precision or order"
    )


def _fitted(body: Array, theirs: Array, shift: float) -> Cause | None:
    """Another shift: the one that every entry asks for, if they agree."""
    raw = unshifted(theirs, shift)
    inside = (raw > 1e-3) & (raw < 1 - 1e-3) & (body > 1e-6) & (body < 1 - 1e-6)
    if inside.sum() < 2:
        return None
    wanted = body[inside] * (1 - raw[inside]) / (raw[inside] * (1 - body[inside]))
    middle = float(np.median(wanted))
    if middle > 0 and np.allclose(wanted, middle, rtol=1e-3):
        return Cause("shift-value", f"the shift is {middle:.5g} in place of {shift:g}")
    return None


def straight(values: Array) -> bool:
    """Whether a grid's points have equal distances."""
    return bool(np.abs(values - np.linspace(values[0], values[-1], len(values))).max() < 1e-5)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.array_equal(a, b)


def _near(table: Array, mine: Array, theirs: Array) -> bool:
    """Whether a hypothesis explains the difference: what is left is rounding, and far less than what it explains."""
    left = float(np.abs(table - mine).max())
    scale = max(1.0, float(np.abs(mine).max()))
    return left <= _NEAR * scale and left <= 0.02 * float(np.abs(mine - theirs).max())


def _units(mine: Array, theirs: Array) -> float:
    """Largest difference in float32 units in the last place of the official values."""
    spacing = np.spacing(np.abs(theirs).astype(np.float32)).astype(float)
    return float((np.abs(mine - theirs) / np.maximum(spacing, 2.0**-149)).max())
