"""run_example over real runs: a real script, real videos, the real worker."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from fastvideo_port.parity.frames import open_frames
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.tests.parity.examples import DIT, PORT, SCRIPT, Example, make
from fastvideo_port.tools.run_example import ExampleDetails, RunExampleResult, finish, run_example
from fastvideo_port.tools.run_status import run_status
from fastvideo_port.tools.show_picture import show_picture


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """A port with an example that works."""
    return make(tmp_path)


def codes(result: RunExampleResult) -> list[str]:
    return [row.code for row in result.findings]


def details(result: RunExampleResult) -> ExampleDetails:
    assert result.details is not None
    return result.details


def test_a_working_example_passes_and_opens_its_item(example: Example) -> None:
    assert example.item().state == "missing"
    result = example.run()
    assert (result.state, result.verdict, details(result).exit_code) == ("done", "pass", 0), result
    assert result.video is not None and details(result).videos == ["outputs/tiny.mp4"]
    assert (result.video.frames, result.video.width, result.video.height, result.video.fps) == (12, 128, 96, 16)
    assert result.findings == [] and "show_picture" in result.next_step and len(result.model_dump_json()) < 6000
    item = example.item()
    assert item.state == "pass" and item.evidence == [result.run_id]
    (entry,) = Ledger(example.ctx.home).entries(PORT)
    assert {f"worktree:{path}" for path in (SCRIPT, DIT, "fastvideo/__init__.py")} <= set(entry.depends_on)
    assert "worktree:fastvideo/unused.py" not in entry.depends_on
    assert finish(example.ctx, example.ctx.runs.get(result.run_id)) == result
    assert len(Ledger(example.ctx.home).entries(PORT)) == 1


def test_the_contact_sheet_is_a_picture_that_show_picture_shows(example: Example, tmp_path: Path) -> None:
    result = example.run()
    assert result.contact_sheet is not None
    name = Path(result.contact_sheet.path).name
    picture = show_picture(example.ctx, result.run_id, name)
    assert picture.mime == "image/png"
    (tmp_path / "sheet.png").write_bytes(picture.data)
    with open_frames(tmp_path / "sheet.png") as reader:
        assert (reader.width, reader.height) == (4 * 128, 3 * (96 + 16))


@pytest.mark.parametrize("path", [SCRIPT, DIT])
def test_one_character_in_the_script_or_in_what_it_imported_makes_it_stale(example: Example, path: str) -> None:
    example.run()
    file = example.worktree / path
    text = file.read_text()
    file.write_text(text + "#")
    item = example.item()
    assert item.state == "stale" and f"{path} changed" in item.why and "run_example" in item.why
    file.write_text(text)
    assert example.item().state == "pass"


def test_a_file_that_the_script_did_not_import_may_change(example: Example) -> None:
    example.run()
    example.write("fastvideo/unused.py", "X = 2\n")
    assert example.item().state == "pass"


def test_other_weights_make_it_stale(example: Example) -> None:
    from fastvideo_port.port.records import WeightsRecord

    example.run()
    weights = WeightsRecord(path="/w", source="a/b", revision=None, digest="0" * 64)
    example.ctx.ports.update(PORT, lambda port: port.model_copy(update={"weights": weights}))
    assert example.item().state == "stale" and "weights" in example.item().why


@pytest.mark.parametrize(
    ("what", "new", "code"),
    [
        ("black", "pixels = frames() * 0", "black"),
        ("one colour", "pixels = frames() * 0 + 99", "constant"),
        ("static", "pixels = frames(1).repeat(12, 0)", "static"),
        (
            "noise",
            "import numpy; pixels = numpy.random.default_rng(0).integers(0, 256, (12, 96, 128, 3)).astype('uint8')",
            "noise",
        ),
        ("a NaN frame", "pixels = frames(); pixels[7] = 0", "constant-frames"),
        ("clipped", "pixels = ((frames()[..., :1] > 127) * 255).astype('uint8').repeat(3, -1)", "clipped"),
        ("one frame", "pixels = frames(1)", "single-frame"),
    ],
)
def test_a_picture_that_is_none_never_passes(example: Example, what: str, new: str, code: str) -> None:
    result = example.run(example.script("pixels = frames()", new))
    assert code in codes(result), (what, result)
    assert result.verdict in ("fail", "inconclusive") and details(result).why and result.contact_sheet is not None
    assert example.item().state == "fail"


def test_a_failing_exit_code_fails_even_with_a_good_video(example: Example) -> None:
    result = example.run(example.script('print("Saved to", path)', "raise ValueError('after the video')"))
    assert (result.verdict, details(result).exit_code) == ("fail", 1)
    assert (
        "script-failed" in codes(result)
        and "after the video" in details(result).why
        and "after the video" in details(result).log
    )
    assert result.video is not None and result.video.frames == 12
    assert example.item().state == "fail"


@pytest.mark.parametrize(
    ("ending", "seen"), [("import os; os._exit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 11)", "SIGSEGV")]
)
def test_a_script_that_ends_without_python_s_own_end_still_tells_what_it_imported(
    example: Example, ending: str, seen: str
) -> None:
    result = example.run(example.script('print("Saved to", path)', ending))
    assert result.verdict == "fail" and seen in details(result).why
    (entry,) = Ledger(example.ctx.home).entries(PORT)
    assert f"worktree:{DIT}" in entry.depends_on


def test_what_a_spawned_worker_imports_counts_as_imported(example: Example) -> None:
    """FastVideo builds its models in spawned processes."""
    example.write(
        SCRIPT,
        """
