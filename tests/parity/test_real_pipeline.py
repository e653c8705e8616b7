"""FastVideo's real Wan pipeline against diffusers': it passes as it is, and one wrong line is red at its stage."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FAULTS = Path(__file__).resolve().parents[1] / "faults"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipeline_faults", FAULTS / "pipelines.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pipelines = _load()
# The text's mistakes, one of each other stage, and a rewrite; `make faults` runs all.
STAGE_BY_STAGE = (
    "prompts-padded-and-their-mask-lost",
    "embeds-not-zeroed-beyond-the-length",
    "embeds-of-half-the-length",
    "prompt-not-cleaned",
    "negative-prompt-dropped",
    "prompts-truncated-at-226",
    "guidance-scale-minus-one",
    "prompts-exchanged",
    "one-step-too-few",
    "mean-and-std-swapped",
    "latents-of-another-height",
    "guidance-as-interpolation",
)


def _some(name: str) -> Any:
    return name if name in STAGE_BY_STAGE else pytest.param(name, marks=pytest.mark.thorough)


@pytest.fixture(scope="module")
def suite(fastvideo_template: Path, fastvideo_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A copy of FastVideo and small weights; the official side has run once, on the untouched pipeline."""
    folder = tmp_path_factory.mktemp("pipelines")
    made = pipelines.Suite(fastvideo_template, str(fastvideo_python), folder / "suite")
    with pipelines.forked(str(fastvideo_python), folder, made.worktree):
        value = made.compare()
        assert not pipelines.wrong(None, value), pipelines.explain(value)
        assert value["self_test"]["passed"] and value["reference"]["kind"] == "float64"
        assert [step["step"] for step in value["cases"][0]["steps"]] == [0, 1, 2, 3]
        assert [case["case"] for case in value["cases"][2::2]] == ["long prompt", "unclean prompt"]
        assert all([row["name"] for row in case["stages"]] == ["text", "text.negative"] for case in value["cases"][2:])
        yield made


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", [_some(name) for name in pipelines.FAULTS])
def test_one_wrong_line_of_fastvideo_is_red_and_its_stage_is_named(name: str, suite: Any) -> None:
    edit = pipelines.FAULTS[name]
    value = suite.edited(edit)
    assert value["reference"]["reused"], "an edit of the port must not run the official side again"
    assert not pipelines.wrong(edit, value), pipelines.explain(value)


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", [_some(name) for name in pipelines.REWRITES])
def test_a_correct_rewrite_of_fastvideo_is_not_accused(name: str, suite: Any) -> None:
    edit = pipelines.REWRITES[name]
    value = suite.edited(edit)
    assert not pipelines.wrong(edit, value), pipelines.explain(value)


def test_there_are_enough_mistakes_and_every_stage_has_one(fastvideo_template: Path) -> None:
    assert len(pipelines.FAULTS) >= 20 and len(pipelines.REWRITES) >= 3
    stages = {edit.guilty.split(".")[0] for edit in pipelines.FAULTS.values()}
    assert stages == {"text", "latents", "timesteps", "denoising", "decode"}
    for edit in (*pipelines.FAULTS.values(), *pipelines.REWRITES.values()):
        text = (fastvideo_template / edit.file).read_text().replace(*pipelines.CLEANING)
        assert text.count(edit.old) == 1, edit
