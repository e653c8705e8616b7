"""run_component_parity over real runs of the engine, and what it refuses before one begins."""

from __future__ import annotations

from typing import Any

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.gate import gate
from fastvideo_port.tools.run_component_parity import _backend_step, finish, run_component_parity
from fastvideo_port.tools.run_status import run_status

from .tiny import full_run

RIGHT, WRONG = "eps=1e-6", "eps=1e-2"
PORT = "fastvideo/tiny.py"


def parity_item(tiny: Any) -> tuple[str, str]:
    """State and reason of the gate's item."""
    item = next(item for item in gate(tiny.port, tiny.entries()) if item.id == "component-parity")
    return item.state, item.why


def test_a_right_port_passes_in_full_and_is_evidence(tiny: Any) -> None:
    result = full_run(tiny, "transformer")
    assert (result.state, result.verdict) == ("done", "pass"), result.findings
    assert {(row.case, row.seed) for row in result.cases} == {
        (case, seed) for case in ("small", "odd") for seed in (0, 1)
    }
    assert result.self_test is not None and result.self_test.passed
    entry = tiny.entries()[-1]
    assert (entry.run_id, entry.verdict, entry.complete) == (result.run_id, "pass", True)
    assert {"worktree:fastvideo/tiny.py", "worktree:fastvideo/layers.py"} <= set(entry.depends_on)
    assert "official:tiny_official.py" in entry.depends_on
    assert "worktree:fastvideo/unused.py" not in entry.depends_on
    count = len(tiny.entries())
    assert finish(tiny.ctx, tiny.ctx.runs.get(result.run_id)) == result
    assert len(tiny.entries()) == count
    assert parity_item(tiny)[0] == "pass"


def test_a_wrong_port_fails_in_a_part_and_that_counts_until_a_full_run_passes(tiny: Any) -> None:
    with tiny.edited(PORT, RIGHT, WRONG):
        result = run_component_parity(
            tiny.ctx, tiny.port_id, "transformer", cases=["small"], seeds=[0], dtypes=["float32"], device="cpu"
        )
        assert result.verdict == "fail" and result.culprit is not None
        assert (result.culprit.module, result.culprit.kind) == ("norm", "module")
        assert tiny.entries()[-1].complete is False
        state, why = parity_item(tiny)
        assert state == "fail" and result.run_id in str(gate(tiny.port, tiny.entries())[2].evidence), why
    assert parity_item(tiny)[0] == "stale"  # repaired, and not measured again
    part = run_component_parity(tiny.ctx, tiny.port_id, "transformer", seeds=[0], device="cpu")
    assert part.verdict == "pass" and "full run" in part.next_step
    assert parity_item(tiny)[0] != "pass"
    assert full_run(tiny, "transformer").verdict == "pass"
    assert parity_item(tiny)[0] == "pass"


def test_an_aligned_run_is_a_diagnosis_and_no_evidence(tiny: Any) -> None:
    before = parity_item(tiny)[0]
    result = run_component_parity(tiny.ctx, tiny.port_id, "transformer", device="cpu", align_backends=True)
    while result.state in ("queued", "running"):
        run_status(tiny.ctx, result.run_id, 45)
        result = finish(tiny.ctx, tiny.ctx.runs.get(result.run_id))
    assert result.verdict == "pass" and result.attention_backends["aligned"] is True
    assert "without align_backends" in result.next_step
    assert tiny.entries()[-1].complete is False and parity_item(tiny)[0] == before


def test_different_attention_kernels_are_to_be_aligned_before_anything_deeper() -> None:
    apart: dict[str, Any] = {"aligned": False, "differs": "In float32 the port ran a, the official side b."}
    found = [{"code": "attention-backends-differ", "verdict": "pass"}, {"code": "precision", "verdict": "fail"}]
    assert "align_backends=true" in _backend_step("fail", apart, False, found)
    assert _backend_step("fail", apart, True, found) == "", "a confirmed culprit comes first"
    assert _backend_step("pass", apart, False, found) == ""
    assert _backend_step("fail", {**apart, "aligned": True}, False, found) == ""


@pytest.mark.parametrize("code", ["port-model-not-called", "missing-output", "weights-swapped", "table-differs"])
def test_no_attention_kernel_is_to_blame_where_the_contract_is_broken(code: str) -> None:
    apart: dict[str, Any] = {"aligned": False, "differs": "In float32 the port ran nothing, the official side b."}
    assert _backend_step("fail", apart, False, [{"code": code, "verdict": "fail"}]) == ""
    assert _backend_step("inconclusive", apart, False, []) == "", "the check is to be repaired, not the port"


