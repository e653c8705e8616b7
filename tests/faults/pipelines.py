"""One-line mistakes in FastVideo's Wan pipeline, the stage that each one's report has to name, and correct rewrites.

    python tests/faults/pipelines.py FASTVIDEO_FOLDER --python PYTHON [--only NAME ...]

Runs in any interpreter with torch: prints for every edit the verdict and the guilty stages. Ends with exit status 1
when a mistake passes or another stage than its own is named, a rewrite is accused, or the untouched pipeline does not
pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PATCHES = ["cpu-attention", "cpu-device", "cpu-autocast", "denoising-dtype"]
WARM = (
    "torch",
    "safetensors.torch",
    "torch._dynamo",
    "diffusers.pipelines.wan.pipeline_wan",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.schedulers.scheduling_unipc_multistep",
    "transformers.models.umt5.modeling_umt5",
    "transformers.models.t5.tokenization_t5",
)
WARM_PORT = (
    "fastvideo.pipelines.basic.wan.wan_pipeline",
    "fastvideo.models.vaes.wanvae",
    "fastvideo.models.encoders.t5",
)
"""What is imported before the sides are forked."""

_STAGES = "fastvideo/pipelines/stages"
_BASE = "fastvideo/configs/pipelines/base.py"
CLEANING = (
    "def preprocess_text(prompt: str) -> str:\n    return prompt\n",
    "def preprocess_text(prompt: str) -> str:\n    import html\n    import re\n\n    import ftfy\n\n"
    "    prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))\n"
    '    return re.sub(r"\\s+", " ", prompt).strip()\n',
)
"""FastVideo 0.2.1 does not clean prompts and diffusers does: the suite's copy does, so that not to is a mistake."""


@dataclass(frozen=True)
class PipelineEdit:
    """One line of FastVideo, changed.

    Attributes:
        file: Path below the worktree.
        old, new: Text that is there exactly once, and what takes its place.
        guilty: Name of the stage, or part of one, that has to be named, and no other stage; "" for a correct rewrite.
    """

    file: str
    old: str
    new: str
    guilty: str = ""


