"""The ways in which a worker can end have their truthful states; its deaths and its mischief are in tests/chaos."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.runs import processes
from fastvideo_port.runs.store import RunStore

from .conftest import Begin, until


def test_a_job_that_returns_is_done_with_value_log_files_and_progress(store: RunStore, begin: Begin) -> None:
    seen: list[tuple[float, float | None, str]] = []
    run = store.wait(begin("add", a=1, b=2).run_id, 30, lambda *progress: seen.append(progress))
    assert (run.state, run.exit_code, run.signal, run.error) == ("done", 0, None, None)
    assert store.value(run.run_id) == {"sum": 3}
    assert store.log_tail(run.run_id) == "adding"
    assert (store.folder(run.run_id) / "files" / "note.txt").read_text() == "an artifact"
    assert run.progress is not None and (run.progress.done, run.progress.total) == (2, 2)
    assert seen[-1] == (2, 2, "whole")
    assert run.created_at < (run.started_at or "") < (run.finished_at or "")


def test_progress_is_forwarded_and_never_falls(store: RunStore, begin: Begin) -> None:
    seen: list[float] = []
    run = store.wait(begin("counts").run_id, 30, lambda done, total, message: seen.append(done))
    assert seen == sorted(seen) and len(seen) > 2
    assert run.progress is not None and run.progress.done == 199, "the last progress is not lost to the rate limit"


def test_an_exception_names_the_place_in_foreign_code(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("raises").run_id, 30)
    assert run.state == "failed" and run.error is not None
    assert run.error.what == "The job raised ValueError."
    assert "the adapter is wrong" in run.error.seen and "jobs.py" in run.error.seen
    assert "parity/worker.py" not in run.error.seen


def test_an_expected_failure_keeps_its_three_parts(store: RunStore, begin: Begin) -> None:
    error = store.wait(begin("refuses").run_id, 30).error
    assert error is not None
    assert (error.what, error.seen, error.fix) == ("No case was given.", "CASES = {}", "Add a case.")


@pytest.mark.parametrize(("job", "words"), [("absent", "ModuleNotFoundError"), ("not_json", "TypeError")])
def test_a_worker_without_a_result_is_never_done(store: RunStore, begin: Begin, job: str, words: str) -> None:
    run = store.wait(begin(job).run_id, 30)
    assert (run.state, run.signal, run.exit_code) == ("failed", None, 0)
    assert run.error is not None and words in run.error.what and run.error.fix
    with pytest.raises(PortError, match="no result"):
        store.value(run.run_id)


def test_the_end_of_the_log_is_the_evidence_of_a_crash(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("segfaults").run_id, 30)
    assert run.error is not None and "jobs.py" in run.error.seen, "faulthandler names the place"


def test_numbers_that_json_lacks_arrive_as_words(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("numbers").run_id, 30)
    assert store.value(run.run_id) == {"nan": "nan", "inf": "inf", "least": "-inf", "one": 1.0}


def test_an_interpreter_that_is_not_there_is_named(store: RunStore, tmp_path: Path) -> None:
    run = store.create(
        port_id=None, tool="fake", arguments={}, python="/no/such/python", job="add", spec={}, cwd=tmp_path
    )
    store.start(run.run_id)
    run = store.wait(run.run_id, 30)
    assert run.state == "failed" and run.error is not None
    assert run.error.what == "The worker cannot be launched." and "/no/such/python" in run.error.seen


def test_the_worker_stands_in_its_folder_without_tokens_or_foreign_paths(
    store: RunStore, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    value = store.value(store.wait(begin("environment").run_id, 30).run_id)
    inside = value["environment"]
    assert not {"HF_TOKEN", "WANDB_API_KEY", "PYTHONPATH"} & inside.keys()
    assert inside["TOKENIZERS_PARALLELISM"] == "false" and inside["PYTHONDONTWRITEBYTECODE"] == "1"
    assert value["cwd"] == value["path"] == str(tmp_path)

    run = store.create(
        port_id=None, tool="f", arguments={}, python=sys.executable, job="environment", spec={}, cwd=tmp_path,
        keep_tokens=True,
    )  # fmt: skip
    store.start(run.run_id)
    store.wait(run.run_id, 30)
    assert store.value(run.run_id)["environment"]["HF_TOKEN"] == "hf_secret"


def test_a_result_edited_after_the_end_is_refused(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("add", a=1, b=2).run_id, 30)
    result = store.folder(run.run_id) / "result.json"
    genuine = result.read_text()
    result.write_text(genuine.replace("3", "4"))
    with pytest.raises(PortError, match="changed or removed"):
        store.value(run.run_id)
    result.unlink()
    with pytest.raises(PortError, match="changed or removed"):
        store.value(run.run_id)
    result.write_text(genuine)
    assert store.value(run.run_id) == {"sum": 3}


def test_a_result_of_another_run_is_refused(store: RunStore, begin: Begin) -> None:
    one, two = (store.wait(begin("add", a=1, b=b).run_id, 30) for b in (1, 2))
    for name in ("result.json", "result.mac"):
        (store.folder(one.run_id) / name).write_bytes((store.folder(two.run_id) / name).read_bytes())
    with pytest.raises(PortError, match="changed or removed"):
        store.value(one.run_id)


def test_cancelling_ends_children_grandchildren_and_daemons(store: RunStore, begin: Begin) -> None:
    run = begin("forks")
    until(lambda: (store.folder(run.run_id) / "files" / "ready").exists())
    until(lambda: len(processes.marked(run.run_id)) >= 4)
    cancelled = store.cancel(run.run_id)
    assert cancelled.state == "cancelled"
    assert processes.marked(run.run_id) == []
    assert cancelled.progress is not None and cancelled.progress.done == 3
    assert store.cancel(run.run_id) == cancelled, "cancelling twice changes nothing"


def test_cancelling_before_and_at_once_after_the_start(store: RunStore, begin: Begin, tmp_path: Path) -> None:
    run = store.create(port_id=None, tool="f", arguments={}, python=sys.executable, job="add", spec={}, cwd=tmp_path)
    assert store.cancel(run.run_id).state == "cancelled"
    assert store.start(run.run_id).state == "cancelled"
    assert store.cancel(begin("hangs").run_id).state == "cancelled"


def test_cancelling_a_finished_run_leaves_it(store: RunStore, begin: Begin) -> None:
    run = store.wait(begin("add", a=1, b=2).run_id, 30)
    assert store.cancel(run.run_id) == run