def test_a_call_port_that_returns_nothing_is_told_to_return_the_outputs(tiny: Any) -> None:
    adapter = "tests/local_tests/tiny/parity_transformer.py"
    begin = "def call_port(model, inputs, ctx):\n"
    with tiny.edited(adapter, begin, f"{begin}    return {{}}\n"):
        result = run_component_parity(
            tiny.ctx, tiny.port_id, "transformer", cases=["small"], seeds=[0], dtypes=["float32"], device="cpu"
        )
    codes = {row.code for row in result.findings if row.verdict == "fail"}
    assert result.verdict == "fail" and {"port-model-not-called", "missing-output"} <= codes, result.findings
    assert "never called the model" in result.next_step and "align_backends" not in result.next_step


def test_the_next_step_names_the_change_that_removes_the_error(tiny: Any) -> None:
    """Project: an agent that followed the next step compared lines, though the change was found already."""
    with tiny.edited("fastvideo/tiny.py", "eps=1e-6", "eps=1e-3"):
        result = run_component_parity(
            tiny.ctx, tiny.port_id, "transformer", cases=["small"], seeds=[0], dtypes=["float32"], device="cpu"
        )
        while result.state in ("queued", "running"):
            run_status(tiny.ctx, result.run_id, 45)
            result = finish(tiny.ctx, tiny.ctx.runs.get(result.run_id))
    assert result.verdict == "fail" and "an epsilon of 1e-06" in result.trials[0]
    assert f"(a change that removes the error: {result.trials[0]})" in result.next_step, result.next_step


def test_an_error_deep_inside_torch_names_the_line_of_the_port_that_led_there(tiny: Any) -> None:
    """Project: the last four frames were torch's own, and nothing said where the port called it."""
    line = "h = self.norm(torch.tanh(self.up(x)))"
    with (
        tiny.edited("fastvideo/tiny.py", line, line.replace("self.up(x)", "self.up(x[..., :3])")),
        pytest.raises(PortError) as caught,
    ):
        run_component_parity(tiny.ctx, tiny.port_id, "transformer", cases=["small"], seeds=[0], device="cpu")
    assert "fastvideo/tiny.py:" in caught.value.seen and "torch/nn/modules/linear.py" in caught.value.seen


def refused(tiny: Any, match: str, **arguments: Any) -> PortError:
    """The error of a call that must start nothing."""
    before = tiny.left()
    with pytest.raises(PortError, match=match) as caught:
        run_component_parity(tiny.ctx, tiny.port_id, "transformer", **arguments)
    assert caught.value.seen and caught.value.fix
    assert tiny.left() == before
    return caught.value


def test_no_case_is_refused(tiny: Any) -> None:
    refused(tiny, "No case was chosen", cases=[])


@pytest.mark.parametrize("seeds", [[], [-1], [0, 0], list(range(9)), [2**31]])
def test_seeds_that_are_none_are_refused(tiny: Any, seeds: list[int]) -> None:
    refused(tiny, "seeds are not 1 to 8 different numbers", seeds=seeds)


@pytest.mark.parametrize("dtypes", [["float64"], ["bfloat16", "int8"], ["x" * 1000], [""]])
def test_an_unknown_dtype_is_refused(tiny: Any, dtypes: list[str]) -> None:
    error = refused(tiny, "not one that the port is judged in", dtypes=dtypes)
    assert "bfloat16" in error.fix and len(error.seen) < 500


def test_no_dtype_is_refused(tiny: Any) -> None:
    refused(tiny, "No dtype was chosen", dtypes=[])


@pytest.mark.parametrize("device", ["banana", "cuda:x", "cuda:-1", "", "CUDA", "cpu;rm -rf", "x" * 5000])
def test_a_device_that_is_none_is_refused(tiny: Any, device: str) -> None:
    error = refused(tiny, "not the name of a device", device=device)
    assert len(error.seen) < 200


def failed(tiny: Any, **arguments: Any) -> str:
    """The error of a run that cannot be judged; it is no evidence."""
    before = len(tiny.entries())
    with pytest.raises(PortError) as caught:
        run_component_parity(tiny.ctx, tiny.port_id, "transformer", **arguments)
    assert caught.value.fix
    assert len(tiny.entries()) == before
    return str(caught.value)


def test_an_unknown_case_is_named_with_those_there_are(tiny: Any) -> None:
    said = failed(tiny, cases=["smal"], device="cpu")
    assert "smal" in said and "odd" in said


def test_a_device_that_is_not_there_is_said(tiny: Any) -> None:
    import torch

    absent = f"cuda:{torch.cuda.device_count() + 7}"
    assert absent.removeprefix("cuda") in failed(tiny, device=absent)
