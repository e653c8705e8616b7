"""Files of a run and of the state folder that are gone, cut, garbage or no files at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from .audit import ALL_STEPS, FAULTS, Fault, Promise, Seen, fault, seen_of_run
from .lab import Lab


def _away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(3000))


def _fifo(path: Path) -> None:
    _away(path)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    _away(path)
    path.mkdir()


def _loop(path: Path) -> None:
    _away(path)
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "gone": _away,
    "cut": _cut,
    "garbage": _garbage,
    "fifo": _fifo,
    "folder": _folder,
    "loop": _loop,
}

WHEN = {"before the start": "at-start", "after the job's end": "unrecorded", "after the run's end": "recorded"}

SPEC = Promise("failed", words="spec.json was changed")
REFUSED = Promise("done", "refused", ALL_STEPS)
UNUSABLE = Promise("crashed", progress=ALL_STEPS, words="result")

# file, when it is damaged, the damages, promise
CASES: list[tuple[str, str, tuple[str, ...], Promise]] = [
    ("spec.json", "before the start", ("gone", "cut", "fifo", "folder"), SPEC),
    ("log.txt", "before the start", ("fifo", "folder", "loop"), Promise("done", "kept", ALL_STEPS, log=False)),
    ("supervisor.log", "before the start", ("fifo",), Promise("crashed", words="supervisor of this run cannot be")),
    (".", "before the start", ("gone",), Promise("crashed", words="supervisor of this run cannot be", log=False)),
    ("progress.json", "after the job's end", ("gone", "garbage", "fifo", "folder"), Promise("done", "kept", "")),
    ("log.txt", "after the job's end", ("gone", "fifo", "folder"), Promise("done", "kept", ALL_STEPS, log=False)),
    ("result.json", "after the job's end", ("cut", "garbage", "fifo", "folder", "loop"), UNUSABLE),
    ("result.mac", "after the job's end", ("gone", "garbage", "fifo"), UNUSABLE),
    ("result.json", "after the run's end", ("gone", "cut", "fifo", "folder"), REFUSED),
    (".", "after the run's end", ("gone",), Promise("done", "refused", ALL_STEPS, log=False)),
]  # fmt: skip


def _damage(name: str, when: str, damage: str, lab: Lab) -> Seen:
    if when == "before the start":
        run_id = lab.create().run_id
        DAMAGES[damage](lab.folder(run_id) / name)
        lab.store.start(run_id)
    elif when == "after the job's end":
        # Killed before it looks at the result: the reader does so, in the server's own process.
        run_id = lab.begin(supervisor_dies_at="supervise.py:_attend:return")
        lab.sprung()
        DAMAGES[damage](lab.folder(run_id) / name)
    else:
        run_id = lab.begin()
        lab.store.wait(run_id, 30)
        DAMAGES[damage](lab.folder(run_id) / name)
    return seen_of_run(lab, run_id)


for _name, _when, _damages, _promise in CASES:
    for _kind in _damages:
        FAULTS.append(
            Fault(
                f"{'folder' if _name == '.' else _name}-{_kind}-{WHEN[_when]}",
                "files",
                f"{'the run folder' if _name == '.' else _name}: {_kind}, {_when}",
                _promise,
                lambda lab, name=_name, when=_when, kind=_kind: _damage(name, when, kind, lab),
            )
        )


@fault("result-of-another-run", "files", "result and signature of the run before are put in place of this run's",
       Promise("crashed", words="not what the worker wrote"))  # fmt: skip
def _(lab: Lab) -> Seen:
    run_id = lab.begin(supervisor_dies_at="supervise.py:_attend:return")
    lab.sprung()
    for name in ("result.json", "result.mac"):
        shutil.copy(lab.folder(lab.bystander) / name, lab.folder(run_id) / name)
    return seen_of_run(lab, run_id)
