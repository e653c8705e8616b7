"""gate_status over real evidence: what an edit makes stale, what it leaves, what tampering does."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.port.database import database_path
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools import _components
from fastvideo_port.tools.check_mapping import check_mapping
from fastvideo_port.tools.fetch_weights import fetch_weights
from fastvideo_port.tools.gate_status import gate_status
from fastvideo_port.tools.write_plan import PlanComponent, write_plan

ADAPTER = "tests/local_tests/tiny/parity_transformer.py"


def keys(tiny: Any) -> tuple[str, str]:
    """State and reason of the item on keys."""
    items = {item.id: item for item in gate_status(tiny.ctx, tiny.port_id).items}
    assert len(items) == 7
    return items["keys"].state, items["keys"].why


@pytest.fixture(scope="module")
def measured(tiny: Any) -> Any:
    """The tiny port with a mapping that passed; nobody asked for the run's result yet."""
    run = check_mapping(tiny.ctx, tiny.port_id, "transformer", wait_s=0)
    assert tiny.ctx.runs.wait(run.run_id, 120).state == "done"
    assert tiny.entries() == []
    return tiny


def test_a_finished_run_that_nobody_asked_about_is_evidence(measured: Any) -> None:
    assert keys(measured)[0] == "pass"
    assert len(measured.entries()) == 1
    result = gate_status(measured.ctx, measured.port_id)
    assert result.gate == "closed" and len(measured.entries()) == 1
    assert "run_component_parity" in result.next_step
    states = {item.id: item.state for item in result.items}
    assert states["mapping-reviewed"] == "needs_approval" and states["component-parity"] == "missing"


def test_one_character_in_an_imported_file_makes_it_stale_and_is_named(measured: Any) -> None:
    with measured.edited("fastvideo/layers.py", "x + y", "x  + y"):
        state, why = keys(measured)
        assert state == "stale" and "fastvideo/layers.py changed" in why
    assert keys(measured)[0] == "pass"


def test_a_file_that_was_not_imported_may_change(measured: Any) -> None:
    with measured.edited("fastvideo/unused.py", "X = 1", "X = 2"):
        assert keys(measured)[0] == "pass"


def test_a_table_that_the_code_reads_when_it_runs_makes_it_stale_and_one_that_it_does_not_read_changes_nothing(
    measured: Any,
) -> None:
    with measured.edited("fastvideo/layers.json", "1", "2"):
        state, why = keys(measured)
        assert state == "stale" and "fastvideo/layers.json changed" in why
    with measured.edited("fastvideo/unused.json", "1", "2"):
        assert keys(measured)[0] == "pass"


def test_an_adapter_that_is_swapped_after_the_run_began_is_not_run(measured: Any) -> None:
    """Checked, started, swapped, and put back: what would have run is not what the gate looks at later."""
    before = len(measured.entries())
    run = check_mapping(measured.ctx, measured.port_id, "transformer", wait_s=0)
    with measured.edited(ADAPTER, "def load_port(ctx):", "def load_port(ctx):\n    # a stub"):
        ended = measured.ctx.runs.wait(run.run_id, 120)
    assert ended.state == "failed" and "not the one that the run began with" in ended.error.what
    assert keys(measured)[0] == "pass" and len(measured.entries()) == before


