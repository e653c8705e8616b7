"""check_integration on a small FastVideo: what it finds is there, what it misses is not, and bad files stop nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastvideo_port.port.approval_policy import Policy
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import gate
from fastvideo_port.port.ledger import Entry, Ledger
from fastvideo_port.port.plan_blocks import blocks_of
from fastvideo_port.port.plan_evidence import evidence_of
from fastvideo_port.port.records import ComponentRecord, PortRecord, now
from fastvideo_port.tests.parity import small_fastvideo
from fastvideo_port.tests.parity.small_fastvideo import ID, git
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.check_integration import CheckIntegrationResult, check_integration

PORT = "port-0123456789abcdef"
DIT = "fastvideo/models/dits/tiny.py"
PIPELINE = "fastvideo/pipelines/basic/tiny/tiny_pipeline.py"
PAGE = "docs/inference/tiny.md"
TEST = "tests/local_tests/tiny/test_transformer_parity.py"
STATUS = "tests/local_tests/tiny/PORT_STATUS.md"
REGISTRY = "fastvideo/registry.py"


class Small:
    """The port and its check."""

    def __init__(self, folder: Path) -> None:
        home = folder / "state"
        home.mkdir()
        self.root = folder / "a worktree"
        base = small_fastvideo.make(self.root)
        self.ctx = ToolContext(home=home, cwd=self.root)
        self.ctx.ports.add(
            PortRecord(
                port_id=PORT,
                model_name="Tiny",
                slug="tiny",
                worktree=str(self.root),
                branch="b",
                base_commit=base,
                mode="worktree",
                repository="r",
                python="/p",
                components=[
                    ComponentRecord(
                        name="transformer",
                        kind="dit",
                        official="official_tiny.Net",
                        port="fastvideo.models.dits.tiny.TinyTransformer3DModel",
                        adapter="a.py",
                    )
                ],
                created_at=now(),
            )
        )

    def check(self) -> CheckIntegrationResult:
        return check_integration(self.ctx, PORT)

    def item(self) -> tuple[str, str]:
        """State and reason of the gate's item on documentation."""
        found = gate(self.ctx.ports.get(PORT), Ledger(self.ctx.home).entries(PORT))
        item = next(item for item in found if item.id == "documentation")
        return item.state, item.why

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text, (path, old)
        (self.root / path).write_text(text.replace(old, new))


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """A port that is wired in and documented."""
    return Small(tmp_path)


def test_a_wired_and_documented_port_passes_and_opens_its_item(small: Small) -> None:
    assert small.item()[0] == "missing"
    result = small.check()
    assert result.verdict == "pass" and result.missing == [] and result.wrong == [], result
    places = {row.id: row.where for row in result.found}
    assert places["model"] == f"{DIT}:16" and places["entry-class"] == f"{DIT}:20"
    assert places["mapping"] == "fastvideo/configs/models/dits/tiny.py:2"
    assert places["pipeline-config"] == "fastvideo/configs/pipelines/tiny.py:1"
    assert places["registration"] == f"{REGISTRY}:12"
    assert places["presets"] == "fastvideo/pipelines/basic/tiny/presets.py:1"
    assert places["pipeline"] == f"{PIPELINE}:4" and places["stages"].startswith(PIPELINE)
    assert places["docs-matrix"] == "docs/inference/support_matrix.md:6"
    assert {"docs-usage", "docs-constraints", "docs-memory", "docs-speed", "docs-backends", "port-status", "example",
            "parity-test", "ssim-test", "attention", "required-modules", "config-export"} <= set(places)  # fmt: skip
    for where in places.values():
        assert (small.root / where.partition(":")[0]).is_file(), where
    assert small.item()[0] == "pass"
    assert "gate_status" in result.next_step and len(result.model_dump_json()) < 8000


SETTLED = {"wire-config", "wire-stages", "wire-registry", "test-transformer", "docs"}


def done(small: Small) -> set[str]:
    """Steps of the plan that are done."""
    port, entries = small.ctx.ports.get(PORT), Ledger(small.ctx.home).entries(PORT)
    assert not any(blocks_of(port, entries, step, Policy()) == [""] for step in SETTLED - done_by(port, entries))
    return done_by(port, entries)


def done_by(port: PortRecord, entries: list[Entry]) -> set[str]:
    return {step for step, state in evidence_of(port, entries, []).items() if state == "done"}


def test_it_settles_the_steps_of_the_plan_that_it_measures(small: Small) -> None:
    assert not SETTLED & done(small)
    small.check()
    assert done(small) >= SETTLED
    small.edit(REGISTRY, 'default_preset="tiny_t2v"', 'default_preset="tiny_t2v" ')
    assert not SETTLED & done(small), "what was found is stale"


