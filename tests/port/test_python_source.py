"""Parsing other people's Python from several threads."""

from __future__ import annotations

import argparse
import ast
import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastvideo_port.port.python_source import parse_python


@pytest.fixture
def _a_collector_that_lets_others_in() -> Iterator[None]:
    threshold, callback = gc.get_threshold(), lambda *_: time.sleep(0)
    gc.callbacks.append(callback)
    gc.set_threshold(200)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(callback)


def _failures(parser: Callable[[str], Any]) -> list[BaseException]:
    """What four threads meet that parse the same large module eight times."""
    found: list[BaseException] = []
    text = inspect.getsource(argparse)

    def work() -> None:
        for _ in range(8):
            try:
                parser(text)
            except SystemError as error:
                found.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.usefixtures("_a_collector_that_lets_others_in")
def test_threads_may_parse_at_the_same_time() -> None:
    assert not _failures(parse_python)


@pytest.mark.usefixtures("_a_collector_that_lets_others_in")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="mended there")
def test_without_taking_turns_they_may_not() -> None:
    """Red: what `parse_python` is for. One of a few rounds meets it."""
    assert any(_failures(ast.parse) for _ in range(20))


def test_invalid_escapes_of_others_are_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert isinstance(parse_python('"\\d"'), ast.Module) and not recwarn.list
    with pytest.raises(SyntaxError):
        parse_python("a = (")