import multiprocessing
import os


def work():
    import runpy
    import sys
    sys.argv = ["x"]
    from examples_helper import main
    main()
    os._exit(0)


if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
""",
    )
    from fastvideo_port.tests.parity.examples import EXAMPLE

    body = "".join(f"    {line}\n" for line in EXAMPLE.strip().splitlines())
    example.write("examples_helper.py", f"def main():\n{body}")
    result = example.run()
    assert result.verdict == "pass", result
    (entry,) = Ledger(example.ctx.home).entries(PORT)
    assert {f"worktree:{DIT}", "worktree:examples_helper.py"} <= set(entry.depends_on)


_STAGE = """
import torch

def dtype():
    with torch.autocast(device_type="cuda", dtype=torch.bfloat16, enabled=True):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
"""


@pytest.mark.parametrize(("patches", "verdict"), [([], "fail"), (["cpu-autocast"], "pass")])
def test_the_autocast_patch_holds_in_an_example_too(example: Example, patches: list[str], verdict: str) -> None:
    for folder in ("fastvideo/pipelines", "fastvideo/pipelines/stages"):
        example.write(f"{folder}/__init__.py", "")
    example.write("fastvideo/pipelines/stages/denoising.py", _STAGE)
    check = "import fastvideo.pipelines.stages.denoising as d; assert 'bfloat16' in str(d.dtype())\npixels = frames()"
    example.ctx.ports.update(PORT, lambda old: old.model_copy(update={"environment_patches": patches}))
    result = example.run(example.script("pixels = frames()", check))
    assert result.verdict == verdict, result


def test_no_video_is_said(example: Example) -> None:
    result = example.run(example.script("write(path, pixels)", "pass"))
    assert result.verdict == "fail" and codes(result) == ["no-video"] and result.video is None


def test_a_video_outside_the_worktree_is_named(example: Example, tmp_path: Path) -> None:
    result = example.run(SCRIPT, str(tmp_path / "elsewhere.mp4"))
    assert result.verdict == "fail" and codes(result) in (["video-outside"], ["no-video"])
    via_python = "write(path, pixels)"
    copied = "import shutil; write('/dev/shm/x.mp4' if 0 else sys.argv[1], pixels); open(sys.argv[1], 'rb').close()"
    result = example.run(example.script(via_python, copied), str(tmp_path / "elsewhere.mp4"))
    assert codes(result) == ["video-outside"] and "elsewhere.mp4" in details(result).why
    assert example.item().state == "fail"


@pytest.mark.parametrize(
    "trick",
    [
        "import shutil; shutil.copy('outputs/old.mp4', path)",
        "import os; os.link('outputs/old.mp4', path)",
        "import os; os.rename('outputs/old.mp4', path)",
        "import os; os.utime('outputs/old.mp4')",
        "open(path, 'wb').write(open('outputs/old.mp4', 'rb').read())",
    ],
)
def test_an_old_video_under_a_new_name_or_time_is_never_the_one_of_this_run(example: Example, trick: str) -> None:
    example.run(SCRIPT, "outputs/old.mp4")
    assert example.item().state == "pass"
    result = example.run(example.script("write(path, pixels)", trick))
    assert result.verdict == "inconclusive" and codes(result) == ["old-video"], result
    assert result.video is None and "Delete" in result.next_step
    assert example.item().state == "fail"


def test_a_video_that_was_there_before_the_port_and_outside_it_cannot_be_brought_in(
    example: Example, tmp_path: Path
) -> None:
    example.run()
    shutil.move(example.worktree / "outputs/tiny.mp4", tmp_path / "earlier.mp4")
    trick = f"import shutil; shutil.copy({str(tmp_path / 'earlier.mp4')!r}, path)"
    result = example.run(example.script("write(path, pixels)", trick))
    assert result.verdict == "inconclusive" and codes(result) == ["old-video"]


def test_the_same_bytes_written_again_ask_for_the_old_file_to_go(example: Example) -> None:
    example.run()
    result = example.run()
    assert codes(result) == ["old-video"]
    example.clear()
    assert example.run().verdict == "pass"


def test_of_several_videos_the_one_that_the_output_names_is_judged(example: Example) -> None:
    twice = "write(path, pixels); write('outputs/also.mp4', frames(5))"
    result = example.run(example.script("write(path, pixels)", twice))
    assert result.verdict == "pass" and codes(result) == ["several-videos"]
    assert sorted(details(result).videos) == ["outputs/also.mp4", "outputs/tiny.mp4"]
    assert result.video is not None and result.video.path.endswith("tiny.mp4")
    example.clear()
    example.write(SCRIPT, (example.worktree / SCRIPT).read_text().replace("print(", "str("))
    result = example.run()
    assert result.video is not None and result.video.path.endswith("also.mp4")  # the newest


@pytest.mark.parametrize("content", ["'not a video'.encode()", "open('outputs/whole.mp4', 'rb').read()[:4000]"])
def test_what_cannot_be_decoded_to_its_end_fails(example: Example, content: str) -> None:
    new = f"write('outputs/whole.mp4', pixels); data = {content}; open(path, 'wb').write(data)"
    result = example.run(example.script("write(path, pixels)", new))
    assert result.verdict == "fail" and "unreadable" in codes(result)
    assert result.video is None and result.contact_sheet is None


def test_a_script_that_does_not_use_the_port_proves_nothing(example: Example) -> None:
    example.write("examples/own.py", (example.worktree / DIT).read_text())
    result = example.run(example.script("from fastvideo.models.tiny import", "from own import", path="examples/no.py"))
    assert result.verdict == "inconclusive" and "port-not-from-worktree" in codes(result)
    own = example.script(
        "from fastvideo.models.tiny import", "import fastvideo; from own import", path="examples/no.py"
    )
    example.clear()
    result = example.run(own)
    assert (
        result.verdict == "inconclusive" and codes(result) == ["component-not-imported"] and DIT in details(result).why
    )
    assert example.item().state == "fail"


def test_an_example_that_runs_the_official_code_fails(example: Example, tmp_path: Path) -> None:
    (tmp_path / "official").mkdir()
    (tmp_path / "official/their_model.py").write_text((example.worktree / DIT).read_text())
    example.ctx.ports.update(PORT, lambda port: port.model_copy(update={"official_repo": str(tmp_path / "official")}))
    example.write(DIT, f"import sys\nsys.path.append({str(tmp_path / 'official')!r})\nfrom their_model import frames\n")
    result = example.run()
    assert result.verdict == "fail" and "official-code-in-port" in codes(result)


def test_an_isolated_interpreter_whose_imports_are_unknown_is_no_evidence(example: Example) -> None:
    path = example.worktree.parent / "isolated"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I "$@"\n')
    path.chmod(0o755)
    example.ctx.ports.update(PORT, lambda port: port.model_copy(update={"python": str(path)}))
    result = example.run(example.script("import sys\n", "import sys; sys.path.insert(0, '.')\n"))
    assert (result.verdict, codes(result)) == ("inconclusive", ["imports-unknown"]), result


def test_a_script_outside_examples_is_a_trial_only(example: Example) -> None:
    result = example.run(example.script(path="try_it.py"))
    assert result.verdict == "pass" and "examples/" in result.next_step
    item = example.item()
    assert item.state == "missing" and "outside examples/" in item.why


def test_a_file_that_changes_while_the_script_runs_is_named(example: Example) -> None:
    edit = f"open({DIT!r}, 'a').write('#'); write(path, pixels)"
    result = example.run(example.script("write(path, pixels)", edit))
    assert result.verdict == "inconclusive" and codes(result) == ["changed-meanwhile"] and DIT in details(result).why
    assert example.item().state == "stale"


def test_the_reference_is_compared_with_run_ssim_s_metric(example: Example) -> None:
    example.run(SCRIPT, "outputs/reference.mp4")
    noisy = "pixels = frames(); pixels[..., 0] ^= 1"
    result = example.run(example.script("pixels = frames()", noisy), reference="outputs/reference.mp4")
    assert result.verdict == "pass" and details(result).ssim is not None, result
    assert (
        details(result).ssim.metric == "ssim"
        and details(result).ssim.mean is not None
        and 0.9 < details(result).ssim.mean <= 1
    )
    assert "worst_frames.png" in [Path(picture.path).name for picture in details(result).pictures]
    example.script("pixels = frames()", "pixels = frames()[:, ::-1].copy()")
    result = example.run(reference="outputs/reference.mp4")
    assert result.verdict == "fail" and "unlike-reference" in codes(result)


def test_without_waiting_the_run_goes_on_and_run_status_gives_the_result(example: Example) -> None:
    begun = run_example(example.ctx, PORT, SCRIPT, wait_s=0)
    assert begun.verdict is None and begun.run_id in begun.next_step
    status = run_status(example.ctx, begun.run_id, wait_s=45)
    assert status.state == "done" and status.result is not None and status.result["verdict"] == "pass"


def test_bad_arguments_are_refused_and_no_run_is_made(example: Example) -> None:
    outside = example.worktree.parent / "outside.py"
    outside.write_text("")
    (example.worktree / "link.py").symlink_to(outside)
    os.mkfifo(example.worktree / "fifo.py")
    example.write("notes.txt", "")
    for script in ("../outside.py", str(outside), "link.py", "fifo.py", "examples", "absent.py", "notes.txt", "a\0.py"):
        with pytest.raises(PortError) as caught:
            example.run(script)
        assert caught.value.seen and caught.value.fix, script
    for more in ({"args": ["x\0"]}, {"args": ["x"] * 99}, {"reference": "../outside.py"}, {"wait_s": -1}):
        with pytest.raises(PortError):
            run_example(example.ctx, PORT, SCRIPT, **more)  # type: ignore[arg-type]
    assert example.ctx.runs.list() == []
