"""Begin a port: a workspace of its own, and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..port import git, workspace
from ..port.environment import check_patches
from ..port.errors import PortError
from ..port.excludes import exclude
from ..port.interpreters import Interpreter, default_interpreter, inspect_interpreter
from ..port.names import check_branch_prefix, display_name, slugify
from ..port.paths import check_text, require_utf8
from ..port.records import PortRecord, new_id, now
from ..port.textsafe import clean
from ._components import choose_device
from .base import ToolContext, ToolResult, ToolSpec

_SHOWN = 40
_LONGEST_GOAL = 4000


class CreateWorktreeResult(ToolResult):
    """The workspace of a new port."""

    port_id: str = Field(description="Names this port in every other tool.")
    worktree: str = Field(description="Absolute path to work in.")
    branch: str = Field(description="Branch checked out there.")
    base_commit: str = Field(description="Commit the branch begins at.")
    mode: Literal["worktree", "clone"] = Field(description="How it was made.")
    python: str = Field(description="Interpreter that runs FastVideo.")
    python_version: str = Field(description="Its version.")
    torch: str | None = Field(description="Its torch version; null: not installed.")
    dirty: list[str] = Field(description="Uncommitted changes not carried over (git status, at most 40).")
    dirty_count: int = Field(description="How many there are.")
    excluded: list[str] = Field(description="Patterns in info/exclude that keep downloads out of commits.")
    notes: list[str] = Field(description="What to know before working there.")


def create_worktree(
    ctx: ToolContext,
    model_name: Annotated[str, Field(description="Model to port, e.g. 'Wan 2.2 TI2V 5B'; 1-200 characters.")],
    fastvideo_repo: Annotated[
        str | None, Field(description="FastVideo git repository. Default: the server's folder.")
    ] = None,
    clone_url: Annotated[str | None, Field(description="Clone this URL or path instead of adding a worktree.")] = None,
    python: Annotated[
        str | None, Field(description="FastVideo's Python >= 3.10. Default: the repository's .venv.")
    ] = None,
    goal: Annotated[str | None, Field(description="What the port is for; at most 4000 characters.")] = None,
    branch_prefix: Annotated[str, Field(description="Begins the branch name; default 'codex/'.")] = "codex/",
    environment_patches: Annotated[
        list[str] | None,
        Field(description="For a CPU: cpu-attention, cpu-device, cpu-autocast; pipelines: denoising-dtype."),
    ] = None,
    official_python: Annotated[str | None, Field(description="Python of the official side. Default: python.")] = None,
) -> CreateWorktreeResult:
    """Start porting a video model to FastVideo: make an isolated git worktree and branch (or clone, when not inside
    a FastVideo repository) and get the port_id. Call it first. Your checkout, its branches and uncommitted changes
    stay as they are."""
    name = display_name(model_name)
    slug = slugify(model_name)
    prefix = check_branch_prefix(branch_prefix)
    patches = check_patches(environment_patches)
    goal = _goal(goal)
    repository = _repository(ctx.cwd, fastvideo_repo, clone_url)
    notes: list[str] = []
    interpreter = inspect_interpreter(python, cwd=ctx.cwd) if python else default_interpreter(repository, notes)
    official = inspect_interpreter(official_python, cwd=ctx.cwd, name="official_python") if official_python else None
    _note_torch(interpreter, official, notes)
    _note_device(patches, notes)
    hindered = bool(notes)

    if repository is not None:
        ctx.report(0, 2, f"adding a worktree of {repository}")
        require_utf8(repository, "the FastVideo repository")
        made = workspace.make_worktree(repository, slug, prefix, ctx.home)
    else:
        url, transport = git.check_url(
            workspace.FASTVIDEO_URL if clone_url is None else clone_url, allow_local=True, cwd=ctx.cwd, name="clone_url"
        )
        ctx.report(0, 2, f"cloning {git.redact(url)}")
        made = workspace.make_clone(url, transport, slug, prefix, Path.home() / "dev")
    try:
        ctx.report(1, 2, "excluding weights and clones from commits")
        excluded, remarks = exclude(made.path, ctx.home)
        record = PortRecord(
            port_id=new_id("port"),
            model_name=name,
            slug=slug,
            goal=goal,
            worktree=str(made.path),
            branch=made.branch,
            base_commit=made.base_commit,
            mode=made.mode,
            repository=made.repository,
            python=interpreter.path,
            official_python=official.path if official else None,
            environment_patches=patches,
            created_at=now(),
        )
        ctx.ports.add(record)
    except BaseException:
        workspace.remove(made)
        raise
    ctx.report(2, 2, "ready")
    if made.dirty:
        notes.append("The repository has uncommitted changes; the worktree begins at the commit, without them.")
    return CreateWorktreeResult(
        port_id=record.port_id,
        worktree=record.worktree,
        branch=record.branch,
        base_commit=record.base_commit,
        mode=record.mode,
        python=interpreter.path,
        python_version=interpreter.version,
        torch=interpreter.torch,
        dirty=[clean(line)[:200] for line in made.dirty[:_SHOWN]],
        dirty_count=len(made.dirty),
        excluded=excluded,
        notes=notes + made.notes + remarks,
        next_step=("Read notes: what they name has to be mended before any run, or the port begun again. " * hindered)
        + "Call fetch_official_repo with this port_id and the official code's URL or path; where it is an installed "
        "package, go on with fetch_weights.",
    )


def _repository(cwd: Path, fastvideo_repo: str | None, clone_url: str | None) -> Path | None:
    """The repository to add a worktree to; none: clone."""
    if fastvideo_repo is not None and clone_url is not None:
        raise PortError(
            "Both fastvideo_repo and clone_url were given.",
            seen="one means a worktree, the other a clone",
            fix="Give one of them.",
        )
    if clone_url is not None:
        return None
    if fastvideo_repo is None:
        return workspace.find_repository(cwd, required=False)
    start = (cwd / Path(check_text(fastvideo_repo, "fastvideo_repo")).expanduser()).resolve()
    return workspace.find_repository(start, required=True)


def _goal(goal: str | None) -> str:
    if goal is not None and len(goal) > _LONGEST_GOAL:
        raise PortError(
            "The goal is too long.",
            seen=f"{len(goal)} characters",
            fix=f"Say it in at most {_LONGEST_GOAL} characters.",
        )
    return goal or ""


def _note_torch(interpreter: Interpreter, official: Interpreter | None, notes: list[str]) -> None:
    for each, side in ((interpreter, "FastVideo"), (official, "the official code")):
        if each is not None and each.torch is None:
            notes.append(f"{each.path} has no torch: install what {side} needs there before running parity.")


def _note_device(patches: list[str], notes: list[str]) -> None:
    """Patches are chosen once, and without a GPU nothing of FastVideo that holds attention can be built."""
    if not patches and choose_device("auto") == "cpu":
        notes.append(
            "No NVIDIA GPU was found here, and FastVideo does not run on a CPU as it is: unless its runs go elsewhere, "
            "begin again with environment_patches=['cpu-attention', 'cpu-device', 'cpu-autocast', 'denoising-dtype']."
        )


SPEC = ToolSpec(
    create_worktree,
    title="Create the port's worktree",
    read_only=False,
    destructive=False,
    idempotent=False,
    open_world=True,
)
