"""Ways to satisfy the comparison without porting anything, or to make it compare nothing: each has a name, none passes.

Every cheat is a few lines appended to a correct adapter, or an edit of the correct port, run by the real job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity.errors import ParityError

from . import lab

pytestmark = pytest.mark.usefixtures("warm_sides")


@dataclass(frozen=True)
class Cheat:
    """One cheat.

    Attributes:
        code: Finding that names it, or part of the error's first sentence.
        adapter: Appended to the adapter.
        port: Edits of the port.
        verdicts: What the verdict may be.
        settings: Of the run.
    """

    code: str
    adapter: str = ""
    port: tuple[tuple[str, str], ...] = ()
    verdicts: tuple[str, ...] = ("fail",)
    settings: dict[str, Any] = field(default_factory=dict)


def output(side: str, expression: str) -> str:
    """``call_<side>`` returns ``expression`` of what it returned, ``out``."""
    return f"""
def call_{side}(model, inputs, ctx, honest=call_{side}):
    out = honest(model, inputs, ctx)
    return {expression}
"""


def both(expression: str) -> str:
    return output("official", expression) + output("port", expression)


def call(side: str, *lines: str) -> str:
    """``call_<side>`` begins with ``lines``."""
    body = "\n    ".join(lines)
    return f"""
def call_{side}(model, inputs, ctx, honest=call_{side}):
    {body}
    return honest(model, inputs, ctx)
"""


def load(side: str, *lines: str) -> str:
    """``load_<side>`` changes its ``model`` by ``lines``."""
    body = "\n    ".join(lines)
    return f"""
def load_{side}(ctx, honest=load_{side}):
    import sys
    model = honest(ctx)
    sys.path.insert(0, str(ctx.official_repo))
    {body}
    return model
"""


FIND = """
def run_folder():
    import sys
    frame = sys._getframe()
    while "runner" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["runner"].out.parent

def wait_for(path):
    import time
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    return path
"""

INCONCLUSIVE = ("inconclusive", "fail")
NOT_A_PASS = ("investigate", "inconclusive", "fail")
LARGER = ("return self.proj_out(self.norm_out(h))", "return self.proj_out(self.norm_out(h)) * 1.3")
"""A mistake of the port that an adapter hides."""

CHEATS = {
    # Nothing to compare
    "empty dicts": Cheat("nothing-compared", both("{}"), verdicts=INCONCLUSIVE),
    "empty tensors": Cheat("nothing-compared", both("out[:0]"), verdicts=INCONCLUSIVE),
    "no case": Cheat("CASES", "CASES = {}", settings={"cases": None}),
    "cases without end": Cheat(
        "more entries than", "CASES = {str(i): {} for i in range(100_000)}", settings={"cases": None}
    ),
    "an output left out": Cheat(
        "missing-output", output("official", '{"a": out, "b": 2 * out}') + output("port", '{"a": out}')
    ),
    "an output too many": Cheat(
        "extra-output", output("official", '{"a": out, "b": out}') + output("port", '{"a": out, "b": out, "c": out}')
    ),
    "a shorter list": Cheat("missing-output", output("official", "[out, out, out]") + output("port", "[out, out]")),
    # Outputs that say nothing
    "constant on both sides": Cheat("constant-output", both("out * 0 + 3"), verdicts=INCONCLUSIVE),
    "zero on both sides": Cheat("constant-output", both("torch.zeros_like(out)"), verdicts=INCONCLUSIVE),
    "NaN on both sides": Cheat("non-finite-reference", both('out * float("nan")'), verdicts=INCONCLUSIVE),
    "NaN in the port": Cheat("non-finite-port", output("port", 'out.index_fill(2, torch.tensor([0]), float("nan"))')),
    "only the shape": Cheat("output-not-from-model", both("torch.tensor(out.shape)")),
    "a summary": Cheat("output-reduced", both("out.std()[None]"), verdicts=NOT_A_PASS),
    "a part that the mistake does not reach": Cheat(
        "partial-output",
        both("out[..., :2]"),
        (
            (
                "        return self.proj_out(self.norm_out(h))",
                "        h = self.proj_out(self.norm_out(h))\n        return torch.cat([h[..., :2], -h[..., 2:]], -1)",
            ),
        ),
        verdicts=NOT_A_PASS,
    ),
    "a part of the model in place of it": Cheat(
        "weights-idle",
        """
