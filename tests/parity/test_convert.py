"""Conversions: rules that stream, scripts that are proven by value, and every planted mistake named."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastvideo_port.parity.convert_job import convert_weights
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.job import Job
from safetensors.torch import load_file, save_file

WIDTH = 16
Spec = dict[str, Any]


def source_tensors() -> dict[str, torch.Tensor]:
    """A monolithic checkpoint: two blocks with fused qkv, a VAE, and something that inference does not need."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng)

    tensors = {"vae.conv.weight": randn(8, 4, 3, 3), "vae.conv.bias": randn(8).to(torch.bfloat16)}
    for number in range(2):
        block = f"model.diffusion_model.blocks.{number}"
        tensors |= {
            f"{block}.qkv.weight": randn(3 * WIDTH, WIDTH).to(torch.bfloat16),
            f"{block}.qkv.bias": randn(3 * WIDTH).to(torch.bfloat16),
            f"{block}.proj.weight": randn(WIDTH, WIDTH),
            f"{block}.proj.bias": randn(WIDTH),
            f"{block}.norm.weight": randn(WIDTH) + 1,
        }
    return {**tensors, "ema.decay": torch.tensor(0.999), "ids": torch.arange(7)}


RULES: list[dict[str, Any]] = [
    {
        "match": r"model\.diffusion_model\.blocks\.(\d+)\.qkv\.(weight|bias)",
        "to": [rf"transformer/blocks.\1.attn.to_{part}.\2" for part in "qkv"],
    },
    {"match": r"model\.diffusion_model\.blocks\.(\d+)\.(proj|norm)\.(\w+)", "to": r"transformer/blocks.\1.\2.\3"},
    {"match": r"vae\.(.*)", "to": r"vae/\1"},
    {"match": r"ema\..*", "drop": "training only"},
    {"match": "ids", "to": "transformer/ids"},
]
COMPONENTS = {
    "transformer": {"library": "diffusers", "class": "T", "config": {"_class_name": "T"}},
    "vae": {"library": "diffusers", "class": "V", "config": {"_class_name": "V"}},
}


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    source = tmp_path / "source"
    source.mkdir()
    save_file(source_tensors(), source / "model.safetensors")
    return {
        "source": str(source),
        "target": str(tmp_path / "converted_weights" / "model"),
        "worktree": str(tmp_path),
        "official_repo": None,
        "rules": RULES,
        "components": COMPONENTS,
        "model_index": {"_class_name": "P"},
    }


def run(spec: Spec) -> dict[str, Any]:
    folder = Path(spec["worktree"]) / f"run{len(list(Path(spec['worktree']).glob('run*')))}"
    folder.mkdir()
    return convert_weights(spec, Job(folder))


def codes(value: dict[str, Any], *, fatal: bool = True) -> set[str]:
    return {row["code"] for row in value["findings"] if row["fatal"] is fatal}


def said(value: dict[str, Any]) -> str:
    return "\n".join(row["message"] for row in value["findings"])


def test_a_monolithic_checkpoint_becomes_a_diffusers_folder_bit_for_bit(spec: Spec) -> None:
    value = run(spec)
    assert value["verdict"] == "pass", said(value)
    assert value["arrived"] == (13, 13) and value["dropped"] == {"ema.decay": "training only"}
    target = Path(spec["target"])
    made = load_file(target / "transformer/diffusion_pytorch_model.safetensors")
    official = source_tensors()
    for number in range(2):
        fused = official[f"model.diffusion_model.blocks.{number}.qkv.weight"]
        for part, rows in zip("qkv", fused.chunk(3), strict=True):
            mine = made[f"blocks.{number}.attn.to_{part}.weight"]
            assert mine.dtype == torch.bfloat16
            assert torch.equal(mine.view(torch.int16), rows.contiguous().view(torch.int16))
    index = json.loads((target / "model_index.json").read_text())
    assert index == {"_class_name": "P", "transformer": ["diffusers", "T"], "vae": ["diffusers", "V"]}
    assert value["how"]["split"] == 12
    assert [path.name for path in target.parent.iterdir() if path.name != ".lock"] == ["model"]


