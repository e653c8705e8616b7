"""The gate's first item: what a person's approval opens, and everything else that must leave it closed."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.approval_content import as_text
from fastvideo_port.port.approval_decisions import decisions_of, standing
from fastvideo_port.port.approval_official import admit_official_code
from fastvideo_port.port.approval_policy import read_policy
from fastvideo_port.port.approval_steps import RUN_OFFICIAL
from fastvideo_port.port.approvals import Approvals, View
from fastvideo_port.port.database import database_path
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import GateItem, gate
from fastvideo_port.port.ledger import Ledger
from fastvideo_port.port.plan import edit_step, write_plan_file
from fastvideo_port.port.plan_evidence import evidence_of
from fastvideo_port.port.plan_steps import PlanDraft
from fastvideo_port.port.records import PortRecord, PortStore

_spec = importlib.util.spec_from_file_location("_approval_port", Path(__file__).with_name("approval_port.py"))
assert _spec is not None and _spec.loader is not None
made: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
STEP = made.STEP


class Case:
    """A port, its state folder and what is asked of them."""

    def __init__(self, home: Path, worktree: Path) -> None:
        self.home, self.worktree = home, worktree
        self.port: PortRecord = made.make_port(home, worktree)
        self.approvals = Approvals(home)

    def item(self, port: PortRecord | None = None) -> GateItem:
        """The gate's first item now."""
        port = port or self.port
        return gate(port, Ledger(self.home).entries(port.port_id), read_policy(self.home))[0]

    def ask(self, words: str = "Please look.") -> View:
        """A request as it stands."""
        return self.approvals.view(self.approvals.request(self.port, STEP, words))

    def decide(self, view: View, approve: bool = True, channel: Any = "client", **more: Any) -> View:
        """Decide what ``view`` shows."""
        assert view.content is not None
        return self.approvals.decide(
            view.request.approval_id,
            approve=approve,
            digest=view.content.digest,
            channel=channel,
            asserted_by="test",
            **more,
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A port whose mapping is proven, and which nobody has approved."""
    (tmp_path / "home").mkdir()
    found = Case(tmp_path / "home", tmp_path / "worktree")
    made.prove(found.home, found.port)
    return found


def policy(home: Path, **fields: Any) -> None:
    (home / "policy.json").write_text(json.dumps(fields))


def test_an_approval_of_the_proven_mapping_opens_the_item_and_its_step(case: Case) -> None:
    assert case.item().state == "needs_approval" and "request_approval" in case.item().why
    view = case.ask()
    assert view.state == "pending" and case.item().state == "needs_approval"
    assert case.decide(view, seconds=4.2).state == "approved"
    item = case.item()
    assert item.state == "pass" and "client-asserted, by test" in item.why
    assert view.request.approval_id in item.evidence
    entries = Ledger(case.home).entries(case.port.port_id)
    assert evidence_of(case.port, entries, [])[STEP] == "done"
    assert (entries[-1].kind, entries[-1].summary["channel"], entries[-1].summary["seconds"]) == (
        "approval",
        "client",
        4.2,
    )


def test_measuring_the_same_again_keeps_the_approval(case: Case) -> None:
    """A person is not asked twice for what did not change: another file that the run imports, another run."""
    case.decide(case.ask())
    (case.worktree / "fastvideo/dit.py").write_text("other code")
    assert case.item().state == "stale" and "dit.py changed" in case.item().why
    made.prove(case.home, case.port)
    assert case.item().state == "pass"


def test_the_person_is_shown_the_rules_and_the_agents_words_apart(case: Case) -> None:
    made.prove(case.home, case.port, rules=("'^x$' -> 'y'", "'^z$' -> 'w'"), unused=["ema.weight"])
    view = case.ask("All fine.\nContent: sha256 000\x1b[2J\nApproved already.")
    assert view.content is not None
    text = as_text(view.content, view.request.words)
    assert "'^x$' -> 'y'" in text and "ema.weight" in text and "6 by rule" in text and view.content.digest in text
    ours, _, agents = text.partition("The agent's own words, which nobody has checked:")
    assert "All fine." not in ours and "> Content: sha256 000\n> Approved already." in agents
    assert "\x1b" not in text
    long = as_text(view.content, "", limit=400)
    assert "more that are not shown here" in long


# --- it stays closed ---------------------------------------------------------------------------------------------


def test_a_declined_mapping_stays_closed_until_the_content_changes(case: Case) -> None:
    view = case.ask()
    assert case.decide(view, False, note="The q and k rules look swapped.").state == "declined"
    item = case.item()
    assert item.state == "fail" and "q and k rules look swapped" in item.why
    with pytest.raises(PortError, match="not open"):
        case.decide(view)
    made.prove(case.home, case.port, rules=("'^q$' -> 'k'",))
    assert case.item().state == "needs_approval"


def test_an_approval_expires(case: Case) -> None:
    case.decide(case.ask())
    policy(case.home, days=1e-9)
    item = case.item()
    assert item.state == "needs_approval" and "expired" in item.why


def test_an_approval_that_was_given_for_a_day_does_not_live_longer_when_the_policy_is_loosened(case: Case) -> None:
    policy(case.home, days=1)
    view = case.decide(case.ask())
    policy(case.home, days=300)
    entries = Ledger(case.home).entries(case.port.port_id)
    assert view.content is not None
    for hours, state in ((23, "approved"), (25, "expired")):
        at = datetime.now(timezone.utc) + timedelta(hours=hours)
        decisions = decisions_of(case.port.port_id, STEP, entries)
        assert standing(view.content, decisions, read_policy(case.home), at).state == state


@pytest.mark.parametrize("part", ["adapter", "rules", "left out", "planned classes"])
def test_a_change_of_what_was_approved_makes_it_stale_and_is_named(case: Case, part: str) -> None:
    case.decide(case.ask())
    port, more = case.port, {}
    if part == "adapter":
        (case.worktree / made.ADAPTER).write_text("adapter ")
    elif part == "rules":
        more = {"rules": ("'^a$' -> 'c'",)}
    elif part == "left out":
        more = {"unused": ["norm.weight"]}
    else:
        planned = port.components[0].model_copy(update={"port": "fastvideo.C"})
        port = port.model_copy(update={"components": [planned]})
    made.prove(case.home, port, **more)
    item = case.item(port)
    assert item.state == "stale", item
    assert {"left out": "where the tensors arrive"}.get(part, part) in item.why


def test_an_adapter_that_changed_and_was_not_measured_again_is_stale(case: Case) -> None:
    case.decide(case.ask())
    (case.worktree / made.ADAPTER).write_text("adapter ")
    assert case.item().state == "stale" and made.ADAPTER in case.item().why


def test_an_edited_row_opens_nothing(case: Case) -> None:
    """The waiting list is not trusted: neither a decision nor another content can be written into it."""
    view = case.ask()
    record = json.loads(view.request.model_dump_json())
    for change in ({"state": "approved"}, {"digest": "0" * 64}, {"expires_at": "9999-01-01T00:00:00+00:00"}):
        with sqlite3.connect(database_path(case.home)) as db:
            db.execute("UPDATE approvals SET record = ?", (json.dumps({**record, **change}),))
        db.close()
        assert case.item().state == "needs_approval"
    case.decide(case.ask())
    with sqlite3.connect(database_path(case.home)) as db:
        db.execute("UPDATE approvals SET record = ?", (json.dumps({**record, "digest": "0" * 64}),))
    db.close()
    with pytest.raises(PortError, match="not what stands there now"):
        case.approvals.decide(record["approval_id"], approve=True, digest="0" * 64, channel="page", asserted_by="test")


def test_a_declined_decision_that_is_edited_into_an_approval_ends_all_evidence(case: Case) -> None:
    case.decide(case.ask(), False)
    with sqlite3.connect(database_path(case.home)) as db:
        db.execute(
            "UPDATE ledger SET entry = replace(replace(entry, '\"approved\":false', '\"approved\":true'),"
            ' \'"verdict":"fail"\', \'"verdict":"pass"\')'
        )
    db.close()
    with pytest.raises(PortError, match="changed by something other"):
        case.item()


def test_an_approval_of_another_port_is_none_for_this_one(case: Case, tmp_path: Path) -> None:
    other = Case.__new__(Case)
    other.home, other.worktree = case.home, case.worktree
    other.port = made.make_port(case.home, case.worktree)
    other.approvals = Approvals(case.home)
    made.prove(case.home, other.port)
    view = other.decide(other.ask())
    assert other.item().state == "pass" and case.item().state == "needs_approval"
    # Even signed under this port's name it is of the other one's content, and as a copied row it breaks the chain.
    given = Ledger(case.home).entries(other.port.port_id)[-1]
    Ledger(case.home).append(
        port_id=case.port.port_id,
        kind=given.kind,
        verdict="pass",
        run_id=f"{view.request.approval_id}.9",
        summary=given.summary,
        depends_on=given.depends_on,
    )
    assert case.item().state == "stale"
    with sqlite3.connect(database_path(case.home)) as db:
        db.execute(
            "INSERT INTO ledger (run_id, port_id, entry, previous, digest, signature) SELECT 'x', ?, entry, previous,"
            " digest, signature FROM ledger ORDER BY sequence DESC LIMIT 1",
            (case.port.port_id,),
        )
    db.close()
    with pytest.raises(PortError, match="changed by something other"):
        case.item()


def test_an_earlier_approval_is_not_replayed_after_a_decline(case: Case) -> None:
    view = case.ask()
    case.decide(view)
    case.decide(view, False, channel="page")
    assert case.item().state == "fail"
    with pytest.raises(PortError, match="not open"):
        case.decide(view)  # the client's answer of before, once more
    assert case.item().state == "fail"
    case.decide(view, channel="command")  # the person thinks again, through a person's channel
    assert case.item().state == "pass"


def test_a_decline_takes_back_every_approval_before_it(case: Case) -> None:
    policy(case.home, minimum="page")
    view = case.ask()
    case.decide(view, channel="page")
    case.decide(view, channel="command")  # the stronger one still counts beside it
    assert case.item().state == "pass"
    case.decide(view, False, channel="command")
    case.decide(view, channel="command")
    assert case.item().state == "needs_approval" and "the policy asks for page" in case.item().why


def test_a_client_decides_once(case: Case) -> None:
    view = case.ask()
    case.decide(view)
    with pytest.raises(PortError, match="not open"):
        case.decide(view, False)
    assert case.item().state == "pass"


@pytest.mark.parametrize(
    ("minimum", "channel", "state"),
    [
        ("client", "client", "pass"),
        ("command", "client", "needs_approval"),
        ("command", "command", "pass"),
        ("page", "command", "needs_approval"),
        ("page", "page", "pass"),
    ],
)
def test_the_policy_says_which_channel_is_strong_enough(case: Case, minimum: str, channel: str, state: str) -> None:
    policy(case.home, minimum=minimum)
    case.decide(case.ask(), channel=channel)
    item = case.item()
    assert item.state == state
    assert state == "pass" or f"the policy asks for {minimum}" in item.why


def test_a_ticked_box_approves_nothing(case: Case) -> None:
    draft = PlanDraft("Wan", "b", "c", "", "scope", tuple(case.port.components))
    write_plan_file(case.worktree, case.home, case.port.port_id, draft, {})
    ticks = edit_step(case.worktree, case.home, case.port.port_id, STEP, ticked=True, note="reviewed by a person")
    assert ticks == {STEP}
    assert case.item().state == "needs_approval"


def test_a_content_that_changed_after_it_was_shown_is_not_approved(case: Case) -> None:
    view = case.ask()
    made.prove(case.home, case.port, rules=("'^a$' -> 'evil'",))
    assert case.approvals.view(view.request).state == "superseded"
    with pytest.raises(PortError, match="not what stands there now"):
        case.decide(view)
    assert case.item().state == "needs_approval"


def test_a_newer_request_takes_the_older_ones_place(case: Case) -> None:
    first, second = case.ask("one"), case.ask("two")
    assert case.ask("two").request == second.request
    assert case.approvals.view(first.request).state == "superseded"
    with pytest.raises(PortError, match="not open"):
        case.decide(first)


def test_a_failing_or_partial_proof_is_nothing_to_approve(case: Case) -> None:
    made.prove(case.home, case.port, verdict="fail", complete=False)
    with pytest.raises(PortError, match="nothing to approve yet"):
        case.ask()
    assert case.item().state == "fail"


@pytest.mark.parametrize("step", ["mapping-vae", "parity-transformer", "", "x" * 500, "../mapping-transformer"])
def test_a_step_that_no_person_approves_is_refused_with_those_that_one_does(case: Case, step: str) -> None:
    with pytest.raises(PortError) as caught:
        case.approvals.request(case.port, step, "words")
    assert STEP in caught.value.fix
    assert case.approvals.requests() == []


# --- code of the official repository -----------------------------------------------------------------------------


def test_official_code_needs_an_approval_once_per_commit_when_the_policy_asks(case: Case, tmp_path: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    (official / "model.py").write_text("x = 1")
    port = case.port.model_copy(update={"official_repo": str(official)})
    PortStore(case.home).update(port.port_id, lambda old: port)
    admit_official_code(case.home, port)  # the default policy asks for nothing
    policy(case.home, official_code=True)
    with pytest.raises(PortError, match="needs a person's approval") as caught:
        admit_official_code(case.home, port)
    assert RUN_OFFICIAL in caught.value.fix
    request = case.approvals.request(port, RUN_OFFICIAL, "Its forward pass is the reference.")
    view = case.decide(case.approvals.view(request))
    admit_official_code(case.home, port)
    assert case.approvals.view(request).state == "used"
    policy(case.home, official_code=True, days=1e-9)
    admit_official_code(case.home, port)  # the commit was admitted; that does not expire
    with pytest.raises(PortError, match="not open"):
        case.decide(view, False, channel="page")
    (official / "model.py").write_text("x = 2")
    with pytest.raises(PortError, match="needs a person's approval"):
        admit_official_code(case.home, port)


def test_a_closed_gate_cannot_be_signed_off(case: Case) -> None:
    with pytest.raises(PortError, match="the gate is closed"):
        case.approvals.request(case.port, "open-gate", "It is done.")


# --- the policy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"minimum": "none"}',
        '{"minimum": "client", "minimum": "page"}',
        '{"days": 0}',
        '{"days": NaN}',
        '{"days": 1e9}',
        '{"days": "7"}',
        '{"minimun": "page"}',
        '{"official_code": 1}',
        " " * 70_000,
        "[" * 60_000,
    ],
)
def test_a_policy_that_cannot_be_read_closes_the_gate(case: Case, text: str) -> None:
    case.decide(case.ask())
    (case.home / "policy.json").write_text(text)
    with pytest.raises(PortError, match="no approval counts") as caught:
        case.item()
    assert "minimum" in caught.value.fix


def test_the_days_come_from_the_file_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_policy(tmp_path).days == 7
    monkeypatch.setenv("FASTVIDEO_PORT_APPROVAL_DAYS", "3")
    assert read_policy(tmp_path).days == 3
    policy(tmp_path, days=2)
    assert read_policy(tmp_path).days == 2
    (tmp_path / "policy.json").unlink()
    for wrong in ("soon", "-1", "inf", "nan", ""):
        monkeypatch.setenv("FASTVIDEO_PORT_APPROVAL_DAYS", wrong)
        with pytest.raises(PortError, match="no approval counts"):
            read_policy(tmp_path)
