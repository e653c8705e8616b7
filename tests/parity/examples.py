"""A port with a real example script that writes a real video, for the tests of what runs and reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fastvideo_port.port.gate import GateItem, gate
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.port.records import ComponentRecord, PortRecord, now
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.run_example import RunExampleResult, run_example

PORT = "port-0123456789abcdef"
SCRIPT = "examples/inference/basic/basic_tiny.py"
DIT = "fastvideo/models/tiny.py"

FRAMES = """
import numpy as np


def frames(count=12, height=96, width=128):
    y, x = np.mgrid[:height, :width]
    made = []
    for index in range(count):
        red = 127 + 90 * np.sin((x + 7 * index) / 9) + 30 * np.sin(y / 5)
        green = 127 + 90 * np.sin((y + 5 * index) / 11 + x / 17)
        blue = (x + 2 * y + 9 * index) % 256
        made.append(np.stack([red, green, blue], -1))
    return np.clip(np.stack(made), 0, 255).astype(np.uint8)
"""

EXAMPLE = """
import sys

import av

from fastvideo.models.tiny import frames


def write(path, pixels, fps=16):
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())


pixels = frames()
path = sys.argv[1] if len(sys.argv) > 1 else "outputs/tiny.mp4"
write(path, pixels)
print("Saved to", path)
"""


@dataclass
class Example:
    """The port, and what its tests do to it."""

    ctx: ToolContext
    worktree: Path

    @property
    def port(self) -> PortRecord:
        """Its record."""
        return self.ctx.ports.get(PORT)

    def write(self, path: str, text: str) -> Path:
        """Put a file into the worktree."""
        target = self.worktree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.lstrip("\n"))
        return target

    def script(self, old: str = "", new: str = "", path: str = SCRIPT) -> str:
        """Write the example with ``old`` replaced by ``new``."""
        assert old in EXAMPLE
        self.write(path, EXAMPLE.replace(old, new) if old else EXAMPLE)
        return path

    def run(self, script: str = SCRIPT, *args: str, reference: str | None = None) -> RunExampleResult:
        """Run it."""
        return run_example(self.ctx, PORT, script, args=list(args), reference=reference)

    def item(self, id_: str = "example") -> GateItem:
        """An item of the gate."""
        return next(item for item in gate(self.port, Ledger(self.ctx.home).entries(PORT)) if item.id == id_)

    def clear(self) -> None:
        """Delete what was written."""
        for path in (self.worktree / "outputs").iterdir():
            path.unlink()


def make(folder: Path) -> Example:
    """The port below ``folder``; its interpreter is this one, which has PyAV."""
    home, worktree = folder / "state home", folder / "a worktree"
    home.mkdir()
    (worktree / "outputs").mkdir(parents=True)
    made = Example(ToolContext(home=home, cwd=worktree), worktree)
    for path in ("fastvideo/__init__.py", "fastvideo/registry.py", "fastvideo/models/__init__.py"):
        made.write(path, "")
    made.write("fastvideo/unused.py", "X = 1\n")
    made.write(DIT, FRAMES)
    made.script()
    subprocess.run(["git", "init", "-q"], cwd=worktree, check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
    made.ctx.ports.add(
        PortRecord(
            port_id=PORT,
            model_name="Tiny",
            slug="tiny",
            worktree=str(worktree),
            branch="b",
            base_commit="c",
            mode="worktree",
            repository="r",
            python=sys.executable,
            components=[
                ComponentRecord(
                    name="dit", kind="dit", official="o.Net", port="fastvideo.models.tiny.Net", adapter="tests/a.py"
                )
            ],
            created_at=now(),
        )
    )
    return made