def test_the_same_conversion_writes_the_same_bytes(spec: Spec) -> None:
    first, second = run(spec), run(spec)
    assert first["digest"] == second["digest"] and len(first["files"]) == 2


def test_there_and_back_again_is_the_original(spec: Spec, tmp_path: Path) -> None:
    """Split, rename, transpose, reshape and permute undone by the inverse rules give every tensor back."""
    rules = [
        {"match": r".*\.proj\.weight", "to": "transformer/x", "transpose": [0, 1]},
        *RULES,
    ]
    rules[0] = {
        "match": r"model\.diffusion_model\.blocks\.(\d+)\.proj\.weight",
        "to": r"transformer/blocks.\1.proj.weight",
        "transpose": [0, 1],
    }
    rules.insert(0, {
        "match": r"vae\.conv\.weight", "to": "vae/conv.weight",
        "ops": [{"permute": [1, 2, 3, 0]}, {"reshape": [4, -1]}],
    })  # fmt: skip
    assert run({**spec, "rules": rules})["verdict"] == "pass"
    block = r"model.diffusion_model.blocks.\1"
    back = [
        {"match": rf"transformer/blocks\.(\d+)\.attn\.to_{part}\.(\w+)", "to": rf"all/{block}.qkv.\2",
         "merge": {"index": index, "of": 3}}
        for index, part in enumerate("qkv")
    ] + [
        {"match": r"transformer/blocks\.(\d+)\.proj\.weight", "to": rf"all/{block}.proj.weight", "transpose": [0, 1]},
        {"match": r"transformer/blocks\.(\d+)\.(.*)", "to": rf"all/{block}.\2"},
        {"match": r"transformer/ids", "to": "all/ids"},
        {"match": r"vae/conv\.weight", "to": "all/vae.conv.weight",
         "ops": [{"reshape": [4, 3, 3, 8]}, {"permute": [3, 0, 1, 2]}]},
        {"match": r"vae/(.*)", "to": r"all/vae.\1"},
    ]  # fmt: skip
    again = {**spec, "source": spec["target"], "target": str(tmp_path / "again" / "m"), "rules": back,
             "components": {"all": {"class": "A", "config": {}}}}  # fmt: skip
    value = run(again)
    assert value["verdict"] == "pass", said(value)
    made = load_file(Path(again["target"]) / "all/diffusion_pytorch_model.safetensors")
    official = {name: value for name, value in source_tensors().items() if name != "ema.decay"}
    assert made.keys() == official.keys()
    for name, tensor in official.items():
        assert made[name].dtype == tensor.dtype and torch.equal(made[name], tensor), name


def test_interleaved_heads_are_split_and_merged_by_steps(spec: Spec, tmp_path: Path) -> None:
    fused = torch.arange(4 * 3 * 2 * 5.0).reshape(24, 5)
    save_file({"qkv.weight": fused}, tmp_path / "source" / "model.safetensors")
    rules = [{"match": r"qkv\.weight", "to": [f"transformer/{part}.weight" for part in "qkv"],
              "ops": [{"reshape": [4, 3, 2, 5]}, {"permute": [1, 0, 2, 3]}, {"reshape": [24, 5]}]}]  # fmt: skip
    components = {"transformer": COMPONENTS["transformer"]}
    value = run({**spec, "rules": rules, "components": components})
    assert value["verdict"] == "pass", said(value)
    made = load_file(Path(spec["target"]) / "transformer/diffusion_pytorch_model.safetensors")
    assert torch.equal(made["k.weight"], fused.reshape(4, 3, 2, 5)[:, 1].reshape(8, 5))
    back = [{"match": rf"transformer/{part}\.weight", "to": "transformer/qkv.weight", "reshape": [4, 1, 2, 5],
             "merge": {"index": index, "of": 3, "dim": 1}, "then": [{"reshape": [24, 5]}]}
            for index, part in enumerate("qkv")]  # fmt: skip
    again = {**spec, "source": spec["target"], "target": str(tmp_path / "again" / "m"), "rules": back,
             "components": components}  # fmt: skip
    assert run(again)["verdict"] == "pass"
    made = load_file(Path(again["target"]) / "transformer/diffusion_pytorch_model.safetensors")
    assert torch.equal(made["qkv.weight"], fused)


