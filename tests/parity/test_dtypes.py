"""The dtype audit and attention backends: what is observed in small models, and what is made of two of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity.attention import align_environment, compare_backends, one_backend
from fastvideo_port.parity.dtypes import Regions, audit_dtypes
from fastvideo_port.parity.observe import Observation, observing
from fastvideo_port.parity.pairing import Pair
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.verdict import Finding
from torch import nn

Function = Callable[[torch.Tensor], torch.Tensor]
PAIRS = {"": Pair("", "", "weights"), "part": Pair("part", "part", "name"), "child": Pair("child", "child", "name")}


class Part(nn.Module):
    """A module whose forward is one function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Model(nn.Module):
    """A part with a sibling, so that the model is a container."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.part = Part(function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


def observe(function: Function, shape: tuple[int, ...] = (2, 4, 6, 8)) -> Observation:
    """What the function does with bfloat16."""
    model = Model(function)
    with torch.no_grad(), observing(model, "cpu") as seen:
        model(torch.randn(shape).bfloat16())
    return seen


def dtypes(seen: Observation, role: str, module: str = "part") -> set[str]:
    return set(seen.roles.get(module, {}).get(role, {}))


def audit(port: Observation, official: Observation) -> tuple[list[dict[str, str]], list[Finding]]:
    return audit_dtypes(Trace(), Trace(), port, official, PAIRS, "bfloat16")


def test_observing_does_not_load_the_compiler() -> None:
    """torch's base class imports torch._dynamo at the first operation unless it is told not to: 2 s in each process."""
    code = (
        "import sys, torch\nfrom fastvideo_port.parity.observe import observing\nmodel = torch.nn.Linear(2, 2)\n"
        "with observing(model, 'cpu') as seen: model(torch.ones(2))\n"
        "assert seen.final == ['', 'float32'] and 'torch._dynamo' not in sys.modules, seen"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_compiled_function_is_observed_as_if_it_were_not_compiled() -> None:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype)

    compiled = observe(torch.compile(norm, backend="eager"))
    assert vars(compiled) == vars(observe(norm)) and dtypes(compiled, "norm") == {"float32"}


def rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_upcast(x: torch.Tensor) -> torch.Tensor:
    return rms(x.float()).to(x.dtype)


def rms_divided(x: torch.Tensor) -> torch.Tensor:
    y = x.float()
    return (y / torch.sqrt((y * y).sum(-1, keepdim=True) / y.shape[-1] + 1e-6)).to(x.dtype)


def turn(table: torch.dtype, compute: torch.dtype) -> Function:
    def rope(x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), 1.0 / 100.0 ** (torch.arange(4) / 4.0))
        cos, sin = angles.cos().to(table), angles.sin().to(table)
        a, b = x.to(compute).chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)

    return rope


def timestep(angle: torch.dtype) -> Function:
    def embed(x: torch.Tensor) -> torch.Tensor:
        t = torch.full((2, 1), 900.0)
        angles = t.to(angle) * torch.exp(torch.arange(4) * -1.0).to(angle)
        return F.linear(torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype), torch.ones(8, 8, dtype=x.dtype))

    return embed


def test_a_norm_is_known_however_it_is_written() -> None:
    assert dtypes(observe(rms), "norm") == {"bfloat16"}
    assert dtypes(observe(rms_upcast), "norm") == dtypes(observe(rms_divided), "norm") == {"float32"}
    assert dtypes(observe(lambda x: F.layer_norm(x, (8,))), "norm") == {"bfloat16 (float32 inside)"}
    assert dtypes(observe(lambda x: F.normalize(x, dim=-1)), "norm") == {"bfloat16 (float32 inside)"}
    assert dtypes(observe(lambda x: F.gelu(x) * x.mean()), "norm") == set()


