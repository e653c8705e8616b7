"""Children forked from a process that has imported torch: alone as ever, and without what belongs to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_KEY = "c" * 64
_COORDINATOR = """
import json, os, sys, time
from pathlib import Path
import numpy.random
from fastvideo_port.parity import fork_server
from fastvideo_port.parity.children import Child
folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
server = fork_server.start(sys.argv[2], folder)
key = os.read(0, 64).decode()
def child(name):
    return Child(spec["python"], "side", folder / name, {**spec, "out": str(folder / name)}, folder)
"""
_ADAPTER = """
import json, os, sys, time
from pathlib import Path
import numpy
here = Path(__file__).parent
frame, names = sys._getframe(), []
while frame is not None:
    held = {**frame.f_globals, **frame.f_locals}.values()
    names += [repr(value) for value in held if isinstance(value, (str, bytes))]
    frame = frame.f_back
facts = {"pid": os.getpid(), "draw": float(numpy.random.rand()), "path": sys.path[0], "torch": "torch" in sys.modules,
         "left on stdin": os.read(0, 64).decode(), "open": sorted(os.listdir("/proc/self/fd")), "strings": names}
(here / f"facts.{os.getpid()}.tmp").write_text(json.dumps(facts))
(here / f"facts.{os.getpid()}.tmp").rename(here / f"facts.{os.getpid()}.json")
time.sleep(float(os.environ.get("SLEEP", 0)))
raise RuntimeError("this adapter only looks around")
"""


class Lab:
    """A folder with an adapter that tells what it finds, and a coordinator in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "adapter.py").write_text(_ADAPTER)
        spec = {"adapter": str(folder / "adapter.py"), "worktree": str(folder), "python": sys.executable}
        spec |= {"shared": str(folder), "device": "cpu", "side": "official", "cases": None, "seeds": [0], "patches": []}
        (folder / "spec.json").write_text(json.dumps(spec))

    def start(self, code: str, job: str = "component_parity", **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _COORDINATOR + code, str(self.folder), job]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **environment})
        assert process.stdin is not None
        process.stdin.write(_KEY.encode())
        process.stdin.flush()
        return process

    def run(self, code: str, job: str = "component_parity", **environment: str) -> str:
        process = self.start(code, job, **environment)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return said.decode().strip()

    def facts(self, count: int) -> list[dict[str, object]]:
        deadline = time.monotonic() + 60
        while len(found := sorted(self.folder.glob("facts.*.json"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [json.loads(path.read_text()) for path in found]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """See `Lab`."""
    return Lab(tmp_path)


_TWO = """
both = [child("a"), child("b")]
codes = [one.process.wait() for one in both]
print(json.dumps([codes, [one.spoke() for one in both], "torch" in sys.modules]))
server.close()
"""


def test_children_find_no_key_and_draw_numbers_of_their_own(lab: Lab) -> None:
    assert json.loads(lab.run(_TWO)) == [[0, 0], [True, True], True]
    one, other = lab.facts(2)
    assert one["pid"] != other["pid"] and one["draw"] != other["draw"]
    for found in (one, other):
        assert found["path"] == str(lab.folder) and found["torch"] and found["left on stdin"] == ""
        assert not any(_KEY in text for text in found["strings"])  # type: ignore[attr-defined]
        assert len(found["open"]) <= 6, "the other child's pipes and the server's socket are closed"  # type: ignore[arg-type]


def test_a_child_that_is_killed_ends_with_its_signal(lab: Lab) -> None:
    code = (
        "one = child('a'); running = one.process.poll(); one.stop(); print(running, one.process.poll(), one.failed())"
    )
    assert lab.run(f"{code}; server.close()", SLEEP="60") == "None -9 True"


@pytest.mark.skipif(sys.platform != "linux", reason="processes die with their parent on Linux only")
@pytest.mark.parametrize("killed", ["os.getpid()", "server._pid"])
def test_children_die_with_the_coordinator_and_with_the_server(lab: Lab, killed: str) -> None:
    code = f"one = child('a'); sys.stdin.read(1); os.kill({killed}, 9); print(one.process.wait())"
    process = lab.start(code, SLEEP="60")
    (found,) = lab.facts(1)
    said, _ = process.communicate(b"k", timeout=30)
    assert said.strip() == (b"" if killed == "os.getpid()" else b"-9")
    deadline = time.monotonic() + 10
    while Path(f"/proc/{found['pid']}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_of_the_worktree_is_imported_before_the_fork(lab: Lab) -> None:
    (lab.folder / "safetensors.py").write_text("raise SystemExit('the coordinator ran code of the port')")
    process = f"import os; os.chdir({str(lab.folder)!r}); sys.path[0] = {str(lab.folder)!r}"
    code = _COORDINATOR.replace("server =", f"{process}\nserver =") + "print(server is not None); server.close()"
    command = [sys.executable, "-c", code, str(lab.folder), "component_parity"]
    done = subprocess.run(command, input=_KEY.encode(), stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"True"


@pytest.mark.parametrize("change", [{"official_python": "/elsewhere/python"}, {"python": "/elsewhere/python"}])
def test_children_of_another_interpreter_start_afresh(lab: Lab, change: dict[str, str]) -> None:
    spec = json.loads((lab.folder / "spec.json").read_text())
    (lab.folder / "spec.json").write_text(json.dumps({**spec, **change}))
    assert lab.run("print(server, 'torch' in sys.modules)") == "None False"
    assert lab.run("print(server)", job="check_mapping") == "None"