def test_a_declared_cast_is_proven_as_rounding_and_said(spec: Spec) -> None:
    rules = [{"match": r"vae\.(.*)", "to": r"vae/\1", "cast": "bfloat16"}, *RULES]
    rules[3] = {**rules[3], "optional": True}
    value = run({**spec, "rules": rules})
    assert value["verdict"] == "pass", said(value)
    assert value["how"]["rounded to bfloat16"] == 1 and "cast-loses-bits" in codes(value, fatal=False)


def test_shards_are_cut_by_size_with_an_index(spec: Spec) -> None:
    value = run({**spec, "shard_bytes": 2000})
    assert value["verdict"] == "pass", said(value)
    folder = Path(spec["target"]) / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0].endswith(f"-00001-of-{len(files):05d}.safetensors")
    assert all(key in load_file(folder / file) for key, file in index["weight_map"].items())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (
            lambda r: r[:1] + r[2:],
            "unused-key",
            "No rule takes 'model.diffusion_model.blocks.0.proj.weight' and 1 like",
        ),
        (
            lambda r: [*r, {"match": r"vae\.cnov\.(.*)", "to": r"vae/\1"}],
            "rule-never-matches",
            "nearest name is 'vae.conv.",
        ),
        (lambda r: [*r, {"match": r"qkv\.bias", "to": "a/b"}], "rule-never-matches", "only a part of"),
        (lambda r: [{"match": ".*", "to": "a/b", "optional": True}, *r], "collision", "14 source tensors"),
        (lambda r: [*r, {"match": r"vae\.conv\.bias", "to": "a/b"}], "rule-shadowed", "before it takes"),
        (
            lambda r: [{"match": r"vae\.conv\.(\w+)", "to": "vae/both", "merge": {"index": 0, "of": 2}}, *r],
            "collision",
            "one index",
        ),
        (
            lambda r: [{"match": r"vae\.conv\.bias", "to": "vae/b", "merge": {"index": 0, "of": 2}}, *r],
            "incomplete-merge",
            "lacks part [1] of 2",
        ),
        (
            lambda r: [{**r[0], "split": {"sizes": [16, 16, 8]}}, *r[1:]],
            "split-incomplete",
            "has 48 along dimension 0, and the split takes 16 + 16 + 8",
        ),
        (lambda r: [{"match": "ids", "to": "a/ids", "reshape": [2, 4]}, *r], "shape-impossible", "reshape [2, 4]"),
        (lambda r: [{"match": "ids", "to": "../ids"}, *r], "target-illegal", "'../ids'"),
        (lambda r: [{"match": "ids", "to": "ids"}, *r], "target-illegal", "not <component>/<tensor>"),
    ],
)
def test_a_mistake_in_the_rules_is_named_before_a_byte_is_written(
    spec: Spec, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], code: str, words: str
) -> None:
    value = run({**spec, "rules": change(RULES)})
    assert value["verdict"] == "fail" and code in codes(value), said(value)
    assert words in said(value)
    assert not Path(spec["target"]).exists() and not any(Path(spec["target"]).parent.glob(".conv*"))


