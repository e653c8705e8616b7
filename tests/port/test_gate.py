"""The gate: what opens each item, and everything that must not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import pytest
from fastvideo_port.port.gate import GateItem, gate, is_open
from fastvideo_port.port.ledger import Entry
from fastvideo_port.port.records import ComponentRecord, PortRecord, WeightsRecord, now
from fastvideo_port.tools._advice import next_of, tool_of

Verdict = Literal["pass", "fail", "investigate", "inconclusive", "error"]
IDS = [
    "mapping-reviewed",
    "keys",
    "component-parity",
    "pipeline-parity",
    "ssim",
    "example",
    "documentation",
]
TOOLS = {"keys": "check_mapping", "component-parity": "component_parity"}


def component(name: str, kind: str) -> ComponentRecord:
    return ComponentRecord(name=name, kind=kind, official="o.A", port="fastvideo.B", adapter="a.py")  # type: ignore[arg-type]


@pytest.fixture
def port(tmp_path: Path) -> PortRecord:
    """A port of a DiT and a scheduler."""
    (tmp_path / "dit.py").write_text("code")
    return PortRecord(
        port_id="port-1",
        model_name="Wan",
        slug="wan",
        worktree=str(tmp_path),
        branch="b",
        base_commit="c",
        mode="worktree",
        repository="/r",
        python="/p",
        components=[component("dit", "dit"), component("scheduler", "scheduler")],
        created_at=now(),
    )


_count = 0


def entry(
    kind: str,
    verdict: Verdict = "pass",
    of: str | None = "dit",
    *,
    complete: bool = True,
    at: str | None = None,
    **summary: object,
) -> Entry:
    global _count
    _count += 1
    return Entry(
        kind=kind,
        port_id="port-1",
        component=of,
        run_id=f"run-{_count}",
        verdict=verdict,
        complete=complete,
        summary={"why": "because", **summary},
        depends_on={"worktree:dit.py": hashlib.sha256(b"code").hexdigest()},
        recorded_at=at or now(),
    )


def ssim(verdict: Verdict = "pass", **changed: object) -> Entry:
    """A comparison of the video "2" with the video "1"."""
    found = {"reference": {"sha256": "1"}, "candidate": {"sha256": "2"}, "threshold": 0.93, "min_threshold": 0.83}
    return entry("ssim", verdict, None, **{**found, **changed})


def trial(sha256: str = "2", verdict: Verdict = "pass") -> Entry:
    """A script outside examples/ that wrote the video."""
    return entry("example", verdict, None, complete=False, script="trial.py", video={"sha256": sha256})


def all_measured() -> list[Entry]:
    return [
        entry("check_mapping"),
        entry("component_parity"),
        entry("component_parity", of="scheduler"),
        ssim(),
        entry("pipeline_parity", of=None),
        trial(),
    ]


def items(port: PortRecord, entries: list[Entry]) -> dict[str, GateItem]:
    return {item.id: item for item in gate(port, entries)}


def test_the_seven_items_are_missing_without_evidence(port: PortRecord) -> None:
    found = gate(port, [])
    assert [item.id for item in found] == IDS
    assert {item.state for item in found} == {"missing"}
    assert all(item.why and item.title for item in found)
    assert not is_open(found)


def test_what_was_measured_passes_and_names_its_runs(port: PortRecord) -> None:
    entries = all_measured()
    found = items(port, entries)
    assert {name: item.state for name, item in found.items()} == {
        "mapping-reviewed": "needs_approval",
        "keys": "pass",
        "component-parity": "pass",
        "pipeline-parity": "pass",
        "ssim": "pass",
        "example": "missing",
        "documentation": "missing",
    }
    assert found["keys"].evidence == [entries[0].run_id]
    assert found["component-parity"].evidence == [entries[1].run_id, entries[2].run_id]
    assert found["ssim"].evidence == [entries[3].run_id]
    assert not is_open(list(found.values()))


def test_only_a_whole_fresh_pass_opens_pipeline_parity(port: PortRecord) -> None:
    def state(*entries: Entry) -> tuple[str, str]:
        found = items(port, list(entries))["pipeline-parity"]
        return found.state, found.why

    whole = entry("pipeline_parity", of=None)
    assert state(whole)[0] == "pass"
    part = entry("pipeline_parity", of=None, complete=False)
    assert state(part)[0] == "missing" and "another adapter" in state(part)[1]
    for verdict in ("fail", "investigate", "inconclusive", "error"):
        red = entry("pipeline_parity", of=None, verdict=verdict)
        assert state(whole, red)[0] == "fail" and "because" in state(whole, red)[1]
    assert state(whole, entry("pipeline_parity", of=None, complete=False, verdict="fail"))[0] == "fail"
    assert state(whole, part)[0] == "pass", "a part that passed takes nothing back"
    (Path(port.worktree) / "dit.py").write_bytes(b"c0de")
    assert state(whole)[0] == "stale" and "dit.py changed" in state(whole)[1]


def test_only_seven_passes_open_it(port: PortRecord) -> None:
    passing = [item.model_copy(update={"state": "pass"}) for item in gate(port, [])]
    assert is_open(passing)
    assert not is_open(passing[:6])
    for place in range(7):
        for state in ("fail", "stale", "missing", "needs_approval"):
            changed = [*passing]
            changed[place] = passing[place].model_copy(update={"state": state})
            assert not is_open(changed)


def test_without_a_plan_nothing_passes(port: PortRecord) -> None:
    empty = port.model_copy(update={"components": []})
    found = items(empty, all_measured())
    assert found["keys"].state == found["component-parity"].state == found["mapping-reviewed"].state == "missing"
    assert "write_plan" in found["keys"].why


@pytest.mark.parametrize("id_", TOOLS)
def test_a_component_of_the_plan_without_evidence_is_named(port: PortRecord, id_: str) -> None:
    more = port.model_copy(update={"components": [*port.components, component("vae", "vae")]})
    item = items(more, all_measured())[id_]
    assert item.state == "missing"
    assert "vae: " in item.why and "dit" not in item.why


def test_a_tokenizer_needs_parity_and_neither_it_nor_a_scheduler_weights(port: PortRecord) -> None:
    more = port.model_copy(update={"components": [*port.components, component("tokenizer", "tokenizer")]})
    found = items(more, all_measured())
    assert found["keys"].state == "pass"
    assert found["component-parity"].state == "missing" and "tokenizer: " in found["component-parity"].why
    measured = items(more, [*all_measured(), entry("component_parity", of="tokenizer")])
    assert measured["component-parity"].state == "pass"


def scheduler_alone(port: PortRecord) -> PortRecord:
    return port.model_copy(update={"components": [component("scheduler", "scheduler")]})


@pytest.mark.parametrize("kind", ["check_scheduler", "component_parity"])
def test_either_check_is_evidence_for_a_scheduler(port: PortRecord, kind: str) -> None:
    item = items(scheduler_alone(port), [entry(kind, of="scheduler")])["component-parity"]
    assert item.state == "pass" and item.evidence


def test_check_scheduler_is_no_evidence_for_anything_else(port: PortRecord) -> None:
    entries = [entry("check_scheduler"), entry("check_scheduler", of="scheduler")]
    item = items(port, entries)["component-parity"]
    assert item.state == "missing" and "dit: run_component_parity" in item.why


@pytest.mark.parametrize("verdict", ["fail", "investigate", "inconclusive", "error"])
def test_a_scheduler_check_with_another_verdict_does_not_pass(port: PortRecord, verdict: Verdict) -> None:
    entries = [entry("check_scheduler", verdict, of="scheduler")]
    assert items(scheduler_alone(port), entries)["component-parity"].state == "fail"


def test_a_part_of_a_scheduler_check_is_none_and_says_what_to_run(port: PortRecord) -> None:
    item = items(scheduler_alone(port), [entry("check_scheduler", of="scheduler", complete=False)])["component-parity"]
    assert item.state == "missing" and "check_scheduler has not been run in full" in item.why


def test_a_failure_of_one_check_is_not_mended_by_an_older_pass_of_the_other(port: PortRecord) -> None:
    passed = entry("component_parity", of="scheduler")
    failed = entry("check_scheduler", "fail", of="scheduler", complete=False)
    assert items(scheduler_alone(port), [passed, failed])["component-parity"].state == "fail"
    again = [passed, failed, entry("check_scheduler", of="scheduler")]
    assert items(scheduler_alone(port), again)["component-parity"].state == "pass"


def test_a_changed_file_makes_a_scheduler_check_stale(port: PortRecord) -> None:
    entries = [entry("check_scheduler", of="scheduler")]
    (Path(port.worktree) / "dit.py").write_text("other")
    item = items(scheduler_alone(port), entries)["component-parity"]
    assert item.state == "stale" and "dit.py changed" in item.why and "check_scheduler again" in item.why


@pytest.mark.parametrize("id_", TOOLS)
@pytest.mark.parametrize("verdict", ["fail", "investigate", "inconclusive", "error"])
def test_no_other_verdict_passes(port: PortRecord, id_: str, verdict: Verdict) -> None:
    item = items(port, [*all_measured(), entry(TOOLS[id_], verdict)])[id_]
    assert item.state == "fail"
    assert f"dit: {verdict}" in item.why and "because" in item.why


@pytest.mark.parametrize("verdict", ["fail", "investigate", "inconclusive", "error"])
def test_no_other_verdict_of_the_video_passes(port: PortRecord, verdict: Verdict) -> None:
    assert items(port, [*all_measured(), entry("ssim", verdict, of=None)])["ssim"].state == "fail"


@pytest.mark.parametrize("id_", TOOLS)
def test_a_partial_run_never_counts(port: PortRecord, id_: str) -> None:
    """Chosen cases, seeds or dtypes, or an adapter that the plan does not name."""
    others = [item for item in all_measured() if item.kind != TOOLS[id_] or item.component != "dit"]
    part = entry(TOOLS[id_], complete=False)
    item = items(port, [*others, part])[id_]
    assert item.state == "missing"
    assert "Only a part was run" in item.why
    assert item.evidence[0] == part.run_id


@pytest.mark.parametrize("id_", TOOLS)
def test_a_partial_pass_does_not_mend_a_failure(port: PortRecord, id_: str) -> None:
    entries = [*all_measured(), entry(TOOLS[id_], "fail"), entry(TOOLS[id_], complete=False)]
    assert items(port, entries)[id_].state == "fail"


@pytest.mark.parametrize("id_", TOOLS)
def test_a_later_partial_failure_counts_until_a_whole_run_passes(port: PortRecord, id_: str) -> None:
    failed = entry(TOOLS[id_], "fail", complete=False)
    entries = [*all_measured(), failed]
    item = items(port, entries)[id_]
    assert item.state == "fail" and failed.run_id in item.evidence
    assert items(port, [*entries, entry(TOOLS[id_], complete=False)])[id_].state == "fail"
    assert items(port, [*entries, entry(TOOLS[id_])])[id_].state == "pass"


@pytest.mark.parametrize("id_", TOOLS)
def test_later_is_later_in_the_ledger_even_if_the_clock_went_back(port: PortRecord, id_: str) -> None:
    failed = entry(TOOLS[id_], "fail", complete=False, at="1999-01-01T00:00:00.000000+00:00")
    assert items(port, [*all_measured(), failed])[id_].state == "fail"


@pytest.mark.parametrize("id_", TOOLS)
def test_evidence_of_one_component_or_kind_is_none_for_another(port: PortRecord, id_: str) -> None:
    other = {"check_mapping": "component_parity", "component_parity": "check_mapping"}[TOOLS[id_]]
    found = items(port, [entry(other), entry(other, of="scheduler"), entry(TOOLS[id_], of="vae")])
    assert found[id_].state == "missing"


def test_a_change_makes_every_item_stale_that_stands_on_it(port: PortRecord) -> None:
    entries = all_measured()
    (Path(port.worktree) / "dit.py").write_text("code.")
    found = items(port, entries)
    for id_ in ("mapping-reviewed", "keys", "component-parity", "ssim"):
        assert found[id_].state == "stale"
        assert "dit.py changed" in found[id_].why
    assert entries[1].run_id in found["component-parity"].why


def test_the_worst_component_is_the_items_state(port: PortRecord) -> None:
    entries = [entry("component_parity", "fail"), entry("component_parity", of="scheduler")]
    item = items(port, entries)["component-parity"]
    assert item.state == "fail"
    assert "scheduler" not in item.why
    missing = items(port, [entry("component_parity")])["component-parity"]
    assert missing.state == "missing" and "scheduler" in missing.why


# --- which video was compared, and with what ---------------------------------------------------------------------


def of_ssim(port: PortRecord, *entries: Entry) -> tuple[str, str]:
    found = items(port, list(entries))["ssim"]
    return found.state, found.why


def test_the_video_of_any_script_that_passed_is_the_port_s(port: PortRecord) -> None:
    assert of_ssim(port, trial(), ssim())[0] == "pass"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "nothing says that the port made the candidate"),
        ([("3", "pass")], "nothing says that the port made the candidate"),
        ([("2", "fail")], "which wrote the candidate, is fail"),
        ([("2", "inconclusive")], "is inconclusive"),
        ([("2", "pass"), ("1", "pass")], "the port's own"),
        ([("2", "pass"), ("1", "fail")], "the port's own"),
    ],
)
def test_a_video_that_no_run_wrote_or_a_reference_that_one_did_is_no_evidence(
    port: PortRecord, made: list[tuple[str, Verdict]], said: str
) -> None:
    state, why = of_ssim(port, *(trial(*video) for video in made), ssim())
    assert state == "missing" and said in why


@pytest.mark.parametrize("number", [0.0, 0.5, 0.82, float("nan"), None, "0.99"])
@pytest.mark.parametrize("name", ["threshold", "min_threshold"])
def test_looser_limits_than_the_standard_are_no_evidence(port: PortRecord, name: str, number: object) -> None:
    state, why = of_ssim(port, trial(), ssim(**{name: number}))
    assert state == "missing" and "below the standard" in why
    assert of_ssim(port, trial(), ssim(threshold=0.99, min_threshold=0.9))[0] == "pass"


# --- the example -------------------------------------------------------------------------------------------------


def ran(port: PortRecord, script: str, verdict: Verdict = "pass") -> Entry:
    path = Path(port.worktree) / script
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return entry("example", verdict, None, script=script, video={"sha256": "2"})


def test_another_script_does_not_hide_one_that_failed_until_it_passes_or_is_gone(port: PortRecord) -> None:
    failed, easy = ran(port, "examples/real.py", "fail"), ran(port, "examples/easy.py")
    item = items(port, [failed, easy])["example"]
    assert item.state == "fail" and "examples/real.py: fail" in item.why and failed.run_id in item.evidence
    assert items(port, [failed, easy, ran(port, "examples/real.py")])["example"].state == "pass"
    assert items(port, [failed, trial(verdict="fail"), easy])["example"].state == "fail"
    (Path(port.worktree) / "examples/real.py").unlink()
    assert items(port, [failed, easy])["example"].state == "pass"
    assert items(port, [easy, trial(verdict="fail")])["example"].state == "pass", "a trial is no example"


# --- what the plan leaves out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("components", "id_", "said"),
    [
        ({"vae": ("vae", "AutoencoderKL")}, "keys", "vae (AutoencoderKL): the official model has it"),
        ({"vae": ("vae", "AutoencoderKL")}, "component-parity", "vae (AutoencoderKL)"),
        ({"transformer": ("dit", "A"), "transformer_2": ("dit", "B")}, "keys", "transformer_2 (B)"),
        ({"transformer": ("dit", "A"), "transformer_2": ("dit", "A")}, "keys", ""),
        ({"scheduler": ("scheduler", "S"), "tokenizer": ("tokenizer", "T"), "x": ("extra", "X")}, "keys", ""),
    ],
)
def test_a_component_of_the_official_model_that_is_not_planned_is_missing(
    port: PortRecord, components: dict[str, tuple[str, str]], id_: str, said: str
) -> None:
    weights = WeightsRecord(path="/w", source="s", digest="d", components=components)
    item = items(port.model_copy(update={"weights": weights}), all_measured())[id_]
    assert item.state == ("missing" if said else "pass") and said in item.why


def test_what_failed_beside_what_is_not_planned_is_told_apart_and_repaired_first(port: PortRecord) -> None:
    weights = WeightsRecord(path="/w", source="s", digest="d", components={"vae": ("vae", "AutoencoderKL")})
    failed = entry("check_mapping", "fail").model_copy(update={"summary": {"why": "usually hf_config as it is"}})
    item = items(port.model_copy(update={"weights": weights}), [*all_measured(), failed])["keys"]
    assert item.state == "fail"
    assert item.why.startswith("dit: fail. usually hf_config as it is. vae (AutoencoderKL): the official model has it")
    assert tool_of(item) == "check_mapping"
    assert "then call check_mapping again. Call write_plan with what the plan leaves out." in next_of(item)
    missing = items(port.model_copy(update={"weights": weights}), all_measured())["keys"]
    assert (missing.state, next_of(missing)) == ("missing", "Call write_plan.")


def test_changed_weights_are_fetched_before_a_video_is_made_of_them() -> None:
    why = "ssim: a.safetensors of the official weights changed after they were fetched (call fetch_weights again) since"
    stale = GateItem(
        id="ssim",
        title="SSIM",
        state="stale",
        why=f"{why} run-1; run run_example, then run_ssim with the video that it wrote.",
        evidence=["run-1"],
    )
    assert next_of(stale).startswith("Call fetch_weights again")
    code = stale.model_copy(update={"why": stale.why.replace("(call fetch_weights again) ", "")})
    assert next_of(code) == "Call run_example, then run_ssim with the video that it wrote."