def call_official(model, inputs, ctx): return model.embed(inputs["x"].to(ctx.dtype))
def call_port(model, inputs, ctx): return model.patch(inputs["x"].to(ctx.dtype))
""",
        (LARGER,),
        verdicts=NOT_A_PASS,
    ),
    "a factor that the port lacks": Cheat(
        "output-altered",
        output("port", "out / 1.3"),
        (LARGER,),
        verdicts=NOT_A_PASS,
    ),
    "outputs of one length": Cheat(
        "output-altered",
        both("out / out.std()"),
        (LARGER,),
        verdicts=NOT_A_PASS,
    ),
    "sorted outputs": Cheat(
        "output-sorted",
        both("out.flatten().sort().values"),
        (("return self.proj_out(self.norm_out(h))", "return self.proj_out(self.norm_out(h)).flip(1)"),),
        verdicts=NOT_A_PASS,
    ),
    "errors become zeros": Cheat(
        "exception-swallowed",
        """
def call_port(model, inputs, ctx):
    try:
        return model(inputs["x"], inputs["t"], inputs["mask"])
    except Exception:
        return torch.zeros_like(inputs["x"])
""",
        (("h = self.up(x)", 'raise RuntimeError("not written yet")'),),
    ),
    "zeros from the port": Cheat("constant-port-output", output("port", "torch.zeros_like(out)")),
    "the port returns its input": Cheat("output-not-from-model", output("port", 'inputs["x"]')),
    # Inputs and weights that do not matter
    "the port ignores an input": Cheat(
        "port-ignores-input", call("port", 'inputs = {**inputs, "t": torch.ones_like(inputs["t"])}')
    ),
    "the port ignores a weight": Cheat(
        "port-ignores-weight", port=(("h = self.pre_mlp(x)", "h = F.layer_norm(x, x.shape[-1:], eps=1e-6)"),)
    ),
    "inputs made without the seed": Cheat(
        "seed-ignored",
        """
def make_inputs(ctx, honest=make_inputs):
    return honest(ctx.on(seed=0))
""",
        verdicts=NOT_A_PASS,
        settings={"seeds": [0, 1]},
    ),
    "one case under two names": Cheat(
        "cases-alike",
        'CASES = {"small": {"tokens": 6}, "odd": {"tokens": 6}}',
        verdicts=NOT_A_PASS,
        settings={"cases": None},
    ),
    "one case under two names, with labels that nothing reads": Cheat(
        "cases-alike",
        'CASES = {"small": {"tokens": 6, "prompt": "a"}, "odd": {"tokens": 6, "prompt": "b"}}',
        verdicts=NOT_A_PASS,
        settings={"cases": None},
    ),
    "a mask that neither side is handed": Cheat(
        "input-unused",
        call("official", 'inputs = {**inputs, "mask": torch.ones_like(inputs["mask"])}')
        + call("port", 'inputs = {**inputs, "mask": torch.ones_like(inputs["mask"])}'),
        (("attn_mask=mask[:, None, None, :]", "attn_mask=None"),),
        # Some inputs matter in other cases only, so it is named and not refused.
        verdicts=("pass",),
    ),
    "the calls make their own inputs": Cheat(
        "inputs-unused",
        call("official", "torch.manual_seed(3)", "inputs = own(inputs)")
        + call("port", "torch.manual_seed(3)", "inputs = own(inputs)")
        + """
def own(inputs):
    shape = inputs["x"].shape
    return {"x": torch.randn(shape), "t": torch.rand(2), "mask": torch.ones(shape[:2], dtype=torch.bool)}
""",
        verdicts=INCONCLUSIVE,
    ),
    # The official model on the port's side, or the other way round
    "the official class as the port": Cheat("official-code-in-port", load("port", "model = load_official(ctx)")),
    "the official class inside the port": Cheat("official-code-in-port", load("port", "model.helper = weights()")),
    "an official layer under another name": Cheat(
        "official-code-in-port",
        "import sys\nsys.path.append(__file__.split('worktree')[0] + 'official repo')\n",
        (
            (
                "class FeedForward(nn.Module):",
                "from toyofficial.model import Attention as Own\n\n\nclass FeedForward(nn.Module):",
            ),
            (
                "        self.down = nn.Linear(2 * width, width)",
                "        self.down = nn.Linear(2 * width, width)\n        self.spare = Own(width, 4)",
            ),
        ),
    ),
    "the official file loaded by its path": Cheat(
        "official-code-in-port",
        load(
            "port",
            "import importlib.util",
            'path = ctx.official_repo / "toyofficial" / "model.py"',
            'spec = importlib.util.spec_from_file_location("mine", path)',
            "mine = importlib.util.module_from_spec(spec)",
            "spec.loader.exec_module(mine)",
            "official, model = weights(), mine.Model(layers=1)",
            "model.load_state_dict(official.state_dict())",
        ),
    ),
    "call_port calls the official model": Cheat(
        "official-code-in-port",
        """
def call_port(model, inputs, ctx):
    import sys
    model(inputs["x"], inputs["t"], inputs["mask"])
    sys.path.insert(0, str(ctx.official_repo))
    return call_official(load_official(ctx), inputs, ctx)
