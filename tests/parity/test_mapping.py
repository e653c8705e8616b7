"""The rules for renaming and merging checkpoint keys: what they do, and everything that can be wrong with them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.mapping import apply, plan, read_rules
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def _codes(mapping: dict[str, Any], names: list[str]) -> list[str]:
    return sorted({finding.code for finding in plan(mapping, names).findings})


def test_the_first_rule_that_matches_wins_and_rules_are_not_chained() -> None:
    rules = read_rules({r"^a\.(.*)$": r"b.\1", r"^b\.(.*)$": r"c.\1", r"^a\.x$": "never"})
    assert [apply(rules, name)[0] for name in ("a.x", "b.x", "z")] == ["b.x", "c.x", "z"]
    assert apply(rules, "z")[1].rule is None and apply(rules, "a.x")[1].rule == 0


FINDINGS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "clean": ({r"^blocks\.(\d+)\.(.*)$": r"layers.\1.\2"}, ["blocks.1.w", "blocks.10.w"], []),
    "ends inside a name": (
        {r"blocks\.1": "layers.one"},
        ["blocks.1.w", "blocks.10.w"],
        ["rule-matches-too-much"],
    ),
    "a dot that is not escaped": (
        {r"^blocks.1.(.*)$": r"one.\1", r"^blocks\.\d+\.(.*)$": r"other.\1"},
        ["blocks.1.w", "blocks_1.v", "blocks.2.w"],
        ["rule-matches-too-much"],
    ),
    "a dot that stands for a letter": ({r"^attn.(.*)$": r"a.\1"}, ["attn.w", "attn.v"], []),
    "ends at a dot": ({r"blocks\.1\.": "layers.one."}, ["blocks.1.w", "blocks.10.w"], []),
    "replaces every occurrence": ({"norm": "n"}, ["norm.norm.weight"], ["rule-replaces-twice"]),
    "hidden by an earlier rule": (
        {r"^a\.(.*)$": r"b.\1", r"^a\.w$": "c.w"},
        ["a.w"],
        ["rule-shadowed"],
    ),
    "matches nothing": ({r"^typo\.(.*)$": r"\1"}, ["a.w"], ["rule-never-matches"]),
    "two into one": ({r"^a\.(w|v)$": "b.w"}, ["a.w", "a.v"], ["collision"]),
    "onto a key that stays": ({r"^a\.w$": "b.w"}, ["a.w", "b.w"], ["collision"]),
    "merge complete": ({r"^q$": ("qk", 0, 2), r"^k$": ("qk", 1, 2)}, ["k", "q"], []),
    "merge without a part": (
        {r"^q$": ("qk", 0, 2), r"^k$": ("qk", 1, 2)},
        ["q"],
        ["incomplete-merge", "rule-never-matches"],
    ),
    "merge that begins at one": ({r"^q$": ("qk", 1, 2), r"^k$": ("qk", 2, 2)}, ["q", "k"], ["incomplete-merge"]),
    "merge with one index twice": ({r"^q$": ("qk", 0, 2), r"^k$": ("qk", 0, 2)}, ["q", "k"], ["collision"]),
    "merge with two totals": ({r"^q$": ("qk", 0, 2), r"^k$": ("qk", 1, 3)}, ["q", "k"], ["merge-totals-differ"]),
    "merge onto a whole tensor": ({r"^q$": ("qk", 0, 1)}, ["q", "qk"], ["collision"]),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_what_is_wrong_is_named_and_what_is_right_is_not(case: str) -> None:
    mapping, names, codes = FINDINGS[case]
    assert _codes(mapping, names) == codes
    fatal = {finding.code for finding in plan(mapping, names).findings if finding.fatal}
    assert fatal == set(codes) - {"rule-never-matches"}


def test_a_fault_of_many_keys_is_one_finding() -> None:
    found = plan({r"blocks\.1": "b"}, [f"blocks.1{n}.w" for n in range(10)]).findings
    careless = [finding for finding in found if finding.code == "rule-matches-too-much"]
    assert len(careless) == 1 and len(careless[0].names) == 11 and "and 9 more" in careless[0].message


def test_parts_that_are_not_numbered_from_zero_are_the_keyerror_that_they_become() -> None:
    found = plan({r"^q$": ("qk", 1, 2), r"^k$": ("qk", 2, 2)}, ["q", "k"]).findings
    assert "KeyError" in found[0].message


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        ({"(": "x"}, "not a regular expression"),
        ({3: "x"}, "not a regular expression"),
        ({"a": r"\1"}, "refers to a group"),
        ({"(a)": r"\g<name>"}, "refers to a group"),
        ({"(a)": r"\2"}, "refers to a group"),
        ({"a": ["b", 0, 2]}, "unknown form"),
        ({"a": ("b", 0)}, "unknown form"),
        ({"a": None}, "unknown form"),
    ],
)
def test_rules_that_cannot_be_run_are_refused(mapping: dict[Any, Any], what: str) -> None:
    with pytest.raises(ParityError, match=what):
        read_rules(mapping)


def test_named_and_two_digit_groups_are_groups() -> None:
    pattern = "".join(f"(?P<g{number}>.)" for number in range(11))
    assert apply(read_rules({f"^{pattern}$": r"\g<g10>\11"}), "abcdefghijk")[0] == "kk"


SEGMENTS = st.sampled_from(["blocks", "0", "1", "10", "attn", "to_q", "to_k", "norm", "weight", "bias"])
NAMES = st.lists(st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=8, unique=True)
PATTERNS = st.sampled_from(
    [
        r"^blocks\.(\d+)\.(.*)$",
        r"blocks",
        r"blocks\.1",
        r"^(.*)\.attn\.(.*)$",
        r"norm",
        r"(.*)to_(q|k)(.*)",
        r"\.",
        r"^.*$",
    ]
)
TEMPLATES = st.sampled_from([r"layers", r"x.\g<0>", "", "blocks.0", "attn"])
VALUES = TEMPLATES | st.tuples(TEMPLATES, st.integers(0, 2), st.integers(1, 3))
CASES = st.tuples(st.dictionaries(PATTERNS, VALUES, max_size=4), NAMES)

_FASTVIDEO = """
import importlib.util, json, sys, types
import torch