FAULTS = {
    "guidance-scale-minus-one": PipelineEdit(
        f"{_STAGES}/denoising.py",
        "current_guidance_scale = batch.guidance_scale\n",
        "current_guidance_scale = batch.guidance_scale - 1.0\n",
        "denoising.model",
    ),
    "prompts-padded-and-their-mask-lost": PipelineEdit(
        f"{_STAGES}/text_encoding.py",
        "text_inputs = tok(processed_texts, **tok_kwargs).to(input_device)\n\n"
        '            input_ids = text_inputs["input_ids"]\n'
        '            attention_mask = text_inputs["attention_mask"]\n',
        'text_inputs = tok(processed_texts, padding="max_length", **tok_kwargs).to(input_device)\n\n'
        '            input_ids = text_inputs["input_ids"]\n            attention_mask = torch.ones_like(input_ids)\n',
        "text",
    ),
    "prompts-padded-on-the-left": PipelineEdit(
        f"{_STAGES}/text_encoding.py",
        "text_inputs = tok(processed_texts, **tok_kwargs).to(input_device)\n\n            input_ids",
        'tok.padding_side = "left"\n            text_inputs = tok(processed_texts, padding="max_length", **tok_kwargs)'
        ".to(input_device)\n\n            input_ids",
        "text",
    ),
    "embeds-not-zeroed-beyond-the-length": PipelineEdit(
        "fastvideo/configs/pipelines/wan.py",
        "torch.cat([u, u.new_zeros(512 - u.size(0), u.size(1))])",
        "torch.cat([u, u[-1:].expand(512 - u.size(0), u.size(1))])",
        "text",
    ),
    "embeds-of-half-the-length": PipelineEdit(
        "fastvideo/configs/pipelines/wan.py",
        "torch.cat([u, u.new_zeros(512 - u.size(0), u.size(1))])",
        "torch.cat([u, u.new_zeros(512 - u.size(0), u.size(1))])[:256]",
        "text",
    ),
    "prompt-not-cleaned": PipelineEdit(
        _BASE,
        "    prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))\n",
        "",
        "text",
    ),
    "negative-prompt-dropped": PipelineEdit(
        f"{_STAGES}/text_encoding.py",
        "                batch.negative_prompt,\n                fastvideo_args,",
        '                "",\n                fastvideo_args,',
        "text.negative",
    ),
    "negative-prompt-is-the-prompt": PipelineEdit(
        f"{_STAGES}/text_encoding.py",
        "            for ne in neg_embeds_list:\n",
        "            for ne in prompt_embeds_list:\n",
        "text.negative",
    ),
    "prompts-truncated-at-226": PipelineEdit(
        "fastvideo/configs/models/encoders/t5.py",
        '"max_length": self.text_len,',
        '"max_length": 226,',
        "text",
    ),
    "end-token-lost": PipelineEdit(
        "fastvideo/configs/models/encoders/t5.py",
        '"add_special_tokens": True,',
        '"add_special_tokens": False,',
        "text",
    ),
    "guidance-from-the-conditional": PipelineEdit(
        f"{_STAGES}/denoising.py",
        "noise_pred = noise_pred_uncond + current_guidance_scale * (noise_pred_text -\n",
        "noise_pred = noise_pred_text + current_guidance_scale * (noise_pred_text -\n",
        "denoising.model",
    ),
    "latents-of-another-height": PipelineEdit(
        f"{_STAGES}/latent_preparation.py",
        "                num_frames,\n                height // fastvideo_args.pipeline_config.vae_config.arch_config"
        ".spatial_compression_ratio,\n",
        "                num_frames,\n"
        "                2 * (height // fastvideo_args.pipeline_config.vae_config.arch_config"
        ".spatial_compression_ratio),\n",
        "latents",
    ),
    "one-step-too-few": PipelineEdit(
        f"{_STAGES}/timestep_preparation.py",
        "            scheduler.set_timesteps(num_inference_steps, device=device, **extra_set_timesteps_kwargs)\n",
        "            scheduler.set_timesteps(num_inference_steps - 1, device=device, **extra_set_timesteps_kwargs)\n",
        "timesteps",
    ),
    "shift-doubled": PipelineEdit(
        "fastvideo/pipelines/basic/wan/wan_pipeline.py",
        "(shift=fastvideo_args.pipeline_config.flow_shift)",
        "(shift=2 * fastvideo_args.pipeline_config.flow_shift)",
        "timesteps",
    ),
    "timesteps-in-bfloat16": PipelineEdit(
        "fastvideo/models/schedulers/scheduling_flow_unipc_multistep.py",
        "self.timesteps = torch.from_numpy(timesteps).to(device=device, dtype=torch.int64)",
        "self.timesteps = torch.from_numpy(timesteps).to(device=device, dtype=torch.bfloat16)",
        "timesteps",
    ),
    "latents-not-scaled-before-decode": PipelineEdit(
        f"{_STAGES}/decoding.py",
        "return latents * latents_std + latents_mean",
        "return latents / latents_std + latents_mean",
        "decode",
    ),
    "mean-and-std-swapped": PipelineEdit(
        f"{_STAGES}/decoding.py",
        "return latents * latents_std + latents_mean",
        "return latents * latents_mean + latents_std",
        "decode",
    ),
    "prompts-exchanged": PipelineEdit(
        f"{_STAGES}/denoising.py",
        "            prompt_embeds = batch.prompt_embeds\n",
        "            prompt_embeds, batch.negative_prompt_embeds = batch.negative_prompt_embeds, batch.prompt_embeds\n",
        "denoising.model",
    ),
    "noise-from-another-generator": PipelineEdit(
        f"{_STAGES}/input_validation.py",
        'torch.Generator("cpu").manual_seed(seed) for',
        'torch.Generator("cpu").manual_seed(seed + 1) for',
        "latents",
    ),
    "first-order-solver": PipelineEdit(
        "fastvideo/models/schedulers/scheduling_flow_unipc_multistep.py",
        "            solver_order: int = 2,",
        "            solver_order: int = 1,",
        "denoising",
    ),
}
REWRITES = {
    "guidance-as-interpolation": PipelineEdit(
        f"{_STAGES}/denoising.py",
        "noise_pred = noise_pred_uncond + current_guidance_scale * (noise_pred_text -\n",
        "noise_pred = noise_pred_text + (current_guidance_scale - 1.0) * (noise_pred_text -\n",
    ),
    "prompts-padded-with-their-mask": PipelineEdit(
        f"{_STAGES}/text_encoding.py",
        "text_inputs = tok(processed_texts, **tok_kwargs).to(input_device)\n\n            input_ids",
        'text_inputs = tok(processed_texts, padding="max_length", **tok_kwargs).to(input_device)\n\n'
        "            input_ids",
    ),
    "fused-denormalisation": PipelineEdit(
        f"{_STAGES}/decoding.py",
        "return latents * latents_std + latents_mean",
        "return torch.addcmul(latents_mean, latents, latents_std)",
    ),
}


def _engine() -> None:
    """Load the engine by path under its private name, as its workers do."""
    name = "_fastvideo_port_parity"
    if name in sys.modules:
        return
    folder = ROOT / "parity"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@dataclass
