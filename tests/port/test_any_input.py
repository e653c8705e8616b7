"""Every file and text that comes from outside is read, or refused in our words; none crashes or hangs a reader."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port import git, licence, official_needs, requirements
from fastvideo_port.port.approval_policy import POLICY_NAME, read_policy
from fastvideo_port.port.convert_file import read_convert_file
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.hub import check_id
from fastvideo_port.port.names import check_branch_prefix, display_name, slugify
from fastvideo_port.port.paths import check_text, resolve_inside
from fastvideo_port.port.plan import edit_step, read_plan, render_plan, write_plan_file
from fastvideo_port.port.plan_steps import PlanDraft, check_components
from fastvideo_port.port.records import ComponentRecord
from fastvideo_port.port.safetensors_header import read_header
from fastvideo_port.port.textsafe import bullet, cell, clean, fenced, inline_code, one_line, quoted, redact
from fastvideo_port.port.weights import read_weights
from fastvideo_port.runs.outcome import Ending, judge
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from ..fuzzing import ANY_TEXT, alarm, as_bytes, assert_clear, examples, json_files, spoilt
from ..runs.test_outcome import RECORD, leave

PLAN = PlanDraft(
    "Wan",
    "port-wan",
    "abc123",
    "",
    "T2V",
    check_components(
        [ComponentRecord(name="dit", kind="dit", official="d.Official", port="fastvideo.x.Port", adapter="tests/a.py")]
    ),
    ("bf16",),
    ("RoPE",),
)
WRITTEN = render_plan(PLAN)
SAFETENSORS = save({"a.weight": np.ones((2, 3), np.float32), "b": np.ones(2, np.int8)})
INDEX = {"metadata": {}, "weight_map": {"a.weight": "model.safetensors", "b": "model-2.safetensors"}}
MODEL_INDEX = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"], "vae": [None, None]}
CONFIG = {"_class_name": "A", "architectures": ["B"], "model_type": "t5", "auto_map": {"AutoModel": "x.Y"}}
RULES = {
    "rules": [{"match": "a.(.*)", "to": "transformer/\\1"}],
    "components": {"transformer": {"class": "X", "config": {"a": 1}, "copy": "vae", "stem": "model"}},
    "model_index": {"_class_name": "P"},
    "cast": "bfloat16",
    "shard_gb": 5,
}


def keys_of(*documents: Any) -> st.SearchStrategy[str]:
    """Every key that stands in the documents, and any other."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.update(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    for document in documents:
        walk(document)
    return st.sampled_from(sorted(found)) | ANY_TEXT


def reads(read: Any, *arguments: Any, **named: Any) -> Any:
    """What ``read`` returns, or none if it refuses in our words; anything else fails the test."""
    with alarm():
        try:
            return read(*arguments, **named)
        except PortError as error:
            assert_clear(error)
            return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


@examples(60)
@given(
    text=st.binary(max_size=60)
    | spoilt(WRITTEN.encode())
    | st.text("-*[]x` #1.\n>~<!\r\t", max_size=200).map(str.encode)
)
@example(text=b"\xff- [x] `a`\n")
def test_a_plan_of_any_bytes_can_be_read_edited_and_written_again(folder: Path, text: bytes) -> None:
    (folder / "PLAN.md").write_bytes(text)
    reads(read_plan, folder)
    reads(edit_step, folder, folder.parent, "port-1", "parity-dit", ticked=True, note="seen\ud800 `x`")
    written = reads(write_plan_file, folder, folder.parent, "port-1", PLAN, {})
    assert written is None or "## 7." in (folder / "PLAN.md").read_text(errors="replace")


