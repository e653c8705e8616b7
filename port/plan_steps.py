"""What a port's plan consists of: its components, checked, and the steps that follow from them."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from .errors import PortError
from .names import slugify
from .records import ComponentRecord, PortRecord

MAX_COMPONENTS = 24
MAX_NOTES = 40
"""Most risks, and most constraints."""

SECTIONS: tuple[tuple[str, str], ...] = (
    ("1", "Scope and constraints"),
    ("2", "Architecture mapping"),
    ("3", "Component parity milestones"),
    ("4", "Pipeline wiring"),
    ("5", "Testing"),
    ("6", "Example and docs"),
    ("7", "Risks"),
)

Kind = Literal["dit", "vae", "encoder", "tokenizer", "scheduler", "extra"]
_ORDER: tuple[Kind, ...] = ("dit", "vae", "encoder", "scheduler", "tokenizer", "extra")
_WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
_TESTED = ("dit", "vae", "encoder")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True)
class PlanDraft:
    """What a plan is made from.

    Attributes:
        model_name, branch, base_commit, goal: As in the port's record.
        scope: Free text.
        components: Checked components; `order_components` gives their order.
        constraints, risks: One sentence each.
    """

    model_name: str
    branch: str
    base_commit: str
    goal: str
    scope: str
    components: tuple[ComponentRecord, ...]
    constraints: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepSpec:
    """One checkbox of the plan.

    Attributes:
        id: Stable: milestone and component, for example ``parity-transformer``.
        section: Number of its section, ``"1"`` to ``"7"``.
        title, acceptance: Markdown of one line.
        needs_approval: Whether a person has to agree before it counts.
    """

    id: str
    section: str
    title: str
    acceptance: str
    needs_approval: bool = False


def default_adapter(slug: str, component: str) -> str:
    """Where a component's adapter stands unless the plan says otherwise, relative to the worktree."""
    return f"tests/local_tests/{slug}/parity_{component}.py"


def has_weights(component: ComponentRecord) -> bool:
    """Whether there is a mapping to prove: schedulers and tokenizers hold no tensors."""
    return component.kind not in _WITHOUT_WEIGHTS


def tested(component: ComponentRecord) -> bool:
    """Whether FastVideo has a plain parity test of such a component, which `check_integration` looks for."""
    return component.kind in _TESTED


def order_components(components: list[ComponentRecord]) -> tuple[ComponentRecord, ...]:
    """The components in the order in which they are ported: the DiT first, otherwise as given."""
    return tuple(sorted(components, key=lambda item: _ORDER.index(item.kind)))


def check_components(components: list[ComponentRecord]) -> tuple[ComponentRecord, ...]:
    """The components in porting order.

    Raises:
        PortError: There is none or there are too many, a name is illegal or taken twice, an import path cannot be
            one, both sides are the same class, or an adapter lies outside the worktree.
    """
    if not 1 <= len(components) <= MAX_COMPONENTS:
        raise PortError(
            "A plan needs components.",
            seen=f"{len(components)} components",
            fix=f"Give 1 to {MAX_COMPONENTS}: at least the DiT, with its official and its FastVideo class.",
        )
    seen: dict[str, str] = {}
    adapters: dict[str, str] = {}
    for item in components:
        _check_name(item.name, seen)
        seen[item.name] = item.name
        _check_import_path(item, "official", item.official)
        _check_import_path(item, "port", item.port)
        _check_sides(item)
        _check_adapter(item)
        other = adapters.setdefault(item.adapter, item.name)
        if other != item.name:
            raise PortError(
                "Two components have the same adapter.",
                seen=f"{other} and {item.name}: {item.adapter}",
                fix="Give each component an adapter file of its own, or leave adapter out.",
            )
    return order_components(components)


def _check_name(name: str, seen: dict[str, str]) -> None:
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise PortError(
            "A component's name is not legal.",
            seen=f"name={name[:80]!r}",
            fix="Use lower-case letters, digits and single underscores, beginning with a letter, "
            f"at most 40: {slugify(name[:200]).replace('-', '_')!r}, 'transformer', 'text_encoder_2'.",
        )
    if name in seen:
        raise PortError(
            "Two components have the same name.",
            seen=f"name={name!r} twice",
            fix=f"Names identify steps and evidence; call the second one {name + '_2'!r} or say what it is.",
        )


def _check_import_path(item: ComponentRecord, side: str, path: str) -> None:
    parts = path.split(".")
    legal = path.isascii() and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    if not legal or len(parts) < 2 or len(path) > 200:
        raise PortError(
            f"The {side} class of component {item.name} is not an import path.",
            seen=f"{side}={path[:120]!r}",
            fix="Write it as 'package.module.Class', for example 'diffusers.WanTransformer3DModel'.",
        )


def _check_sides(item: ComponentRecord) -> None:
    if item.official == item.port and item.kind != "tokenizer":
        raise PortError(
            f"Both sides of component {item.name} are the same class.",
            seen=f"official=port={item.port!r}",
            fix="Name the reference class as official and FastVideo's own class as port; comparing a class with "
            "itself proves nothing.",
        )
    if not item.port.startswith("fastvideo.") and item.kind != "tokenizer":
        raise PortError(
            f"The port class of component {item.name} is not FastVideo's.",
            seen=f"port={item.port!r}",
            fix="Give the class that the port adds or reuses, 'fastvideo.models....Class'.",
        )