class Suite:
    """A copy of FastVideo, the small weights, and the cache of official results.

    Attributes:
        source: Folder that holds ``fastvideo``; copied, never changed.
        python: FastVideo's interpreter.
        work: Folder for everything that is made.
        weights: The small checkpoint; none: it is made.
    """

    source: Path
    python: str
    work: Path
    weights: Path | None = None
    trusted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worktree = self.work / "worktree"
        shutil.copytree(self.source / "fastvideo", self.worktree / "fastvideo")
        _replace(self.worktree / _BASE, *CLEANING)
        adapter = (ROOT / "prompts" / "adapters" / "wan_pipeline.py").read_text()
        self.adapter = self.worktree / "parity_pipeline.py"
        self.adapter.write_text(adapter)
        _replace(self.adapter, 'PROMPTS = "clean"', 'PROMPTS = "any"')
        if self.weights is None:
            self.weights = self.work / "weights"
            script = HERE.parent / "pairs" / "build_weights.py"
            command = [self.python, str(script), "wan_pipeline", str(self.weights), "0"]
            subprocess.run(command, check=True, capture_output=True)

    def compare(self) -> dict[str, Any]:
        """Run the job on the worktree as it is."""
        _engine()
        from _fastvideo_port_parity.job import Job
        from _fastvideo_port_parity.pipeline_job import pipeline_parity

        run = self.work / f"run-{len(list(self.work.glob('run-*')))}"
        run.mkdir()
        spec = {
            "adapter": str(self.adapter),
            "worktree": str(self.worktree),
            "official_repo": None,
            "official_weights": str(self.weights),
            "converted_weights": None,
            "python": self.python,
            "official_python": None,
            "cases": None,
            "seeds": [0, 1],
            "dtypes": ["float32", "bfloat16"],
            "device": "cpu",
            "patches": PATCHES,
            "threads": 1,
            "reference_cache": str(self.work / "references"),
            "trusted_references": list(self.trusted),
        }
        value: dict[str, Any] = pipeline_parity(spec, Job(run))
        if value["reference"]["digest"]:
            self.trusted.append(value["reference"]["digest"])
        return value

    def edited(self, edit: PipelineEdit) -> dict[str, Any]:
        """Run the job with one edit, and take it back."""
        path = self.worktree / edit.file
        before = path.read_text()
        _replace(path, edit.old, edit.new)
        try:
            return self.compare()
        finally:
            path.write_text(before)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{text.count(old)} times in {path}: {old}"
    path.write_text(text.replace(old, new))


@contextmanager
def forked(python: str, folder: Path, worktree: Path) -> Iterator[None]:
    """Inside the block the sides are forked from processes that have imported the libraries, the port's also FastVideo.

    What is edited in the worktree is imported anew; see `warm.Warm`.
    """
    _engine()
    from _fastvideo_port_parity import children

    spec = importlib.util.spec_from_file_location("_warm", HERE.parent / "parity" / "warm.py")
    assert spec is not None and spec.loader is not None
    warm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(warm)
    official = warm.Warm(folder / "official", python, WARM)
    port = warm.Warm(folder / "port", python, (*WARM, *WARM_PORT), str(worktree))

    def popen(command: list[str], **options: Any) -> Any:
        side = official if "official" in Path(command[-1]).name else port
        return side.popen(command, **options)

    original = children.subprocess
    children.subprocess = types.SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)
    try:
        yield
    finally:
        children.subprocess = original
        official.close()
        port.close()


def wrong(edit: PipelineEdit | None, value: dict[str, Any]) -> str:
    """What is wrong about the job's answer to an edit (none: the untouched pipeline); "" when it is right."""
    guilty = [row["name"] for row in value["guilty"]]
    if edit is None or not edit.guilty:
        return "" if value["verdict"] == "pass" and not guilty else f"accused: {value['verdict']}, {guilty}"
    if value["verdict"] != "fail":
        return f"not red: {value['verdict']}"
    others = [name for name in guilty if name.split(".")[0] != edit.guilty.split(".")[0]]
    return "" if edit.guilty in guilty and not others else f"{guilty} in place of {edit.guilty}"


def explain(value: dict[str, Any]) -> str:
    """The findings and the stages' ratios, for a person."""
    rows = [f"{row['verdict']}: {row['code']}: {row['message']}" for row in value["findings"]]
    stages = [f"{row['name']} {row['verdict']} {row['logic_ratio']} {row['precision']}" for row in value["stages"]]
    free = [
        f"{case['seed']}: " + ", ".join(f"{k} {float(v):.3g}" for k, v in case["free"].items())
        for case in value["cases"]
    ]
    return "\n".join([value["verdict"], *rows, *stages, *free, str(value["self_test"])])


def main() -> int:
    """Run what was asked for and print what was said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--weights", type=Path, help="made by build_weights.py wan_pipeline; default: made anew")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        suite = Suite(options.source, options.python, Path(folder) / "suite", options.weights)
        stack.enter_context(forked(options.python, Path(folder), suite.worktree))
        edits: dict[str, PipelineEdit | None] = {"untouched": None, **FAULTS, **REWRITES}
        for name, edit in edits.items():
            if edit is not None and options.only and name not in options.only:
                continue
            value = suite.compare() if edit is None else suite.edited(edit)
            said = wrong(edit, value)
            bad += bool(said)
            guilty = ", ".join(row["name"] for row in value["guilty"])
            seconds = value["timings"]["sides_s"]
            print(f"{name:36} {value['verdict']:12} {guilty:40} {seconds:6.1f} s {said}", flush=True)  # noqa: T201
            if said or edit is None:
                print(explain(value), flush=True)  # noqa: T201
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
