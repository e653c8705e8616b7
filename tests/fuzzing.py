"""What the property tests share: how many examples, an alarm for what does not end, and inputs that parsers fear.

`make test` draws the same examples every time. ``FASTVIDEO_PORT_FUZZ=20`` draws twenty times as many, at random.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("FASTVIDEO_PORT_FUZZ", "0"))
"""How many times the usual number of examples; 0: the usual number, always the same ones."""

END_S = 10
"""Seconds after which one example hangs. No measure of speed: the machine may be busy."""

T = TypeVar("T")


def load_profile() -> None:
    """Make every property test of the suite repeatable, unless a long search was asked for."""
    common: dict[str, Any] = {
        "deadline": None,
        "database": None,
        "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    }
    settings.register_profile("repeatable", derandomize=True, **common)
    settings.register_profile("long", print_blob=True, **common)
    settings.load_profile("long" if FACTOR else "repeatable")


def examples(count: int) -> Callable[[T], T]:
    """``@examples(100)``: that many examples, more in a long search."""

    def decorate(test: T) -> T:
        return settings(max_examples=count * max(1, FACTOR))(test)  # type: ignore[type-var]

    return decorate


class Hang(BaseException):
    """An example did not end. No `Exception`, so that nothing under test can swallow it."""


@contextmanager
def alarm(seconds: float = END_S) -> Iterator[None]:
    """Raise `Hang` in the main thread if the block takes longer."""

    def ring(number: int, frame: object) -> None:
        raise Hang(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, in case a callback of the interpreter swallows it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_clear(error: Any) -> None:
    """An error says all three parts, briefly, in text that can be sent."""
    assert error.what and error.fix
    text = str(error)
    text.encode()
    assert len(text) < 6000
    for foreign in ("Traceback", "validation error", "object at 0x", "input_value"):
        assert foreign not in text


ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        "..",
        "a/b",
        "a\0b",
        "\ud800",
        "\u202e",
        "\r",
        "%2e%2e",
        "-x",
        "~",
        "NaN",
        "1e999",
        "9" * 5000,
        "٣",
        "\x1b[2J",
    ]
)
"""Text of all characters, half surrogate pairs among them."""

NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 2**63, -1, 0, -0.0, float("inf"), float("-inf"), float("nan"), 1e308])
)

SCALARS = st.none() | st.booleans() | NUMBERS | ANY_TEXT


def values(keys: st.SearchStrategy[str] = ANY_TEXT, leaves: int = 12) -> st.SearchStrategy[Any]:
    """Any JSON value whose objects have ``keys``; NaN and infinities among them, as Python's reader takes them."""
    return st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=leaves,
    )


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` with some bytes replaced, inserted, doubled or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        how = draw(st.sampled_from(["replace", "double", "cut"]))
        if how == "replace":
            data[at:end] = draw(st.binary(max_size=6) | st.sampled_from([b"[", b"{", b'"', b"null", b"-1", b"1e999"]))
        elif how == "double":
            data[at:at] = data[at:end] * draw(st.integers(1, 3))
        else:
            del data[at:]
    return bytes(data)


def as_bytes(value: Any) -> bytes:
    """``value`` as JSON, as an ill-meaning writer would send it: NaN, half pairs and all."""
    return json.dumps(value).encode()


def json_files(keys: st.SearchStrategy[str], sound: Any) -> st.SearchStrategy[bytes]:
    """Contents of a JSON file: a spoilt sound one, any value with such keys, any bytes, and bottomless nesting."""
    deep = st.sampled_from([b"[" * 5_000, b'{"a":' * 5_000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"9" * 10_000])
    return spoilt(as_bytes(sound)) | values(keys).map(as_bytes) | st.binary(max_size=40) | deep