def test_an_adapter_whose_place_a_link_took_between_check_and_use_is_refused(
    measured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = measured.worktree / ADAPTER
    text = path.read_text()
    (tmp_path / "stub.py").write_text(text)
    resolve = _components.resolve_inside

    def swapping(*arguments: Any, **more: Any) -> Path:
        found = resolve(*arguments, **more)
        path.unlink()
        path.symlink_to(tmp_path / "stub.py")
        return found

    monkeypatch.setattr(_components, "resolve_inside", swapping)
    try:
        with pytest.raises(PortError, match="replaced between the look at its path and its use"):
            check_mapping(measured.ctx, measured.port_id, "transformer", wait_s=0)
    finally:
        path.unlink()
        path.write_text(text)


def test_weights_that_are_overwritten_under_their_old_size_and_time_are_named_and_not_run(measured: Any) -> None:
    path = Path(measured.port.weights.path) / "transformer/model.safetensors"
    content, facts = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    state, why = keys(measured)
    assert state == "stale" and "transformer/model.safetensors of the official weights changed" in why
    run = check_mapping(measured.ctx, measured.port_id, "transformer", wait_s=0)
    ended = measured.ctx.runs.wait(run.run_id, 120)
    assert ended.state == "failed" and "not those that were fetched" in ended.error.what
    # Put back, and looked at by fetch_weights: the same bytes, so the evidence holds again.
    path.write_bytes(content)
    assert keys(measured)[0] == "stale"
    fetch_weights(measured.ctx, measured.port_id, measured.port.weights.source)
    assert keys(measured)[0] == "pass"


def test_a_changed_adapter_and_a_deleted_file_are_named(measured: Any) -> None:
    with measured.edited(ADAPTER, '{"n": 3}', '{"n": 1}'):
        assert keys(measured) == ("stale", f"transformer: {ADAPTER} changed since {measured.entries()[0].run_id}; "
                                  "run check_mapping again.")  # fmt: skip
    path = measured.worktree / "fastvideo/tiny.py"
    text = path.read_text()
    path.unlink()
    assert "fastvideo/tiny.py is gone" in keys(measured)[1]
    path.write_text(text)
    assert keys(measured)[0] == "pass"


def test_other_weights_make_it_stale_and_the_old_ones_fresh_again(measured: Any, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    old = measured.port.weights.source
    save_file({"first.weight": np.zeros((16, 8), np.float32)}, tmp_path / "model.safetensors")
    fetch_weights(measured.ctx, measured.port_id, str(tmp_path))
    state, why = keys(measured)
    assert state == "stale" and "weights were fetched again and differ" in why
    fetch_weights(measured.ctx, measured.port_id, old)
    assert keys(measured)[0] == "pass"


def test_another_plan_makes_it_stale_and_a_component_without_evidence_is_named(measured: Any) -> None:
    def plan(port: str, *more: PlanComponent) -> None:
        component = PlanComponent(
            name="transformer", kind="dit", official="tiny_official.Net", port=port, adapter=ADAPTER
        )
        write_plan(measured.ctx, measured.port_id, "The network.", [component, *more])

    plan("fastvideo.tiny.Another")
    assert keys(measured)[0] == "stale"
    plan("fastvideo.tiny.TinyNet", PlanComponent(name="vae", kind="vae", official="o.V", port="fastvideo.V"))
    state, why = keys(measured)
    assert state == "missing" and why.startswith("vae: check_mapping has not been run")
    plan("fastvideo.tiny.TinyNet")
    assert keys(measured)[0] == "pass"


def test_an_edited_result_of_a_run_is_no_evidence(measured: Any) -> None:
    run = check_mapping(measured.ctx, measured.port_id, "transformer", wait_s=0)
    assert measured.ctx.runs.wait(run.run_id, 120).state == "done"
    path = measured.ctx.runs.folder(run.run_id) / "result.json"
    path.write_bytes(path.read_bytes().replace(b'"verdict": "pass"', b'"verdict": "fail"'))
    before = len(measured.entries())
    gate_status(measured.ctx, measured.port_id)
    assert len(measured.entries()) == before


def test_an_unknown_port_is_named_with_the_nearest(measured: Any) -> None:
    before = measured.left()
    with pytest.raises(PortError, match="no port with this id") as caught:
        gate_status(measured.ctx, measured.port_id[:-1])
    assert measured.port_id in caught.value.seen
    assert measured.left() == before


def test_a_ledger_that_was_tampered_with_closes_every_item(measured: Any) -> None:
    """Last in this file: afterwards there is no evidence any more."""
    with sqlite3.connect(database_path(measured.ctx.home)) as db:
        db.execute("UPDATE ledger SET entry = replace(entry, '\"complete\":true', '\"complete\":false')")
    db.close()
    with pytest.raises(PortError, match="changed by something other than this program") as caught:
        gate_status(measured.ctx, measured.port_id)
    assert "entry 1" in caught.value.seen