def test_a_softmax_is_known_as_a_function_and_as_a_formula() -> None:
    def formula(x: torch.Tensor) -> torch.Tensor:
        powers = torch.exp(x.float() - x.float().amax(-1, keepdim=True))
        return powers / powers.sum(-1, keepdim=True)

    assert dtypes(observe(formula), "softmax") == {"float32"}
    assert dtypes(observe(lambda x: x.softmax(-1)), "softmax") == {"bfloat16"}
    assert dtypes(observe(lambda x: x.softmax(-1, dtype=torch.float32)), "softmax") == {"float32"}


def test_a_rotation_and_its_table_are_known_and_no_timestep() -> None:
    seen = observe(turn(torch.float32, torch.bfloat16))
    assert dtypes(seen, "rope table") == {"float32"} and dtypes(seen, "rope angles") == {"float32"}
    assert dtypes(observe(turn(torch.bfloat16, torch.bfloat16)), "rope") == {"bfloat16"}
    assert dtypes(seen, "timestep embedding") == set()


def test_a_table_that_was_rounded_and_widened_again_shows() -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        cos = torch.arange(8.0).cos().bfloat16().float()
        return (x.float() * cos).to(x.dtype)

    assert dtypes(observe(rounded), "rope table") == {"bfloat16"}


def test_a_timestep_embedding_is_known_by_the_matrix_product_behind_it() -> None:
    seen = observe(timestep(torch.bfloat16))
    assert dtypes(seen, "timestep embedding") == {"bfloat16"} and dtypes(seen, "timestep projection") == {"bfloat16"}
    assert dtypes(observe(timestep(torch.float32)), "timestep embedding") == {"float32"}
    assert dtypes(seen, "rope") == set()