def _check_adapter(item: ComponentRecord) -> None:
    path = PurePosixPath(item.adapter)
    parts = [part.lower() for part in path.parts]
    legal = re.fullmatch(r"[\w./ +-]+", item.adapter) and not path.is_absolute() and len(item.adapter) <= 300
    if not legal or ".." in parts or ".git" in parts or path.suffix != ".py":
        raise PortError(
            f"The adapter of component {item.name} is not a Python file of the worktree.",
            seen=f"adapter={item.adapter[:120]!r}",
            fix="Give a path relative to the worktree that ends in .py, or leave it out for "
            f"{default_adapter('<model>', item.name)!r}.",
        )


def steps_of(draft: PlanDraft) -> list[StepSpec]:
    """Every step of the plan, in the order in which they stand there."""
    steps = [
        StepSpec(
            "isolate-workspace",
            "1",
            "Isolate the work in a worktree of its own",
            "`create_worktree` made the worktree and its branch.",
        ),
        StepSpec(
            "fetch-official",
            "1",
            "Fix the official code to one commit or version",
            "`fetch_official_repo` fixed a commit, or the official classes are in installed packages and the parity "
            "runs recorded their versions.",
        ),
        StepSpec(
            "fetch-weights",
            "1",
            "Fetch the official weights",
            "`fetch_weights` recorded source, revision and hashes; no file that needs unpickling is used.",
        ),
    ]
    for item in draft.components:
        steps += _component_steps(item)
    return steps + _CLOSING


def steps_of_port(port: PortRecord) -> list[StepSpec]:
    """Every step of the plan that ``port`` has on record; none before `write_plan`."""
    if not port.components:
        return []
    draft = PlanDraft(
        port.model_name, port.branch, port.base_commit, port.goal, scope="", components=tuple(port.components)
    )
    return steps_of(draft)


def _component_steps(item: ComponentRecord) -> list[StepSpec]:
    steps = []
    if has_weights(item):
        steps.append(
            StepSpec(
                f"mapping-{item.name}",
                "2",
                f"Map the weights of `{item.name}`",
                "`check_mapping` passes: nothing missing, unexpected or colliding, every official tensor arrives by "
                "value; a person has reviewed the rules.",
                needs_approval=True,
            )
        )
    steps += [
        StepSpec(
            f"adapter-{item.name}",
            "3",
            f"Write the adapter of `{item.name}`",
            f"`{item.adapter}` loads and calls both sides, with at least two cases, one of an odd shape.",
        ),
        StepSpec(f"parity-{item.name}", "3", f"Parity of `{item.name}`", _parity_acceptance(item)),
    ]
    if tested(item):
        steps.append(
            StepSpec(
                f"test-{item.name}",
                "5",
                f"Plain test of `{item.name}`",
                f"`check_integration` finds `test_{item.name}_parity.py`, which names both classes and compares "
                "numbers. Whether it passes, pytest says: the report has the line.",
            )
        )
    return steps


def _parity_acceptance(item: ComponentRecord) -> str:
    if item.kind == "scheduler":
        return (
            "`check_scheduler` passes: timesteps and sigmas are equal element by element, and a whole rollout agrees, "
            "for several step counts."
        )
    if item.kind == "tokenizer":
        return (
            "`run_component_parity` passes: token ids and masks are equal, for empty, long, padded and non-ASCII "
            "prompts."
        )
    return (
        "`run_component_parity` passes in fp32 (logic) and in the production dtype (precision), in every case of the "
        "adapter, on the present code."
    )


_CLOSING = [
    StepSpec(
        "wire-config",
        "4",
        "Pipeline config and presets",
        "`check_integration` finds both, and that `fastvideo/registry.py` takes them.",
    ),
    StepSpec(
        "wire-stages",
        "4",
        "Pipeline class and stages",
        "`check_integration` finds the class with its modules and stages, and no model class from diffusers or "
        "transformers; that the stages do what the official ones do is for `pipeline-parity`.",
    ),
    StepSpec(
        "wire-registry",
        "4",
        "Registration",
        "`check_integration` finds that the model's id leads to the pipeline, its config and its default preset.",
    ),
    StepSpec(
        "pipeline-parity",
        "5",
        "Parity of the whole pipeline",
        "`run_pipeline_parity` passes: latents agree with the official run after every step, from the same noise and "
        "schedule.",
    ),
    StepSpec(
        "ssim",
        "5",
        "Video quality against the official video",
        "`run_ssim` passes on videos of the same prompt, seed, size and length; the worst frame was looked at.",
    ),
    StepSpec(
        "example",
        "6",
        "Example",
        "`run_example` passes on a script in `examples/inference/basic/`: it runs to a video, which was looked at.",
    ),
    StepSpec(
        "docs",
        "6",
        "Documentation",
        "`check_integration` passes: the support matrix has the model's row, a page of it says what users need, and "
        "`PORT_STATUS.md` is filled in.",
    ),
    StepSpec(
        "settle-risks",
        "7",
        "Settle the risks",
        "each risk above is closed by evidence or stays a residual one; a person or the agent says which, in a note "
        "here. The report names them all.",
    ),
    StepSpec("open-gate", "7", "Open the gate", "`gate_status` says open."),
]