path, cases = sys.argv[1], json.load(sys.stdin)
package, logger = types.ModuleType("fastvideo"), types.ModuleType("fastvideo.logger")
package.__path__ = []
logger.init_logger = lambda name: None
sys.modules.update({"fastvideo": package, "fastvideo.logger": logger})
spec = importlib.util.spec_from_file_location("utils", path)
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
results = []
for mapping, names in cases:
    rules = {pattern: tuple(value) if isinstance(value, list) else value for pattern, value in mapping.items()}
    rename = utils.get_param_names_mapping(rules)
    tensors = {name: torch.tensor([number]) for number, name in enumerate(names)}
    try:
        state, _ = utils.hf_to_custom_state_dict(tensors, rename)
        state = {name: value.tolist() for name, value in state.items()}
    except Exception as error:
        state = type(error).__name__
    results.append([[list(rename(name)) for name in names], state])
json.dump(results, sys.stdout)
"""


def _fastvideo_utils(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    python: Path = request.getfixturevalue("fastvideo_python")
    template: Path = request.getfixturevalue("fastvideo_template")
    return python, template / "fastvideo" / "models" / "loader" / "utils.py"


@pytest.mark.fastvideo
def test_it_does_what_fastvideo_does(request: pytest.FixtureRequest) -> None:
    """Project: on generated rules and names, targets and merged tensors are those of FastVideo's own functions.

    Where the plan has no fatal finding, every target holds what the plan says, in its order; where FastVideo loses or
    overwrites a tensor, or fails, the plan has one.
    """
    python, utils = _fastvideo_utils(request)
    cases: list[tuple[dict[str, Any], list[str]]] = []

    @settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(CASES)
    def collect(case: tuple[dict[str, Any], list[str]]) -> None:
        cases.append(case)

    collect()
    command = [str(python), "-c", _FASTVIDEO, str(utils)]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    silent = 0
    for (mapping, names), (renamed, state) in zip(cases, results, strict=True):
        rules = read_rules(mapping)
        for name, theirs in zip(names, renamed, strict=True):
            target, source = apply(rules, name)
            assert [target, source.index, source.total] == theirs, (mapping, name)
        planned = plan(mapping, names)
        lost = {"collision", "incomplete-merge", "merge-totals-differ"}
        wrong = any(finding.code in lost for finding in planned.findings)
        numbers = {name: number for number, name in enumerate(names)}
        expected = {
            target: [numbers[source.name] for source in sorted(sources, key=lambda source: source.index or 0)]
            for target, sources in planned.targets.items()
        }
        if wrong:
            silent += 1
        else:
            assert state == expected, (mapping, names)
    assert 30 < silent < len(cases) - 30, "the generated rules have to be right and wrong often enough"


@pytest.mark.fastvideo
def test_fastvideos_own_mappings_can_be_read(request: pytest.FixtureRequest) -> None:
    """Project: every param_names_mapping literal in FastVideo's configurations is accepted."""
    import ast

    template: Path = request.getfixturevalue("fastvideo_template")
    seen = 0
    for path in sorted((template / "fastvideo" / "configs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Dict):
                continue
            try:
                mapping = ast.literal_eval(node)
            except ValueError:
                continue
            if mapping and all(isinstance(key, str) and key.startswith("^") for key in mapping):
                assert read_rules(mapping), path
                seen += 1
    assert seen >= 5