@pytest.mark.parametrize(
    ("path", "old", "new", "left"),
    [
        ("fastvideo/configs/pipelines/tiny.py", "TinyConfig", "OtherConfig", {"test-transformer"}),
        (REGISTRY, 'default_preset="tiny_t2v"', 'default_preset="absent"', {"test-transformer", "wire-stages"}),
        (PIPELINE, "self.add_stage", "self.remember", {"test-transformer", "wire-config", "wire-registry"}),
        (PIPELINE, "class ", "from diffusers import WanPipeline\n\nclass ", SETTLED - {"wire-stages", "docs"}),
        (TEST, "assert_close", "print", SETTLED - {"test-transformer", "docs"}),
        (PAGE, "6 GB", "some", SETTLED - {"docs"}),
    ],
    ids=["config", "preset", "stages", "foreign", "test", "docs"],
)  # fmt: skip
def test_what_it_does_not_find_leaves_its_step_open(
    small: Small, path: str, old: str, new: str, left: set[str]
) -> None:
    small.edit(path, old, new)
    small.check()
    assert SETTLED & done(small) == left


def test_asking_again_adds_nothing_to_the_ledger(small: Small) -> None:
    first = small.check()
    assert small.check().check_id == first.check_id and len(Ledger(small.ctx.home).entries(PORT)) == 1


@pytest.mark.parametrize(
    ("path", "old", "new", "id_"),
    [
        (DIT, "EntryClass = TinyTransformer3DModel", "", "entry-class"),
        (DIT, "class TinyTransformer3DModel(", "class Renamed(", "model"),
        (DIT, "from fastvideo.configs.models.dits import TinyConfig", "", "model-config"),
        ("fastvideo/configs/models/dits/tiny.py", "param_names_mapping", "other", "mapping"),
        ("fastvideo/configs/models/dits/__init__.py", "TinyConfig", "NoConfig", "config-export"),
        ("fastvideo/configs/pipelines/tiny.py", "TinyConfig", "OtherConfig", "pipeline-config"),
        (REGISTRY, "pipeline_config_cls=TinyT2VConfig", "pipeline_config_cls=Elsewhere", "registration"),
        (REGISTRY, '        model_family="tiny",\n', "", "registration"),
        (REGISTRY, 'default_preset="tiny_t2v"', 'default_preset="absent"', "presets"),
        (REGISTRY, "from fastvideo.pipelines.basic.tiny.presets import ALL_PRESETS as TINY_PRESETS", "pass", "presets"),
        (PIPELINE, "EntryClass = TinyPipeline", "", "pipeline"),
        (PIPELINE, "_required_config_modules", "_modules", "required-modules"),
        (PIPELINE, "self.add_stage", "self.remember", "stages"),
        ("tests/local_tests/tiny/test_transformer_parity.py", "assert_close", "print", "parity-test"),
        ("tests/local_tests/tiny/test_transformer_parity.py", "official_tiny", "fastvideo", "parity-test"),
        ("examples/inference/basic/basic_tiny.py", ID, "org/Other", "example"),
        ("docs/inference/support_matrix.md", ID, f"{ID}-2", "docs-matrix"),
        (PAGE, ID, "Tiny", "docs-page"),
        (PAGE, "```bash", "", "docs-usage"),
        (PAGE, "## Constraints\n\nHeight and width must be multiples of 16.", "", "docs-constraints"),
        (PAGE, "6 GB", "some", "docs-memory"),
        (PAGE, "takes 1.2 s", "takes some time", "docs-speed"),
        (PAGE, "TORCH_SDPA and FLASH_ATTN", "every backend", "docs-backends"),
        (
            PAGE,
            "## Constraints\n\nHeight and width must be multiples",
            "<!-- constraints must be -->",
            "docs-constraints",
        ),
        (STATUS, "## Decisions\n", "", "port-status"),
        (STATUS, "## Decisions\n\nSaid here.", "## Decisions\n\nTODO", "port-status"),
        (STATUS, "## Decisions\n", "```\n## Decisions\n```\n", "port-status"),
    ],
)
def test_each_part_that_is_gone_is_missed_by_name_and_closes_the_item(
    small: Small, path: str, old: str, new: str, id_: str
) -> None:
    small.edit(path, old, new)
    result = small.check()
    assert result.verdict == "fail" and id_ in [row.id for row in result.missing], result.missing
    row = next(row for row in result.missing if row.id == id_)
    assert row.where and row.what and "check_integration again" in result.next_step
    state, why = small.item()
    assert state == "fail" and why


def test_a_missing_ssim_test_is_said_and_closes_nothing(small: Small) -> None:
    (small.root / "fastvideo/tests/ssim/test_tiny_similarity.py").unlink()
    result = small.check()
    assert result.verdict == "pass" and [row.id for row in result.missing] == ["ssim-test"]


