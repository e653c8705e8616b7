"""What the tests of whole comparisons share: sides that begin without the seconds that importing torch takes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity import children


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process with torch imported, of which the sides are forked; see ``warm.py``."""
    name = "_parity_warm"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("warm.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    process = sys.modules[name].Warm(tmp_path_factory.mktemp("w"))
    yield process
    process.close()


@pytest.fixture
def warm_sides(warm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides of this test's comparisons are forked; each is a process of its own as ever."""
    monkeypatch.setattr(children.subprocess, "Popen", warm.popen)