@pytest.mark.parametrize(
    "rule",
    [
        {"match": "(", "to": "a/b"},
        {"match": "a", "to": r"a/\1"},
        {"match": "a"},
        {"match": "a", "to": "a/b", "drop": "x"},
        {"match": "a", "drop": "  "},
        {"match": "a", "too": "a/b"},
        {"match": "a", "to": "a/b", "transpose": [0, 1], "cast": "bf16"},
        {"match": "a", "to": "a/b", "cast": "int8"},
        {"match": "a", "to": "a/b", "permute": [0, 0]},
        {"match": "a", "to": "a/b", "reshape": [-1, -1]},
        {"match": "a", "to": "a/b", "merge": {"index": 3, "of": 3}},
        {"match": "a", "to": ["a/b", "a/c"], "split": {"sizes": [1]}},
        "rename",
    ],
)
def test_a_rule_of_another_form_is_refused(spec: Spec, rule: Any) -> None:
    with pytest.raises(ParityError) as caught:
        run({**spec, "rules": [rule]})
    assert caught.value.fix and "rule 1" in caught.value.seen


SCRIPT = """
import json, os, pathlib, torch
from safetensors.torch import load_file, save_file

source = load_file(pathlib.Path(os.environ["FASTVIDEO_PORT_SOURCE"]) / "model.safetensors")
out = pathlib.Path(os.environ["FASTVIDEO_PORT_OUTPUT"])
transformer, vae = {}, {}
for name, tensor in source.items():
    if name.startswith("vae."):
        vae[name[4:]] = tensor
    elif name.startswith("model."):
        name = name.removeprefix("model.diffusion_model.")
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3)):
                transformer[name.replace("qkv", "attn.to_" + part)] = rows.contiguous()
        else:
            transformer[name] = tensor
    elif name == "ids":
        transformer["ids"] = tensor
# EDIT
for component, tensors in (("transformer", transformer), ("vae", vae)):
    (out / component).mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / component / "diffusion_pytorch_model.safetensors")
    (out / component / "config.json").write_text("{}")
(out / "model_index.json").write_text(json.dumps({
    "_class_name": "P", "transformer": ["diffusers", "T"], "vae": ["diffusers", "V"]}))
"""


def scripted(spec: Spec, edit: str = "", after: str = "", **more: Any) -> dict[str, Any]:
    """Run the job on a script that puts in place what SCRIPT made here, so that not every test imports torch anew."""
    made = Path(spec["worktree"]) / f"made{len(list(Path(spec['worktree']).glob('made*')))}"
    made.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVIDEO_PORT_SOURCE", spec["source"])
        patch.setenv("FASTVIDEO_PORT_OUTPUT", str(made))
        exec(SCRIPT.replace("# EDIT", textwrap.dedent(edit)), {})
    path = Path(spec["worktree"]) / "convert.py"
    start = "import os, pathlib, shutil\nout = pathlib.Path(os.environ['FASTVIDEO_PORT_OUTPUT'])\n"
    path.write_text(f"{start}shutil.copytree({str(made)!r}, out, dirs_exist_ok=True)\n{textwrap.dedent(after)}\n")
    return run({**spec, "rules": [{"match": r"ema\..*", "drop": "training only"}], "script": str(path), **more})