MODELS = {
    "plain": "from diffusers import WanTransformer3DModel",
    "renamed": "from diffusers import AutoencoderKLWan as Tokenizer",
    "submodule": "from diffusers.models.attention_processor import Attention",
    "pipeline": "from diffusers import DiffusionPipeline as P",
    "lazy": "def load():\n    from transformers import T5EncoderModel\n    return T5EncoderModel",
    "try": "try:\n    from transformers import UMT5EncoderModel\nexcept ImportError:\n    pass",
    "module": "import transformers as t\nmodel = t.CLIPTextModel",
    "deep": "import diffusers\nmodel = diffusers.models.transformers.WanTransformer3DModel",
    "import_module": "import importlib\nx = importlib.import_module('diffusers.models.transformers.transformer_wan')",
    "import_module and attribute": "import importlib\nx = importlib.import_module('diffusers').WanTransformer3DModel",
    "getattr": "from importlib import import_module as i\nimport transformers\nx = getattr(transformers, 'AutoModel')",
    "import_module in getattr": "import importlib\nx = getattr(importlib.import_module('diffusers'), 'VQModel')",
    "import_module by name": "import importlib\nd = importlib.import_module('diffusers')\nm = d.AutoencoderKL",
    "__import__": "m = __import__('transformers').LlamaForCausalLM",
    "star": "from diffusers.models import *",
    "from module": "from diffusers import models\nm = models.AutoencoderKL",
}


@pytest.mark.parametrize("how", MODELS)
def test_a_foreign_model_class_is_found_however_it_is_imported(small: Small, how: str) -> None:
    """In a new file that nothing of the port names: the branch changed it, so it counts."""
    (small.root / "fastvideo/models/helper.py").write_text(f"X = 1\n{MODELS[how]}\n")
    result = small.check()
    assert "foreign-model" in [row.id for row in result.wrong], result
    assert next(row for row in result.wrong if row.id == "foreign-model").where.startswith(
        "fastvideo/models/helper.py:"
    )
    assert small.item()[0] == "fail"


@pytest.mark.parametrize(
    "text",
    [
        "from transformers import AutoTokenizer, T5TokenizerFast, AutoProcessor, PretrainedConfig",
        "from diffusers.utils.torch_utils import randn_tensor",
        "from diffusers.configuration_utils import ConfigMixin, register_to_config",
        "from diffusers.schedulers.scheduling_utils import SchedulerMixin",
        "from transformers.activations import ACT2FN",
        "from transformers.modeling_outputs import BaseModelOutputWithPast",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from diffusers import AutoencoderKL",
        "# from diffusers import AutoencoderKL\nTEXT = 'from diffusers import AutoencoderKL'",
        "from .diffusers import WanTransformer3DModel",
        "from fastvideo.models import WanTransformer3DModel",
    ],
)
def test_tokenizers_utilities_and_type_hints_are_allowed(small: Small, text: str) -> None:
    (small.root / "fastvideo/models/helper.py").write_text(text + "\n")
    assert small.check().verdict == "pass"


def test_what_upstream_did_before_the_branch_is_a_note_at_most(small: Small) -> None:
    assert small.check().verdict == "pass"  # fastvideo/old.py prints and imports a model, untouched
    (small.root / "fastvideo/old.py").write_text("from transformers import T5EncoderModel\nprint('upstream')\nX = 1\n")
    result = small.check()
    assert result.verdict == "pass", result.wrong
    (note,) = [row for row in result.notes if row.id == "foreign-model"]
    assert note.where == "fastvideo/old.py:1" and "before this branch" in note.what


def test_committed_and_staged_changes_count_as_well(small: Small) -> None:
    small.edit(DIT, "class TinyBlock", "from diffusers import AutoencoderKL\n\n\nclass TinyBlock")
    git(small.root, "add", "-A")
    git(small.root, "commit", "-q", "-m", "port")
    assert "foreign-model" in [row.id for row in small.check().wrong]


@pytest.mark.parametrize(
    "text", ["print(1)", "breakpoint()", "import pdb; pdb.set_trace()", "import torch\ntorch.save(1, 'x')"]
)
def test_debugging_remnants_in_changed_files_are_named_with_their_line(small: Small, text: str) -> None:
    small.edit(PIPELINE, "EntryClass", f"{text}\nEntryClass")
    rows = [row for row in small.check().wrong if row.id == "remnant"]
    assert rows and rows[0].where.startswith(f"{PIPELINE}:1")


