"""Code that the demo's agent writes into its worktree: adapters, registration, example."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from .mistakes import Mistake

MODEL_NAME = "Wan2.1 tiny"
MODEL_ID = "fastvideo-port/Wan2.1-T2V-tiny-Diffusers"
TESTS = "tests/local_tests/wan2-1-tiny"
EXAMPLE = "examples/inference/basic/basic_wan_tiny.py"
VIDEO = "outputs/wan_tiny.mp4"
_ADAPTERS = {
    "transformer": "wan_dit",
    "vae": "wan_vae",
    "text_encoder": "umt5",
    "scheduler": "flow_unipc",
    "tokenizer": "wan_tokenizer",
    "pipeline": "wan_pipeline",
}
_BEFORE = "    # Wan — defaults provided by presets (no sampling_param_cls needed)\n"
_REGISTRATION = Mistake(
    name="registration",
    file="fastvideo/registry.py",
    right=_BEFORE,
    wrong=f"""    # A small Wan for tests.
    register_configs(
        sampling_param_cls=None,
        pipeline_config_cls=WanT2V480PConfig,
        workload_types=(WorkloadType.T2V, ),
        hf_model_paths=[
            "{MODEL_ID}",
        ],
        model_family="wan",
        default_preset="wan_t2v_1_3b",
    )
{_BEFORE}""",
)
_CONFIG = '''@dataclass
class WanT2V480PConfig(PipelineConfig):
    """Base configuration for Wan T2V 1.3B pipeline architecture."""
'''
_CLEANING = Mistake(
    name="prompts are not cleaned",
    file="fastvideo/configs/pipelines/wan.py",
    right=_CONFIG,
    wrong=f'''def clean_prompt(prompt: str) -> str:
    """Repair the text, resolve HTML entities and make one space of any white space."""
    prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\\s+", " ", prompt.strip()).strip()


{_CONFIG}
    preprocess_text_funcs: tuple[Callable[[str], str], ...] = field(default_factory=lambda: (clean_prompt, ))
''',
)
_IMPORTS = Mistake(
    name="imports",
    file=_CLEANING.file,
    right="from dataclasses import dataclass, field\n",
    wrong="from dataclasses import dataclass, field\nimport html\nimport re\n\nimport ftfy\n",
)


def adapter(name: str) -> str:
    """Path of the adapter of a component, or of the pipeline, below the worktree."""
    return f"{TESTS}/parity_{name}.py"


def register(worktree: Path) -> str:
    """Register the model in FastVideo; the edit as a unified diff."""
    return _REGISTRATION.plant(worktree)


def clean_prompts(worktree: Path) -> str:
    """Let FastVideo clean prompts as diffusers does; the edit as a unified diff."""
    return "\n".join(edit.plant(worktree) for edit in (_IMPORTS, _CLEANING))


def write_adapter(worktree: Path, name: str) -> str:
    """Write an adapter; its outline: the signature and first sentence of each function."""
    from ... import prompts

    text = (Path(prompts.__path__[0]) / "adapters" / f"{_ADAPTERS[name]}.py").read_text(encoding="utf-8")
    # The port cleans prompts by then.
    _write(worktree / adapter(name), text.replace('PROMPTS = "clean"', 'PROMPTS = "any"'))
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    return "\n".join(
        f"def {node.name}({ast.unparse(node.args)}): ...  # {(ast.get_docstring(node) or '').partition(chr(10))[0]}"
        for node in functions
    )


def copy_test(worktree: Path, first: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Write the plain test of component ``other`` after the one that was scaffolded for ``first``; its path."""
    text = (worktree / TESTS / f"test_{first['name']}_parity.py").read_text(encoding="utf-8")
    for field in ("official", "port"):
        text = text.replace(first[field], other[field]).replace(_package(first[field]), _package(other[field]))
    path = f"{TESTS}/test_{other['name']}_parity.py"
    # Not part of a longer word: "transformer" stands in "transformers".
    _write(worktree / path, re.sub(rf"(?<![a-z]){first['name']}(?![a-z])", other["name"], text))
    return path


def _package(path: str) -> str:
    """The last words of the scaffold's first sentence name the official package."""
    return f"FastVideo and {path.partition('.')[0]}."


def write_example(worktree: Path) -> None:
    """Write the example."""
    text = (Path(__file__).with_name("written") / "basic_wan_tiny.py").read_text(encoding="utf-8")
    _write(worktree / EXAMPLE, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