def test_a_sound_script_is_proven_by_values_alone(spec: Spec) -> None:
    """The script itself, in a process of its own."""
    path = Path(spec["worktree"]) / "convert.py"
    path.write_text(SCRIPT)
    value = run({**spec, "rules": RULES[3:4], "script": str(path)})
    assert value["verdict"] == "pass", said(value)
    assert value["arrived"] == (13, 13) and value["lost"] == value["doubled"] == value["invented"] == []
    assert Path(value["path"]) == Path(spec["target"]) and (Path(spec["target"]) / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("edit", "code", "names"),
    [
        ('del transformer["blocks.1.proj.bias"]', "lost", ["blocks.1.proj.bias"]),
        ('transformer["copy.weight"] = transformer["blocks.0.proj.weight"].clone()', "doubled", ["copy.weight"]),
        ('transformer["again"] = transformer["blocks.0.attn.to_k.weight"].clone()', "doubled", ["again"]),
        ('transformer["twice"] = transformer["blocks.0.norm.weight"].flip(0)', "invented", ["twice"]),
        ('transformer["zeros"] = torch.zeros(16, 16)', "invented", ["zeros", "0 everywhere"]),
        ('del transformer["blocks.0.attn.to_v.weight"]', "partly-lost", ["Rows 32:48", "blocks.0.qkv.weight"]),
        (
            'transformer["blocks.0.attn.to_v.weight"] = transformer["blocks.0.attn.to_k.weight"].clone()',
            "partly-lost",
            ["32:48", "blocks.0.qkv.weight"],
        ),
        (
            'transformer["blocks.1.proj.weight"] = transformer["blocks.1.proj.weight"].t()',
            "transposed",
            ["blocks.1.proj.weight", "did not have to change"],
        ),
        (
            'transformer["blocks.1.proj.weight"] = transformer["blocks.1.proj.weight"].bfloat16()',
            "cast-loses-bits",
            ["blocks.1.proj.weight", "rounded to bfloat16"],
        ),
        (
            'transformer["blocks.1.proj.weight"] = transformer["blocks.1.proj.weight"].half().float()',
            "cast-loses-bits",
            ["rounded to float16"],
        ),
        ('vae["conv.weight"] = vae["conv.weight"] * 2', "values-differ", ["vae/conv.weight", "about 2 times"]),
        (
            'transformer["blocks.0.norm.weight"] = transformer["blocks.0.norm.weight"] - 1',
            "values-differ",
            ["blocks.0.norm.weight", "about -1"],
        ),
        (
            'transformer["blocks.0.proj.weight"] = transformer["blocks.0.proj.weight"].roll(8, 0)',
            "rows-swapped",
            ["blocks.0.proj.weight", "halves swapped"],
        ),
        (
            'w = transformer["blocks.0.proj.weight"]; transformer["blocks.0.proj.weight"] = w[:, torch.randperm(16)]',
            "permuted",
            ["blocks.0.proj.weight"],
        ),
    ],
)
def test_a_planted_mistake_of_a_script_is_named_and_nothing_is_placed(
    spec: Spec, edit: str, code: str, names: list[str]
) -> None:
    value = scripted(spec, edit)
    assert value["verdict"] == "fail" and code in codes(value), said(value)
    message = "\n".join(row["message"] for row in value["findings"] if row["code"] == code)
    for name in names:
        assert name in message, message
    assert not Path(spec["target"]).exists() and Path(value["path"]).name == ".rejected"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            "a = 'blocks.0.attn.to_q.weight'; b = 'blocks.0.attn.to_k.weight'\n"
            "transformer[a], transformer[b] = transformer[b], transformer[a]",
            "order k, q, v",
        ),
        (
            "a = 'blocks.0.proj.weight'; b = 'blocks.1.proj.weight'\n"
            "transformer[a], transformer[b] = transformer[b], transformer[a]",
            "its likes in their own block",
        ),
    ],
)
def test_whole_values_under_crossed_names_are_a_suspicion(spec: Spec, edit: str, words: str) -> None:
    """No value is lost, so it is placed; names alone cannot prove that it is wrong."""
    value = scripted(spec, edit)
    assert value["verdict"] == "investigate" and words in said(value), said(value)


