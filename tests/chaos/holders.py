"""The queue for GPUs: holders that died, tickets that are none."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from . import children
from .audit import ALL_STEPS, Promise, Seen, fault, seen_of_run
from .lab import Lab, until

GPU = {"devices": ["cuda:0"]}


@fault("holder-killed", "queue", "the supervisor that holds the GPU is killed while another waits for it",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    first = lab.begin(hold=True, spec=GPU)
    holder = lab.held(first)
    second = lab.begin(spec=GPU)
    until(lambda: (lab.folder(second) / "progress.json").exists(), "the second run does not wait")
    lab.kill(holder.supervisor)
    seen = seen_of_run(lab, second)
    if (other := seen_of_run(lab, first)).state != "crashed" or other.wrong:
        seen.wrong.append(f"the holder's run is {other.state}: {other.wrong}")
    return seen


def _spoiled(lab: Lab) -> Path:
    leases = lab.home / "leases"
    leases.mkdir(exist_ok=True)
    (leases / "000000000001.ticket").write_bytes(b"")
    (leases / "000000000002.ticket").write_bytes(b'{"run_id": "run-dead", "devices": ["cuda:0"]}')
    (leases / "000000000003.ticket").write_bytes(b"\xff\x00garbage")
    (leases / "no number.ticket").write_bytes(b"[]")
    (leases / "000000000004.ticket").symlink_to("nowhere")
    return leases


@fault("holders-dead", "queue", "tickets of dead holders, empty, cut and garbage, stand before the run's",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    _spoiled(lab)
    return seen_of_run(lab, lab.begin(spec=GPU))


@fault("tickets-no-files", "queue", "a folder and a FIFO stand in the queue in place of tickets",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    leases = _spoiled(lab)
    (leases / "000000000005.ticket").mkdir()
    os.mkfifo(leases / "000000000006.ticket")
    return seen_of_run(lab, lab.begin(spec=GPU))


@fault("holder-without-words", "queue", "living holders whose tickets say nothing that a ticket says",
       Promise("done", "kept", ALL_STEPS))  # fmt: skip
def _(lab: Lab) -> Seen:
    leases = lab.home / "leases"
    leases.mkdir()

    def hold() -> None:
        kept = []
        for number, text in enumerate((b"[]", b"{}", b'{"devices": 3}', b"7", b'{"devices": ["cuda:0"]}'), 1):
            path = leases / f"{number:012d}.ticket"
            path.write_bytes(text)
            kept.append(os.open(path, os.O_RDWR))
            fcntl.flock(kept[-1], fcntl.LOCK_EX)
        (lab.place / "locked").touch()
        time.sleep(60)

    holder, answer = children.begin(hold)
    until((lab.place / "locked").exists, "the tickets were not locked")
    try:
        return seen_of_run(lab, lab.begin(spec=GPU))
    finally:
        lab.kill_number(holder)
        children.end(holder, answer)


@fault("file-for-queue", "queue", "a file stands in place of the folder of the queue",
       Promise("crashed", words="leases"))  # fmt: skip
def _(lab: Lab) -> Seen:
    (lab.home / "leases").write_text("in the way")
    return seen_of_run(lab, lab.begin(spec=GPU))
