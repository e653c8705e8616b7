"""What the tests of whole comparisons share: sides that begin without the seconds that importing torch takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastvideo_port.parity import children

from .warm import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A process with torch imported, of which the sides are forked; see ``warm.py``."""
    process = Warm(tmp_path_factory.mktemp("w"))
    yield process
    process.close()


@pytest.fixture
def warm_sides(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides of this test's comparisons are forked; each is a process of its own as ever."""
    monkeypatch.setattr(children.subprocess, "Popen", warm.popen)
