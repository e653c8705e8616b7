"""What the engine reads of files and rules: any content is taken, named as a finding, or refused in our words."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity.convert_rules import plan_conversion, read_convert_rules
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.headers import read_header, read_headers
from fastvideo_port.parity.strict_json import encode
from fastvideo_port.parity.weights import Entry
from hypothesis import example, given
from hypothesis import strategies as st

from ..fuzzing import ANY_TEXT, NUMBERS, alarm, as_bytes, assert_clear, examples, json_files, spoilt, values

HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
KEYS = st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"])
INDEX = {"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}


def reads(read: Any, *arguments: Any) -> Any:
    """What ``read`` returns, or none if it refuses in our words."""
    with alarm():
        try:
            return read(*arguments)
        except ParityError as error:
            assert_clear(error)
            return None


def as_file(header: bytes) -> bytes:
    """A safetensors file with this header and eight bytes behind it."""
    return struct.pack("<Q", len(header)) + header + b"x" * 8


SOUND = as_file(as_bytes(HEADER))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


@examples(150)
@given(data=spoilt(SOUND) | json_files(KEYS, HEADER).map(as_file))
@example(data=as_file(b'{"a":' * 5_000))
@example(data=as_file(b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}'))
@example(data=as_file(b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'))
@example(data=as_file(b'{"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 8]}}'))
@example(data=as_file(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": ""}}'))
@example(data=as_file(b'{"a\\ud800": {"dtype": "F32\\ud800", "shape": [2], "data_offsets": [0, 8]}}'))
def test_a_header_of_any_bytes(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    found = reads(read_header, path)
    for entry in (found or {}).values():
        assert isinstance(entry.dtype, str) and all(type(size) is int and size >= 0 for size in entry.shape)


@examples(150)
@given(data=json_files(st.sampled_from(["weight_map", "metadata", "a"]), INDEX))
@example(data=b'{"a":' * 5_000)
@example(data=b'{"weight_map": {"a": ["x"], "b": null}}')
def test_an_index_of_any_bytes(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(SOUND)
    (folder / "model.safetensors.index.json").write_bytes(data)
    found = reads(read_headers, folder)
    assert found is not None
    encode([finding.message for finding in found.findings])


NAMES = {"a.weight": (4, 6), "a.bias": (4,), "b.0.weight": (2, 3, 1), "c.weight": (4, 6), "scalar": ()}
SOURCE = {name: Entry(name, shape, "float32") for name, shape in NAMES.items()}
SMALL = st.integers(-2, 8)
OPS: dict[str, st.SearchStrategy[Any]] = {
    "transpose": st.lists(SMALL, max_size=3),
    "permute": st.permutations(range(3)) | st.lists(SMALL, max_size=3),
    "reshape": st.lists(SMALL, max_size=3),
    "cast": st.sampled_from(["bfloat16", "fp16", "int8", ""]),
}
STEPS = st.lists(st.one_of([st.fixed_dictionaries({kind: value}) for kind, value in OPS.items()]), max_size=3)
TARGETS = (
    st.sampled_from(["t/x", "t/\\1", r"t/\g<1>", "t/\\9", "x", "../t/x", "t/a b", "t/\\", "\\1/\\1", ""]) | ANY_TEXT
)
RULE = st.fixed_dictionaries(
    {},
    optional={
        "match": st.sampled_from(["a.(weight|bias)", "(.*)", "b.(\\d+).*", "scalar", "a.bias", "(", "(?P<x>.)+"])
        | ANY_TEXT,
        "to": TARGETS | st.lists(TARGETS, max_size=3),
        "split": st.fixed_dictionaries({}, optional={"sizes": st.lists(SMALL | NUMBERS, max_size=3), "dim": SMALL}),
        "merge": st.fixed_dictionaries({}, optional={"index": SMALL, "of": SMALL | NUMBERS, "dim": SMALL}),
        "drop": st.sampled_from(["", "not needed"]),
        "optional": st.booleans(),
        "ops": STEPS,
        "then": STEPS,
        **OPS,
    },
)


def converts(rules: object) -> None:
    """Read the rules and plan with them."""
    plan = plan_conversion(read_convert_rules(rules), SOURCE)
    encode([finding.message for finding in plan.findings])
    # A rule that cannot be kept is a finding: what is planned has possible shapes and loses or invents no element.
    assert all(size >= 0 for output in plan.outputs.values() for size in output.shape)
    if not any(finding.fatal for finding in plan.findings):
        kept = [shape for name, shape in NAMES.items() if name not in plan.dropped]
        assert sum(map(math.prod, kept)) == sum(math.prod(output.shape) for output in plan.outputs.values())


@examples(300)
@given(rules=st.lists(RULE, max_size=3) | values(st.sampled_from(["match", "to", "merge", "split", "ops"])))
@example(rules=[{"match": "(.*)", "to": ["t/a", "t/b"], "split": {"dim": -1}}])
@example(rules=[{"match": "a.weight", "to": "t/x", "merge": {"index": 0, "of": 1, "dim": -1}}])
@example(
    rules=[
        {"match": "a.weight", "to": "t/x", "merge": {"index": 0, "of": 2, "dim": -1}},
        {"match": "c.weight", "to": "t/x", "merge": {"index": 1, "of": 2, "dim": -1}},
        {"match": "a.bias|b.*|scalar", "drop": "not needed"},
    ]
)
@example(rules=[{"match": "a.weight", "to": "t/x", "merge": {"index": 0, "of": 10**30}}])
@example(rules=[{"match": "a.weight", "to": "t/x", "reshape": [-1, 10**30]}])
@example(rules=[{"match": "(" * 200, "to": "t/x"}])
@example(rules=[{"match": "(" * 20_000 + ")" * 20_000, "to": "t/x"}])
@example(rules=[{"match": "a{99999999999999999999}", "to": "t/x"}])
@example(rules=[{"match": b"a", "to": "t/x"}])
def test_rules_of_any_form(rules: Any) -> None:
    reads(converts, rules)


@examples(200)
@given(value=values())
def test_any_value_is_written_as_json_that_every_parser_reads(value: Any) -> None:
    json.loads(encode(value), parse_constant=lambda name: pytest.fail(name))