def test_the_official_code_must_not_be_imported(small: Small, tmp_path: Path) -> None:
    (tmp_path / "official/official_tiny").mkdir(parents=True)
    (tmp_path / "official/official_tiny/__init__.py").write_text("")
    official = str(tmp_path / "official")
    small.ctx.ports.update(PORT, lambda port: port.model_copy(update={"official_repo": official}))
    assert small.check().verdict == "pass"
    small.edit(PIPELINE, "EntryClass", "def f():\n    import official_tiny.net\n\n\nEntryClass")
    assert "official-code" in [row.id for row in small.check().wrong]


def test_attention_that_breaks_the_convention_is_named(small: Small) -> None:
    small.edit(DIT, "self.attn = LocalAttention", "self.attn = DistributedAttention")
    (row,) = [row for row in small.check().wrong if row.id == "attention"]
    assert row.where == f"{DIT}:7" and "cross" in row.what.lower()
    small.edit(DIT, "DistributedAttention(num_heads=2)", "LocalAttention(num_heads=2)")
    result = small.check()
    assert [row.where for row in result.notes if row.id == "attention"] == [DIT]


@pytest.mark.parametrize("path", [DIT, REGISTRY, PAGE, STATUS, "examples/inference/basic/basic_tiny.py"])
def test_one_changed_character_in_what_it_rests_on_makes_it_stale(small: Small, path: str) -> None:
    small.check()
    with (small.root / path).open("a") as file:
        file.write("\n")
    state, why = small.item()
    assert state == "stale" and f"{path} changed" in why and "check_integration" in why
    small.check()
    assert small.item()[0] == "pass"


def test_a_file_that_it_does_not_rest_on_may_change(small: Small) -> None:
    small.check()
    small.edit("fastvideo/configs/pipelines/other.py", "OtherPipelineConfig", "OtherPipelineConfig2")
    assert small.item()[0] == "pass"


def test_a_quoted_path_that_is_not_there_is_wrong(small: Small) -> None:
    small.edit(STATUS, "Said here.", "See `tests/local_tests/tiny/absent.py`.")
    assert "absent.py" in next(row for row in small.check().wrong if row.id == "port-status").what


HOSTILE: dict[str, Callable[[Path], object]] = {
    "syntax error": lambda path: path.write_text("class (:\n"),
    "50 MB": lambda path: path.write_bytes(b"x = 1\n" * (50_000_000 // 6)),
    "not UTF-8": lambda path: path.write_bytes(b"x = '\xff\xfe'\n"),
    "NUL": lambda path: path.write_bytes(b"x = 1\0\n"),
    "deep": lambda path: path.write_text("x = " + "(" * 5000 + ")" * 5000),
    "deep unary": lambda path: path.write_text("x = " + "-" * 200_000 + "1"),
    "link out": lambda path: path.symlink_to("/etc/passwd"),
    "link to itself": lambda path: path.symlink_to(path),
    "FIFO": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("place", ["fastvideo/configs/pipelines/bad.py", "tests/local_tests/tiny/test_a.py", DIT])
def test_a_bad_file_stops_nothing_and_is_named_where_it_matters(small: Small, what: str, place: str) -> None:
    path = small.root / place
    path.unlink(missing_ok=True)
    HOSTILE[what](path)
    began = time.monotonic()
    result = small.check()
    assert time.monotonic() - began < 20
    assert result.verdict == ("fail" if place == DIT else "pass"), (result.missing, result.wrong)
    if place == DIT:
        assert "model" in [row.id for row in result.missing]


def test_a_folder_link_that_leads_out_is_not_followed(small: Small, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/bad.py").write_text("from diffusers import AutoencoderKL\n")
    (small.root / "fastvideo/configs/pipelines/link").symlink_to(tmp_path / "outside")
    assert small.check().verdict == "pass"


def test_where_git_cannot_say_what_changed_everything_counts(small: Small) -> None:
    small.ctx.ports.update(PORT, lambda port: port.model_copy(update={"base_commit": "--output=x"}))
    small.edit(DIT, "class TinyBlock", "from diffusers import AutoencoderKL\n\n\nclass TinyBlock")
    assert "foreign-model" in [row.id for row in small.check().wrong]
    assert not (small.root / "x").exists()


def test_without_a_plan_it_says_what_to_call(small: Small) -> None:
    small.ctx.ports.update(PORT, lambda port: port.model_copy(update={"components": []}))
    with pytest.raises(PortError, match="no plan") as caught:
        small.check()
    assert "write_plan" in caught.value.fix


def test_nothing_of_the_worktree_is_imported(small: Small) -> None:
    (small.root / "fastvideo/models/helper.py").write_text("raise SystemExit('imported')\n")
    small.edit(PIPELINE, "EntryClass", "open('/nonexistent/x')\nEntryClass")
    assert small.check().verdict == "pass"