@pytest.mark.parametrize("line", ["\n", "- [x] `parity-dit`\n", "> ", "* [ ] `a`\n  - b\n"])
def test_a_large_plan_of_one_line_is_written_again_in_time(folder: Path, line: str) -> None:
    write_plan_file(folder, folder.parent, "port-1", PLAN, {})
    (folder / "PLAN.md").write_text(WRITTEN + line * (150_000 // len(line)))
    with alarm(60):
        reads(write_plan_file, folder, folder.parent, "port-1", PLAN, {})


HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}


def as_file(header: bytes) -> bytes:
    """A safetensors file with this header and eight bytes behind it."""
    return struct.pack("<Q", len(header)) + header + b"x" * 8


@examples(150)
@given(data=spoilt(SAFETENSORS) | json_files(keys_of(HEADER), HEADER).map(as_file))
def test_a_header_of_any_bytes(folder: Path, data: bytes) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    found = reads(read_header, path)
    assert found is None or found.file_bytes == len(data)


@examples(80)
@given(
    index=json_files(keys_of(INDEX), INDEX),
    pipeline=json_files(keys_of(MODEL_INDEX), MODEL_INDEX),
    config=json_files(keys_of(CONFIG), CONFIG),
)
def test_weights_whose_json_files_are_of_any_bytes(folder: Path, index: bytes, pipeline: bytes, config: bytes) -> None:
    (folder / "transformer").mkdir(exist_ok=True)
    (folder / "transformer/model.safetensors").write_bytes(SAFETENSORS)
    # One at a time and all together: the first fault must not hide the second.
    files = {
        "transformer/model.safetensors.index.json": index,
        "model_index.json": pipeline,
        "transformer/config.json": config,
    }
    for chosen in ([name] for name in [*files, None]):
        for name, data in files.items():
            (folder / name).unlink(missing_ok=True)
            if chosen in ([name], [None]):
                (folder / name).write_bytes(data)
        report = reads(read_weights, folder, folder.parent)
        if report is not None:
            report.model_dump_json()


def test_a_name_that_is_not_utf8_is_passed_over_and_weights_of_such_a_name_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(SAFETENSORS)
    (folder / os.fsdecode(b"caf\xe9.json")).write_text("{}")
    report = read_weights(folder, folder.parent)
    report.model_dump_json()
    assert report.notes == ("caf\\udce9.json has a name that is not UTF-8 and was passed over",)
    (folder / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(SAFETENSORS)
    assert reads(read_weights, folder, folder.parent) is None


@examples(150)
@given(
    data=json_files(keys_of(RULES), RULES),
    toml=st.booleans(),
)
@example(data=b'{"shard_gb": 1e999}', toml=False)
@example(data=b"shard_gb = inf", toml=True)
@example(data=as_bytes({"shard_gb": 10**400}), toml=False)
@example(data=b"[model_index]\na = 1979-05-27", toml=True)
@example(data=b'{"model_index": {"a": "\\ud800"}}', toml=False)
def test_a_rule_file_of_any_bytes(folder: Path, data: bytes, toml: bool) -> None:
    (folder / "vae").mkdir(exist_ok=True)
    path = folder / ("rules.toml" if toml else "rules.json")
    path.write_bytes(data)
    spec = reads(read_convert_file, path, folder, folder)
    if spec is not None:
        json.dumps(spec, ensure_ascii=False).encode()  # it goes on to a worker


@examples(150)
@given(data=json_files(keys_of({"minimum": 1, "days": 1, "official_code": 1}), {"minimum": "page", "days": 7.5}))
@example(data=b'{"\\ud800": 1}')
@example(data=b'{"days": 1' + b"0" * 400 + b"}")
def test_a_policy_of_any_bytes_is_read_or_counts_nothing(folder: Path, data: bytes) -> None:
    (folder / POLICY_NAME).write_bytes(data)
    policy = reads(read_policy, folder)
    assert policy is None or 0 < policy.days <= 365


NEEDS = {
    "requirements.txt": "torch>=2.1 # why\n-e .\n--index-url x\ngit+https://h/a.git@v1#egg=a\n"
    "numpy; python_version<'3'\n",
    "pyproject.toml": "[project]\nrequires-python='>=3.9'\ndependencies=['a>=1']\n"
    "[tool.poetry.dependencies]\nb='^1.2'\nc={version='~1',optional=true}\n",
    "setup.py": "from setuptools import setup\nR=['a']\nsetup(install_requires=R, extras_require={'x': ['b']})\n",
    "setup.cfg": "[options]\npython_requires = >=3.8\ninstall_requires =\n  a>=1\n[options.extras_require]\nx = b\n",
    "environment.yml": "dependencies:\n  - python=3.9\n  - conda-forge::a=1.2=b\n  - pip:\n    - c>=1\n",
}


@examples(150)
@given(name=st.sampled_from(sorted(NEEDS)), data=st.data())
@example(name="setup.py", data="setup(install_requires=" + "1" * 400 + "+1j)")
@example(name="setup.py", data="setup(install_requires=[[1] for x in y], python_requires={1: 2}, extras_require=[1])")
@example(name="pyproject.toml", data="[project]\ndependencies=3\n")
@example(name="pyproject.toml", data="[tool.poetry.dependencies]\na='^'\nb='~'\nc='^1²'\nd='^٣'\n")
@example(name="environment.yml", data="dependencies:\n- " + " " * 50_000 + '""')
@example(name="requirements.txt", data="https://h" + "/a.git@" * 20_000 + " x")
@example(name="requirements.txt", data="a" + "[" * 50_000)
def test_a_dependency_file_of_any_text(name: str, data: Any) -> None:
    text = data if isinstance(data, str) else data.draw(st.text(max_size=80) | spoilt(NEEDS[name].encode()).map(_text))
    found, notes, python = reads(requirements.read, name, text)
    assert all(note.isprintable() or "\n" not in note for note in notes) and isinstance(python, str)
    reads(official_needs.compare, found, ENVIRONMENT, {})
    reads(official_needs.python_conflict, python, ENVIRONMENT, name)


ENVIRONMENT = official_needs.Environment(
    {"torch": "2.4.0", "a": "1.0"}, {}, {"python_version": "3.11", "python_full_version": "3.11.7"}
)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@examples(80)
@given(source=spoilt(NEEDS["setup.py"].encode()) | st.binary(max_size=60))
@example(source=b"(" * 5000)
@example(source=b"-" * 100_000 + b"1")
@example(source="import \ufb01le".encode())
def test_source_of_any_bytes_is_parsed_for_its_imports(folder: Path, source: bytes) -> None:
    (folder / "x.py").write_bytes(source)
    reads(official_needs.imports_of, folder, ["x.py"])


URLS = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            [
                "https://",
                "ssh://",
                "file://",
                "ext::",
                "git@",
                "host",
                ":",
                "/",
                "@",
                "[",
                "]",
                "?",
                "-o",
                "..",
                "%00",
                "~",
            ]
        )
        | ANY_TEXT,
        max_size=6,
    ),
)


