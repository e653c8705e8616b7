"""Every fault ends in a truthful state with nothing lost, and the table is able to say otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .audit import Fault, Promise, Seen, judged, seen_of_run, verdict
from .catalogue import FAULTS, LEFT_OUT
from .lab import Lab, make_template
from .plants import PLANTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits, signals and rights are set as Linux has them")

HERE = Path(__file__).resolve().parent
BY_ID = {fault.id: fault for fault in FAULTS}
QUICK = [fault for fault in FAULTS if not fault.slow]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one finished run, to copy."""
    return make_template(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("fault", QUICK, ids=[fault.id for fault in QUICK])
def test_a_fault_ends_as_promised(fault: Fault, tmp_path: Path, template: Path) -> None:
    """The slow ones are left to `make chaos`."""
    _, wrong = judged(fault, tmp_path, template)
    assert wrong == []


def test_the_names_are_unique_and_there_are_enough() -> None:
    assert [name for name, count in Counter(fault.id for fault in FAULTS).items() if count > 1] == []
    assert len(FAULTS) >= 140 and len(QUICK) >= 100
    assert set(BY_ID) >= LEFT_OUT


@pytest.mark.parametrize(
    ("plant", "fault", "words"),
    [
        ("says done", "kill-supervisor-working", "the state is done, promised crashed"),
        ("loses results", "kill-supervisor-before-record", "A RESULT WAS LOST"),
        ("invents values", "kill-supervisor-before-record", "A FALSE RESULT"),
        ("gives no reason", "kill-supervisor-working", "crashed with the error None"),
        ("forgets progress", "kill-supervisor-working", "the last progress is ''"),
        ("forgets the log", "kill-supervisor-working", "the end of the log was lost"),
        ("leaves processes", "kill-supervisor-daemon", "1 processes were left"),
        ("loses other runs", "kill-supervisor-working", "the run before: refused"),
    ],
)
def test_a_store_that_lies_turns_the_table_red(
    plant: str, fault: str, words: str, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name, value in PLANTS[plant]:
        monkeypatch.setattr(place, name, value)
    _, wrong = judged(BY_ID[fault], tmp_path, template)
    assert any(words in line for line in wrong), wrong


def test_every_plant_is_tried() -> None:
    (tried,) = (
        mark.args[1]
        for mark in test_a_store_that_lies_turns_the_table_red.pytestmark
        if mark.name == "parametrize"  # type: ignore[attr-defined]
    )
    assert {plant for plant, *_ in tried} == set(PLANTS)


def test_a_job_that_is_executed_twice_is_seen(tmp_path: Path, template: Path) -> None:
    def act(lab: Lab) -> Seen:
        run_id = lab.begin()
        lab.store.wait(run_id, 30)
        with Path(lab.record(run_id).arguments["witness"]).open("a") as file:
            file.write("begun\n")
        return seen_of_run(lab, run_id)

    _, wrong = judged(Fault("twice", "", "", Promise("done", "kept"), act), tmp_path, template)
    assert wrong == ["the job was executed twice"]


def test_a_fault_that_did_not_happen_is_no_success(tmp_path: Path, template: Path) -> None:
    def act(lab: Lab) -> Seen:
        raise AssertionError("the process did not come to the point where it should die")

    _, wrong = judged(Fault("idle", "", "", Promise("unknown"), act), tmp_path, template)
    assert len(wrong) == 1 and "did not come to the point" in wrong[0]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen("done", "none", "step 2", why="it died"), "the state is done, promised crashed"),
        (Seen("crashed", "kept", "step 2", why="it died"), "the result is kept, promised none"),
        (Seen("crashed", "none", "step 1", why="it died"), "the last progress is 'step 1'"),
        (Seen("crashed", "none", "step 2", why="it rests"), "the reason does not say"),
        (Seen("crashed", "none", "step 2", log=False, why="it died"), "the end of the log was lost"),
        (Seen("crashed", "none", "step 2", left=2, why="it died"), "2 processes were left"),
    ],
)
def test_every_part_of_a_promise_is_held_against_what_was_seen(seen: Seen, words: str) -> None:
    promise = Promise("crashed", progress="step 2", words="died")
    assert verdict(promise, Seen("crashed", "none", "step 2", why="it died"), "kept") == []
    (wrong,) = verdict(promise, seen, "kept")
    assert words in wrong


def test_the_table_has_exit_status_1_when_a_row_is_red() -> None:
    table = [sys.executable, str(HERE / "run.py"), "--only", "kill-supervisor-working"]
    good = subprocess.run(table, capture_output=True, text=True, check=False)
    assert good.returncode == 0 and "1 faults, 1 as promised, 0 not" in good.stdout, good
    bad = subprocess.run([*table, "--plant", "says done"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1 and "WRONG" in bad.stdout and "the state is done" in bad.stdout, bad