def test_a_residual_addition_belongs_to_the_module_that_adds() -> None:
    class Residual(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float() + self.part(x)

    model = Residual(lambda x: x * 2)
    with torch.no_grad(), observing(model, "cpu") as seen:
        model(torch.randn(2, 4, 8).bfloat16())
    assert seen.roles[""]["residual"] == {"float32": 1} and "residual" not in seen.roles.get("part", {})


def test_autocast_is_seen_where_it_is_on() -> None:
    class Cast(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.part(x)

    model = Cast(lambda x: x @ x.transpose(-1, -2))
    with torch.no_grad(), observing(model, "cpu") as seen:
        model(torch.randn(2, 4, 8))
    assert seen.autocast == {"": "off", "part": "bfloat16"} and seen.final == ["part", "bfloat16"]


JUDGED: dict[str, tuple[Function, Function]] = {
    "norm": (rms, rms_upcast),
    "softmax": (lambda x: x.softmax(-1), lambda x: x.float().softmax(-1).to(x.dtype)),
    "rope": (turn(torch.bfloat16, torch.bfloat16), turn(torch.float32, torch.float32)),
    "timestep embedding": (timestep(torch.bfloat16), timestep(torch.float32)),
}


@pytest.mark.parametrize("role", JUDGED)
def test_a_port_that_is_narrower_is_named_and_a_wider_one_is_only_listed(role: str) -> None:
    narrow, wide = (observe(function) for function in JUDGED[role])
    rows, findings = audit(narrow, wide)
    row = next(row for row in rows if row["what"] == role)
    assert (row["module"], row["direction"], row["asked"]) == ("part", "narrower", "bfloat16")
    assert findings and all((f.code, f.verdict) == ("dtype-narrower", "investigate") for f in findings)
    assert "'part'" in findings[0].message and "bfloat16" in findings[0].message and "float32" in findings[0].message
    rows, findings = audit(wide, narrow)
    assert {row["direction"] for row in rows if row["what"] == role} == {"wider"} and not findings
    assert audit(narrow, narrow) == ([], [])


def test_a_norm_in_another_place_of_the_same_parent_is_compared_there() -> None:
    """The official model normalises in a module without a partner, the port in glue of the parent."""
    official = Observation(roles={"other": {"norm": {"float32": 1}}})
    port = Observation(roles={"": {"norm": {"bfloat16": 1}}})
    rows, findings = audit(port, official)
    assert [(row["module"], row["direction"]) for row in rows] == [("", "narrower")] and len(findings) == 1


def test_a_kernel_that_accumulates_in_float32_is_listed_and_not_accused() -> None:
    for function in (lambda x: F.layer_norm(x, (8,)), lambda x: F.normalize(x, dim=-1)):
        rows, findings = audit(observe(function), observe(rms_upcast))
        assert [row["port_dtype"] for row in rows] == ["bfloat16 (float32 inside)"] and not findings
    assert audit(observe(rms), observe(lambda x: F.layer_norm(x, (8,))))[1], "by hand it is narrower"


def attend(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def attend_by_hand(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.transpose(-1, -2) * x.shape[-1] ** -0.5).softmax(-1) @ x


def test_attention_by_hand_is_listed_beside_a_kernel_and_not_accused() -> None:
    rows, findings = audit(observe(attend_by_hand), observe(attend))
    assert [(row["what"], row["port_dtype"]) for row in rows] == [("softmax", "bfloat16")] and not findings


def test_the_kernel_that_ran_is_named() -> None:
    spec = {"align_backends": True}
    assert list(observe(attend).kernels["part"]) == ["sdpa-flash-cpu"]
    assert observe(attend_by_hand).kernels["part"] == {"by-hand": 1}
    with one_backend(spec):
        assert observe(attend).kernels["part"] == {"sdpa-math": 1}
    with one_backend({}):
        assert list(observe(attend).kernels["part"]) == ["sdpa-flash-cpu"]


def test_kernels_are_seen_in_inference_mode_too() -> None:
    model = Model(attend)
    with torch.inference_mode(), observing(model, "cpu") as seen:
        model(torch.randn(2, 4, 6, 8))
    assert list(seen.kernels["part"]) == ["sdpa-flash-cpu"]


def test_an_implementation_without_a_torch_operation_is_said_to_be_unseen() -> None:
    class Foreign:
        pass

    model = Model(lambda x: x)
    model.part.attn_impl = Foreign()  # type: ignore[assignment]
    with torch.no_grad(), observing(model, "cpu") as seen:
        model(torch.randn(2, 4))
    assert list(seen.kernels["part"]) == ["Foreign (not a torch operation)"]


def compare(port: Observation, official: Observation, aligned: bool = False) -> tuple[dict[str, Any], list[Finding]]:
    seen = {"port": {"float32": port}, "official": {"float32": official}}
    return compare_backends(seen, {"port": {}, "official": {}}, Regions(PAIRS), aligned)


def test_different_backends_are_a_remark_and_no_advice_where_nothing_failed() -> None:
    report, findings = compare(observe(attend_by_hand), observe(attend))
    assert "by-hand" in report["differs"] and "sdpa-flash-cpu" in report["differs"]
    assert [(f.code, f.verdict) for f in findings] == [("attention-backends-differ", "pass")]
    assert findings[0].message == report["differs"], "what to do after a failure is the tool's next step"
    assert compare(observe(attend), observe(attend))[1] == []
    assert report["port"]["kernels"] == {"by-hand": 1} and report["port"]["sdpa_flags"]["math_sdp"] is True


def test_an_aligned_run_says_what_could_not_be_redirected() -> None:
    with one_backend({"align_backends": True}):
        math = observe(attend)
    assert compare(math, observe(attend_by_hand), aligned=True)[1] == []
    codes = [finding.code for finding in compare(observe(attend), math, aligned=True)[1]]
    assert codes == ["attention-backends-differ", "attention-not-aligned"]


def test_the_environment_is_set_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("FASTVIDEO_ATTENTION_BACKEND", raising=False)
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flash")
    align_environment({})
    assert "FASTVIDEO_ATTENTION_BACKEND" not in os.environ
    align_environment({"align_backends": True})
    assert os.environ["FASTVIDEO_ATTENTION_BACKEND"] == "TORCH_SDPA"
    assert os.environ["DIFFUSERS_ATTN_BACKEND"] == "native"
    monkeypatch.delenv("FASTVIDEO_ATTENTION_BACKEND")
