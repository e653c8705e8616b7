"""write_plan: what an agent gives, what it gets, and what the port's record holds afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.records import PortRecord, WeightsRecord, now
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.write_plan import SPEC, PlanComponent, WritePlanResult, write_plan

DIT = PlanComponent(
    name="transformer",
    kind="dit",
    official="diffusers.WanTransformer3DModel",
    port="fastvideo.models.dits.wanvideo.WanTransformer3DModel",
)
VAE = PlanComponent(
    name="vae",
    kind="vae",
    official="diffusers.AutoencoderKLWan",
    port="fastvideo.models.vaes.wanvae.AutoencoderKLWan",
    adapter="tests/local_tests/wan/my_vae.py",
)


@pytest.fixture
def ctx(state_home: Path, tmp_path: Path) -> ToolContext:
    """A context with one port, ``port-1``, whose worktree is an empty folder."""
    worktree = tmp_path / "a tree"
    worktree.mkdir()
    context = ToolContext(home=state_home, cwd=tmp_path)
    context.ports.add(
        PortRecord(
            port_id="port-1",
            model_name="Wan 2.2 / TI2V (5B)",
            slug="wan-2-2-ti2v-5b",
            worktree=str(worktree),
            branch="codex/port-wan",
            base_commit="abc",
            mode="worktree",
            repository="/r",
            python="/usr/bin/python3",
            created_at=now(),
        )
    )
    return context


def states(result: WritePlanResult) -> dict[str, str]:
    return {step.id: step.state for step in result.steps}


def test_the_plan_stands_in_the_worktree_and_the_components_in_the_record(ctx: ToolContext) -> None:
    result = write_plan(ctx, "port-1", "T2V only", [VAE, DIT], risks=["RoPE"], constraints=["bf16"])
    record = ctx.ports.get("port-1")
    assert result.plan_path == record.plan_path == str(Path(record.worktree).resolve() / "PLAN.md")
    assert [(item.name, item.adapter) for item in record.components] == [
        ("transformer", "tests/local_tests/wan-2-2-ti2v-5b/parity_transformer.py"),
        ("vae", "tests/local_tests/wan/my_vae.py"),
    ]
    text = Path(result.plan_path).read_text(encoding="utf-8")
    for words in ("Wan 2.2 / TI2V (5B)", "> T2V only", "- RoPE", "- bf16", "my_vae.py"):
        assert words in text


def test_states_come_from_evidence_and_a_tick_stays_a_claim(ctx: ToolContext) -> None:
    first = write_plan(ctx, "port-1", "T2V", [DIT])
    assert states(first)["isolate-workspace"] == "done"
    assert states(first)["fetch-weights"] == states(first)["parity-transformer"] == "todo"
    plan = Path(first.plan_path)
    plan.write_text(plan.read_text().replace("- [ ] `", "- [x] `"))
    ctx.ports.update(
        "port-1",
        lambda old: old.model_copy(
            update={"weights": WeightsRecord(path="/w", source="a/b", revision=None, digest="0" * 64)}
        ),
    )
    adapter = plan.parent / ctx.ports.get("port-1").components[0].adapter
    adapter.parent.mkdir(parents=True)
    adapter.touch()
    second = write_plan(ctx, "port-1", "T2V", [DIT])
    assert states(second)["fetch-weights"] == "done"
    assert {state for step, state in states(second).items() if step not in ("fetch-weights", "isolate-workspace")} == {
        "claimed"
    }
    assert "tick of parity-transformer" in second.kept


def test_an_adapter_on_disk_is_work_begun_and_not_work_done(ctx: ToolContext) -> None:
    first = write_plan(ctx, "port-1", "T2V", [DIT])
    adapter = Path(first.plan_path).parent / ctx.ports.get("port-1").components[0].adapter
    adapter.parent.mkdir(parents=True)
    adapter.touch()
    assert states(write_plan(ctx, "port-1", "T2V", [DIT]))["adapter-transformer"] == "in_progress"


def test_the_next_step_follows_from_what_is_there(ctx: ToolContext) -> None:
    assert "fetch_weights" in write_plan(ctx, "port-1", "T2V", [DIT]).next_step
    weights = WeightsRecord(path="/w", source="a/b", revision=None, digest="0" * 64)
    ctx.ports.update("port-1", lambda old: old.model_copy(update={"weights": weights}))
    assert "check_mapping with component='transformer'" in write_plan(ctx, "port-1", "T2V", [VAE, DIT]).next_step


def test_a_component_of_the_weights_that_the_plan_leaves_out_is_named_before_anything_is_written(
    ctx: ToolContext,
) -> None:
    """Project: only the gate said so, when all else was done."""
    found = {"transformer": ("dit", "WanTransformer3DModel"), "scheduler": ("scheduler", "UniPCMultistepScheduler")}
    weights = WeightsRecord(path="/w", source="a/b", revision=None, digest="0" * 64, components=found)
    ctx.ports.update("port-1", lambda old: old.model_copy(update={"weights": weights}))
    told = write_plan(ctx, "port-1", "T2V", [DIT]).next_step
    assert told.startswith("The official model also has scheduler (UniPCMultistepScheduler): plan these too")
    assert "Call scaffold_component" in told


@pytest.mark.parametrize("scope", ["", "  \n", "\u200b\x1b[31m"])
def test_an_empty_scope_is_refused(ctx: ToolContext, scope: str) -> None:
    with pytest.raises(PortError, match="no scope"):
        write_plan(ctx, "port-1", scope, [DIT])


def test_bad_input_leaves_neither_file_nor_record(ctx: ToolContext) -> None:
    with pytest.raises(PortError, match="same name"):
        write_plan(ctx, "port-1", "T2V", [DIT, DIT])
    with pytest.raises(PortError, match="too many risks"):
        write_plan(ctx, "port-1", "T2V", [DIT], risks=[f"r{number}" for number in range(41)])
    with pytest.raises(PortError, match="scope is too long"):
        write_plan(ctx, "port-1", "x" * 10_000_000, [DIT])
    record = ctx.ports.get("port-1")
    assert (record.components, record.plan_path) == ([], None)
    assert list(Path(record.worktree).iterdir()) == []


def test_an_unknown_port_is_named(ctx: ToolContext) -> None:
    with pytest.raises(PortError, match="no port with this id"):
        write_plan(ctx, "port-2", "T2V", [DIT])


def test_the_largest_plan_stays_small_enough_for_a_model(ctx: ToolContext) -> None:
    """Project: a result stays under 10k tokens; four characters a token is on the safe side for this text."""
    many = [DIT.model_copy(update={"name": f"transformer_with_a_long_name_{number}"}) for number in range(24)]
    result = write_plan(ctx, "port-1", "T2V", many)
    assert len(result.model_dump_json()) < 4 * 10_000


def test_annotations() -> None:
    assert SPEC.name == "write_plan"
    assert (SPEC.read_only, SPEC.destructive, SPEC.idempotent, SPEC.open_world) == (False, False, True, False)