@pytest.mark.parametrize(
    ("after", "code"),
    [
        ("(out / 'model_index.json').unlink()", "no-model-index"),
        ("(out / 'model_index.json').write_text('[]')", "no-model-index"),
        ("(out / 'vae' / 'config.json').unlink()", "no-config"),
        ("(out / 'stray.safetensors').write_bytes((out / 'vae/diffusion_pytorch_model.safetensors').read_bytes())",
         "outside-component"),
        ("(out / 'x').symlink_to('/etc/passwd')", "output-link"),
        ("(out / 'x.pt').write_bytes(b'')", "output-unsafe"),
        ("os.mkfifo(out / 'fifo')", "output-special"),
        ("p = pathlib.Path(os.environ['FASTVIDEO_PORT_SOURCE']) / 'model.safetensors'; os.utime(p, (1, 1))",
         "source-changed"),
        ("(out / 'vae').rename(out / 'vea')", "component-absent"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_diffusers_layout_is_refused(spec: Spec, after: str, code: str) -> None:
    value = scripted(spec, after=after)
    assert value["verdict"] == "fail" and code in codes(value), said(value)
    assert not Path(spec["target"]).exists()


def test_a_rejected_conversion_leaves_the_earlier_one_in_place(spec: Spec) -> None:
    first = run(spec)
    assert scripted(spec, 'del vae["conv.bias"]')["verdict"] == "fail"
    assert Path(spec["target"]).is_dir() and first["stamp"]
    from fastvideo_port.parity.convert_layout import stamp
    from fastvideo_port.port.converted import stamp_of

    assert stamp(Path(spec["target"])) == stamp_of(Path(spec["target"])) == first["stamp"]


def test_a_declared_rounding_of_a_script_is_no_mistake(spec: Spec) -> None:
    edit = 'transformer["blocks.1.proj.weight"] = transformer["blocks.1.proj.weight"].bfloat16()'
    value = scripted(spec, edit, cast="bfloat16")
    assert value["verdict"] == "pass", said(value)


def test_a_script_that_fails_says_its_last_words(spec: Spec) -> None:
    with pytest.raises(ParityError, match="ended with status 1") as caught:
        scripted(spec, after="raise KeyError('no such thing')")
    assert "no such thing" in caught.value.seen and "FASTVIDEO_PORT_OUTPUT" in caught.value.fix
    assert not any(Path(spec["target"]).parent.glob(".conv*"))


def test_arguments_are_handed_on_with_their_places_filled_in(spec: Spec) -> None:
    after = "import sys; assert sys.argv[1:] == [os.environ['FASTVIDEO_PORT_SOURCE'], str(out), '--x=1'], sys.argv"
    assert scripted(spec, after=after, args=["{source}", "{output}", "--x=1"])["verdict"] == "pass"


def test_a_source_without_safetensors_is_refused(spec: Spec) -> None:
    (Path(spec["source"]) / "model.safetensors").rename(Path(spec["source"]) / "model.pt")
    with pytest.raises(ParityError, match="no safetensors"):
        run(spec)


def test_one_conversion_at_a_time(spec: Spec) -> None:
    import fcntl

    folder = Path(spec["target"]).parent
    folder.mkdir()
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ParityError, match="Another conversion"):
            run(spec)


def test_a_replacement_that_was_killed_between_its_renames_is_undone(spec: Spec) -> None:
    run(spec)
    target = Path(spec["target"])
    target.rename(target.with_name(f".old-{target.name}"))
    with pytest.raises(ParityError):
        scripted(spec, after="raise SystemExit(3)")
    assert (target / "model_index.json").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_dtype_survives(spec: Spec, tmp_path: Path) -> None:
    tensors = {
        name: torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
        for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32",
                     "int16", "int8", "uint8", "bool")
    }  # fmt: skip
    tensors["empty"], tensors["scalar"] = torch.zeros(0, 3), torch.tensor(2.5)
    tensors["nan"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    value = run({**spec, "rules": [{"match": "(.*)", "to": r"vae/\1"}], "components": {"vae": COMPONENTS["vae"]}})
    assert value["verdict"] == "pass", said(value)
    made = load_file(Path(spec["target"]) / "vae/diffusion_pytorch_model.safetensors")
    for name, tensor in tensors.items():
        assert made[name].dtype == tensor.dtype and made[name].shape == tensor.shape
        assert tensor.numel() == 0 or bytes(made[name].reshape(-1).view(torch.uint8)) == bytes(
            tensor.reshape(-1).view(torch.uint8)
        )
    assert os.environ is not None