""",
    ),
    "the official model hidden from the module tree": Cheat(
        "official-code-in-port",
        load("port", "model.hidden = [weights()]") + output("port", "call_official(model.hidden[0], inputs, ctx)"),
    ),
    "the port as the official model": Cheat("same-code-on-both-sides", "load_official = load_port"),
    "a port written in the adapter": Cheat(
        "port-not-from-worktree",
        """
class Mine(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return self.inner(*inputs)

def load_port(ctx):
    import sys
    sys.path.insert(0, str(ctx.official_repo))
    return Mine(load_official(ctx))
""",
    ),
    "the model is not called": Cheat(
        "port-model-not-called", "def call_port(model, inputs, ctx): return inputs['x'] * 2"
    ),
    # Outputs from elsewhere
    "the official output read from the disk": Cheat(
        "output-not-from-model",
        FIND
        + output(
            "port",
            'load_file(wait_for(run_folder() / "official" / "0-0.float32.safetensors"))["output"]',
        )
        + "\nfrom safetensors.torch import load_file\n",
    ),
    "the official output overwritten": Cheat(
        "files-changed",
        FIND
        + """
from safetensors.torch import save_file
"""
        + output(
            "port",
            'save_file({"output": out.double()}, wait_for(run_folder() / "official/0-0.reference.safetensors")) or out',
        ),
    ),
    "the official trace removed": Cheat(
        "are gone",
        FIND + load("port", 'wait_for(run_folder() / "official" / "0-0.float32.npy").unlink()'),
    ),
    "an output without numbers": Cheat("cannot be compared", both('out.to("meta")')),
    "the inputs replaced": Cheat(
        "inputs-replaced",
        # In one step, so that whoever reads it meanwhile finds the old inputs or the new, never half a file.
        FIND
        + output("port", "put_in_place(inputs) or out")
        + call("port", 'inputs["x"] = inputs["x"] * 0 + 1')
        + """
def put_in_place(inputs):
    path = run_folder() / "shared" / "inputs.0-0.pt"
    torch.save(inputs, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
""",
        verdicts=NOT_A_PASS,
    ),
    "the official result forged": Cheat(
        "not written by that process",
        FIND
        + load(
            "port",
            "import json, sys, time",
            "sys.setswitchinterval(1e-4)",
            "folder = run_folder().parent / run_folder().name / 'official.process'",
            "wait_for(folder / 'result.json')",
            "result = json.loads((folder / 'result.json').read_text())",
            "result['value']['weights_used'] = None",
            "(folder / 'result.json').write_text(json.dumps(result))",
        ),
    ),
    # Models that are not themselves
    "a hook on the official model": Cheat(
        "adapter-changes-model",
        load("official", "model.norm.register_forward_hook(lambda part, given, out: out.round(decimals=2))"),
        verdicts=NOT_A_PASS,
    ),
    "a forward replaced by the adapter": Cheat(
        "adapter-changes-model",
        load("port", "honest = model.forward", "model.forward = lambda *given: honest(*given)"),
        verdicts=NOT_A_PASS,
    ),
    "an epsilon of the official model changed": Cheat(
        "adapter-changes-model",
        load("official", "for block in model.blocks: block.norm2.eps = 1e-3"),
        (("self.pre_mlp = nn.LayerNorm(width, eps=1e-6)", "self.pre_mlp = nn.LayerNorm(width, eps=1e-3)"),),
        verdicts=NOT_A_PASS,
    ),
    "an activation of the official code replaced": Cheat(
        "adapter-patches-code",
        load("official", "import toyofficial.model as code", "code.F = Other")
        + """
class Other:
    silu = staticmethod(torch.nn.functional.silu)
    scaled_dot_product_attention = staticmethod(torch.nn.functional.scaled_dot_product_attention)

    @staticmethod
    def gelu(x, approximate):
        return torch.nn.functional.gelu(x)
""",
        (('F.gelu(h, approximate="tanh")', "F.gelu(h)"),),
        # A stand-in for a kernel that is not installed looks the same: it is named, a person has to read it.
        verdicts=("pass",),
    ),
    "a reference of bfloat16": Cheat(
        "reference-imprecise",
        """
def call_official(model, inputs, ctx):
    if ctx.dtype is torch.float32:
        return call_port(model, {**inputs, "x": inputs["x"].bfloat16().float() * 1.01}, ctx)
    return call_port(model, inputs, ctx)
""",
        verdicts=INCONCLUSIVE,
    ),
    "a port in bfloat16": Cheat("output-dtype", output("port", "out.bfloat16()")),
    "a port that stays in float32": Cheat(
        "port-ignores-dtype",
        load("port", "model = model.float()"),
        (("h = self.patch(x)", "h = self.patch(x.float())"), ("dim=-1).to(x.dtype)", "dim=-1).float()")),
        verdicts=NOT_A_PASS,
        settings={"dtypes": ["float32", "bfloat16"]},
    ),
    "dropout left on": Cheat("port-draws-random", port=(("y = self.mlp(h)", "y = F.dropout(self.mlp(h), 1e-9)"),)),
    # Side effects
    "inputs changed in place": Cheat(
        "port-changes-inputs",
        port=(("h = self.patch(x)", "h = self.patch(x)\n        x.mul_(2)"),),
        verdicts=NOT_A_PASS,
    ),
    "global precision lowered": Cheat(
        "port-changes-flags", call("port", 'torch.set_float32_matmul_precision("medium")'), verdicts=NOT_A_PASS
    ),
    "default dtype changed by the official side": Cheat(
        "official-changes-flags", call("official", "torch.set_default_dtype(torch.float64)"), verdicts=NOT_A_PASS
    ),
    "exit in the adapter": Cheat("SystemExit", call("port", "raise SystemExit(0)")),
    "the process ended": Cheat("ended without a result", call("port", "import os", "os._exit(0)")),
    # The engine itself
    "the self-test made easy": Cheat(
        "engine-changed", 'import sys\nsys.modules["_fastvideo_port_parity.perturbation"].PERTURBATION = 1e3\n'
    ),
    "what saves the outputs replaced": Cheat(
        "engine-changed",
        "import sys\nrunner = sys.modules['_fastvideo_port_parity.runner']\nkept = runner.save_file\n"
        "runner.save_file = lambda tensors, path: kept(tensors, path)\n",
    ),
    "a method of the engine replaced": Cheat(
        "engine-changed",
        "import sys\nrunner = sys.modules['_fastvideo_port_parity.runner'].Runner\nkept = runner.keep\n"
        "runner.keep = lambda *given: kept(*given)\n",
    ),
    "torch.Tensor.norm replaced": Cheat(
        "engine-changed",
        "norm = torch.Tensor.norm\ntorch.Tensor.norm = lambda *a, **k: norm(*a, **k)\n",
        verdicts=NOT_A_PASS,
    ),
    "the clock replaced": Cheat("engine-changed", "import time\ntime.monotonic = lambda: 0.0\n", verdicts=NOT_A_PASS),
}


def _compare(root: Path, cheat: Cheat) -> Any:
    port = lab.edited(lab.PORT, *cheat.port)
    settings = {"cases": ["small"], **cheat.settings}
    adapter = lab.ADAPTER.replace("Model()", "Model(layers=1)").replace("ToyTransformer()", "ToyTransformer(layers=1)")
    return lab.Lab(root, port=port, adapter=adapter + cheat.adapter, **settings).run()


def test_without_a_cheat_it_passes(tmp_path: Path) -> None:
    result = _compare(tmp_path, Cheat(""))
    assert result.verdict == "pass" and not result.codes, result.explain()


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_named_and_does_not_pass(name: str, tmp_path: Path) -> None:
    cheat = CHEATS[name]
    try:
        result = _compare(tmp_path, cheat)
    except ParityError as error:
        assert cheat.code in error.what, str(error)
        return
    assert cheat.code in result.codes, result.explain()
    assert result.verdict in cheat.verdicts, result.explain()


def test_a_sign_that_the_adapter_turns_and_elements_that_it_masks_are_not_held_against_the_port(tmp_path: Path) -> None:
    end = "return self.proj_out(self.norm_out(h))"
    turned = _compare(tmp_path / "turned", Cheat("", output("port", "-out"), ((end, end.replace("self", "-self", 1)),)))
    assert turned.verdict == "pass" and "output-altered" not in turned.codes, turned.explain()
    masked = output("official", 'out * inputs["mask"][..., None]') + output("port", 'out * inputs["mask"][..., None]')
    padding = ((end, "h = self.proj_out(self.norm_out(h))\n        return h.where(mask[..., None], 9 * h)"),)
    result = _compare(tmp_path / "masked", Cheat("", masked, padding, settings={"cases": ["odd"]}))
    assert result.verdict == "pass" and "output-altered" not in result.codes, result.explain()


def test_a_weight_behind_no_grad_or_a_detach_is_no_ignored_weight(tmp_path: Path) -> None:
    """Project: a correct port was accused, because such weights have no gradient."""
    line = "        temb = self.condition(torch.cat([angle.cos(), angle.sin()], dim=-1).to(x.dtype))"
    port = ((line, line + ".detach()"),)
    result = _compare(tmp_path, Cheat("", port=port))
    assert result.verdict == "pass" and not result.codes, result.explain()
