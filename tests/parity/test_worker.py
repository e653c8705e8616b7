"""The worker's side of a run, without processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fastvideo_port.parity import job as job_module
from fastvideo_port.parity import worker
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.job import Job
from fastvideo_port.parity.out_of_memory import parse_holders
from fastvideo_port.parity.strict_json import encode, write_atomically


class _Scalar:
    shape = ()

    def item(self) -> float:
        return 0.5


def test_numbers_that_json_lacks_become_words_and_scalars_numbers() -> None:
    value = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": (1, True, None), "c": Path("x"), "d": _Scalar()}
    expected = {"a": ["nan", "inf", "-inf", 1.5], "b": [1, True, None], "c": "x", "d": 0.5}
    assert json.loads(encode(value), parse_constant=lambda token: pytest.fail(token)) == expected


def test_text_that_is_no_unicode_survives() -> None:
    assert json.loads(encode({"name": "a\udc80b"})) == {"name": "a\udc80b"}


@pytest.mark.parametrize(("value", "place"), [({"a": [object()]}, "value.a[0]"), ({"a": {1: 2}}, "value.a")])
def test_what_has_no_form_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(TypeError, match=place.replace("[", r"\[")):
        encode(value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result.json"
    write_atomically(target, b"old", durable=True)

    def full(self: Path, other: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        write_atomically(target, b"new", durable=True)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def _progress(folder: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((folder / "progress.json").read_bytes())
    return loaded


def test_progress_never_falls_and_is_written_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0

    def count(path: Path, data: bytes, *, durable: bool) -> None:
        nonlocal writes
        writes += 1
        write_atomically(path, data, durable=durable)

    monkeypatch.setattr(job_module, "write_atomically", count)
    job = Job(tmp_path)
    for done in range(10000):
        job.progress(done, 10000, "step")
    assert writes < 50
    job.progress(5, math.nan, "back")
    job.progress(math.nan, 10000, "x" * 9999)
    job.flush()
    assert _progress(tmp_path) == {"done": 9999.0, "total": 10000, "message": "x" * 500}


def test_a_full_disk_does_not_end_a_job_over_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, *, durable: bool) -> None:
        raise OSError(28, "No space left on device")

    job = Job(tmp_path)
    monkeypatch.setattr(job_module, "write_atomically", full)
    job.progress(1, 2)


def test_only_calls_outside_the_engine_are_shown() -> None:
    try:
        worker._load("no such job", {}, "x")
    except ParityError as error:
        described = worker.describe(error)
    assert described["what"] == "The engine has no such job."
    try:
        encode(object())
    except TypeError as error:
        described = worker.describe(error)
    assert "test_worker.py" in described["seen"] and "strict_json.py" not in described["seen"]
    assert "strict_json.py" in described["traceback"]


def test_a_spec_that_is_not_there_is_a_result(tmp_path: Path) -> None:
    worker.main("ssim", str(tmp_path))
    result = json.loads((tmp_path / "result.json").read_bytes())
    assert result["ok"] is False and "FileNotFoundError" in result["error"]["what"]
    assert not (tmp_path / "result.mac").exists(), "without the supervisor's key nothing is authenticated"


def test_the_jobs_are_functions_of_this_package() -> None:
    for place in worker.JOBS.values():
        module, _, function = place.partition(":")
        source = Path(worker.__file__).with_name(f"{module}.py")
        assert source.exists() and f"def {function}(" in source.read_text()


def test_holders_of_gpu_memory_are_told_in_words() -> None:
    text = "00000000:18:00.0, 4242, /opt/a, b/python, 70310 MiB\n00000000:18:00.0, 7, python, [N/A]\nNo devices\n"
    assert parse_holders(text, 7) == [
        "GPU 00000000:18:00.0: process 4242, /opt/a, b/python, holds 70310 MiB",
        "GPU 00000000:18:00.0: process 7 (this process), python, holds [N/A]",
    ]


def test_out_of_gpu_memory_says_what_to_change() -> None:
    torch = pytest.importorskip("torch")
    described = worker.describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert described["what"] == "The job ran out of GPU memory." and "Tried to allocate" in described["seen"]
    assert "smaller case" in described["fix"]


@pytest.mark.gpu
def test_out_of_gpu_memory_says_how_much_was_free() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
    assert "GiB free of" in worker.describe(caught.value)["seen"]
