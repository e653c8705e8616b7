"""The skill: what an agent that ports a model has to know and do, as a prompt, a resource and a SKILL.md."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import PortError
from .templates import PROMPTS, render
from .textsafe import clean_argument

SKILL_NAME = "port-model"
SKILL_DESCRIPTION = (
    "Port a video diffusion model (DiT, VAE, text encoders, scheduler, pipeline) into FastVideo and prove numerical "
    "parity with the official implementation through the fastvideo-port MCP server. Use when asked to add, port or "
    "convert a model to FastVideo, to map its weights, or to find out why a FastVideo port differs from its reference."
)
_MODEL_INDEX_LIMIT = 256 * 1024


@dataclass(frozen=True)
class SkillInput:
    """One of the skill's four variables.

    Attributes:
        name: Name of the variable.
        value: Its value, cleaned; empty when it is not known.
        origin: ``given``, ``inferred`` or ``unknown``.
        note: How it was inferred, or what to do about it; empty when it was given.
    """

    name: str
    value: str
    origin: str
    note: str = ""


def render_skill(
    goal: str | None = None,
    model_name: str | None = None,
    official_repo: str | None = None,
    official_weights_path: str | None = None,
    *,
    cwd: Path,
) -> str:
    """The skill for one port, in Markdown. What is not given is inferred from the rest, and the text says so.

    Arguments are data: they are stripped of invisible characters and stand in code spans that they cannot close.

    Raises:
        PortError: An argument is too long.
    """
    inputs = infer_inputs(goal, model_name, official_repo, official_weights_path, cwd=cwd)
    return _render(inputs, is_fastvideo_repository(cwd), header="")


def skill_document() -> str:
    """The skill without arguments, with the front matter of an Agent Skill."""
    # JSON strings are YAML strings, which spares us a YAML writer.
    header = f"---\nname: {SKILL_NAME}\ndescription: {json.dumps(SKILL_DESCRIPTION)}\n---\n\n"
    return _render([], None, header=header)


def _render(inputs: list[SkillInput], in_repository: bool | None, *, header: str) -> str:
    # The example is the adapter that ships and is tested, passed as data: its braces are Python's.
    example = (PROMPTS / "adapters" / "wan_dit.py").read_text(encoding="utf-8")
    return render("port_model.md.j2", inputs=inputs, in_repository=in_repository, header=header, example=example)


def write_skill(folder: Path) -> Path:
    """Write ``port-model/SKILL.md`` below ``folder``, a client's skills folder, and return the file's path.

    A folder that is itself called ``port-model`` takes the file directly: the format wants folder and skill to have
    the same name.

    Raises:
        PortError: The file cannot be written.
    """
    target = folder if folder.name == SKILL_NAME else folder / SKILL_NAME
    path = target / "SKILL.md"
    try:
        target.mkdir(parents=True, exist_ok=True)
        path.write_text(skill_document(), encoding="utf-8")
    except OSError as error:
        raise PortError(
            "The skill cannot be written.",
            seen=f"{path}: {error.strerror}",
            fix="Name a folder that this user can write.",
        ) from error
    return path


def is_fastvideo_repository(folder: Path) -> bool:
    """Whether ``folder`` holds a FastVideo checkout."""
    return (folder / "fastvideo" / "__init__.py").is_file() and (folder / "fastvideo" / "registry.py").is_file()


def infer_inputs(
    goal: str | None, model_name: str | None, official_repo: str | None, official_weights_path: str | None, *, cwd: Path
) -> list[SkillInput]:
    """The four variables in the order goal, model_name, official_repo, official_weights_path.

    Raises:
        PortError: An argument is too long.
    """
    given = {
        "goal": goal,
        "model_name": model_name,
        "official_repo": official_repo,
        "official_weights_path": official_weights_path,
    }
    values = {name: clean_argument(name, text or "") for name, text in given.items()}
    name_input = _given("model_name", values) or _infer_name(values)
    weights_input = _given("official_weights_path", values) or _infer_weights(name_input, cwd)
    repo_input = _given("official_repo", values) or _infer_repo(weights_input, cwd)
    goal_input = _given("goal", values) or _infer_goal(name_input)
    return [goal_input, name_input, repo_input, weights_input]


def _given(name: str, values: dict[str, str]) -> SkillInput | None:
    return SkillInput(name, values[name], "given") if values[name] else None


def _last_part(location: str) -> str:
    """The last part of a path, URL or hub id, without ``.git`` and revision."""
    part = re.split(r"[/\\]", location.rstrip("/\\"))[-1].split("@")[0]
    return part.removesuffix(".git").strip()


def _infer_name(values: dict[str, str]) -> SkillInput:
    for source, words in (("official_weights_path", "the weights path"), ("official_repo", "the official repository")):
        if name := _last_part(values[source]):
            return SkillInput("model_name", name, "inferred", f"from {words}")
    return SkillInput("model_name", "", "unknown", "Take the name from the goal, or ask for it; do not invent one.")


def _infer_weights(name: SkillInput, cwd: Path) -> SkillInput:
    folder = cwd / "official_weights"
    found = sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
    if len(found) == 1:
        return SkillInput("official_weights_path", f"official_weights/{found[0]}", "inferred", "the only folder there")
    if name.origin == "given" and re.fullmatch(r"[\w.-]+/[\w.-]+", name.value):
        return SkillInput("official_weights_path", name.value, "inferred", "model_name has the form of a hub id")
    return SkillInput(
        "official_weights_path", "", "unknown", "Read the official README for the hub id; ask when it names several."
    )


def _infer_repo(weights: SkillInput, cwd: Path) -> SkillInput:
    index = Path(cwd, weights.value, "model_index.json") if weights.value else None
    try:
        if index and index.is_file() and index.stat().st_size <= _MODEL_INDEX_LIMIT:
            content = json.loads(index.read_text(encoding="utf-8"))
            if isinstance(content, dict) and "_diffusers_version" in content:
                return SkillInput("official_repo", "diffusers", "inferred", "the weights are in Diffusers layout")
    except (OSError, ValueError):  # an unreadable index tells us nothing, and fetch_weights will report it
        pass
    return SkillInput(
        "official_repo",
        "",
        "unknown",
        "Take the repository that the model card names; ask when there is none.",
    )


def _infer_goal(name: SkillInput) -> SkillInput:
    what = name.value or "the model"
    return SkillInput("goal", f"Port {what} into FastVideo with numerical parity", "inferred", "the skill's purpose")