@examples(300)
@given(url=URLS, local=st.booleans())
@example(url="~nobody-of-this-name/x", local=True)
@example(url="\ud800", local=True)
@example(url="/" + "x" * 300, local=True)
@example(url="https://[\udc80", local=False)
def test_a_repository_of_any_name(folder: Path, url: str, local: bool) -> None:
    found = reads(git.check_url, url, allow_local=local, cwd=folder)
    assert found is None or (not found[0].startswith("-") and found[1] in ("https", "http", "ssh", "file"))
    assert found is None or local or found[1] != "file"


@examples(300)
@given(text=ANY_TEXT | URLS)
@example(text="a" * 5_000)
@example(text="\x1b]" * 50_000)
@example(text="\x1b[" + "0" * 5_000)
@example(text="a\n" * 50_000)
def test_names_revisions_paths_and_texts_of_any_kind(folder: Path, text: str) -> None:
    for check in (git.check_revision, check_id, check_branch_prefix, check_text, display_name):
        reads(check, text)
    assert slugify(text)
    inside = reads(resolve_inside, folder, text)
    assert inside is None or inside.is_relative_to(folder.resolve())
    for safe in (clean, one_line, inline_code, fenced, quoted, bullet, cell):
        shown = reads(safe, text)
        assert "\x1b" not in shown and "\u202e" not in shown and "\ud800" not in shown
    reads(redact, text)
    reads(licence.recognise, text * 50, "LICENSE")


ERRORS = {"ok": False, "error": {"what": "a", "seen": "b", "fix": "c"}}


@examples(150)
@given(data=json_files(keys_of(ERRORS, {"value": 1, "done": 1, "total": 1, "message": 1}), ERRORS))
@example(data=b'{"ok": false, "error": {"what": "\\ud800"}}')
@example(data=b'{"ok": true, "value": {"a\\udc80": ["\\udfff"]}}')
def test_what_a_worker_leaves_becomes_a_record_that_can_be_kept(folder: Path, data: bytes) -> None:
    leave(folder, data)
    with alarm():
        outcome = judge(RECORD, folder, Ending(exit_code=0))
    RECORD.model_copy(update={"state": outcome.state, "error": outcome.error}).model_dump_json()
