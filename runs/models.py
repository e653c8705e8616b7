"""What is known of a run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RunState = Literal["queued", "running", "done", "failed", "cancelled", "crashed"]
FINISHED: frozenset[RunState] = frozenset({"done", "failed", "cancelled", "crashed"})


class Progress(BaseModel):
    """How far a run is; ``done`` never falls within a run."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    done: float = Field(ge=0, description="Work done, in the job's own unit.")
    total: float | None = Field(default=None, description="All work in the same unit, if known.")
    message: str = Field(default="", max_length=500, description="What is being done.")


class RunError(BaseModel):
    """Why a run has no result: what was wrong, what was seen, what to do."""

    model_config = ConfigDict(extra="ignore")

    what: str
    seen: str = ""
    fix: str = ""


class Run(BaseModel):
    """One piece of work in a process of its own."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    port_id: str | None = Field(default=None, description="The port it belongs to.")
    tool: str = Field(description="The tool that started it.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="That tool's arguments.")
    state: RunState
    created_at: str
    started_at: str | None = Field(default=None, description="When the worker was launched.")
    finished_at: str | None = None
    exit_code: int | None = Field(default=None, description="Of the worker, when it ended by itself.")
    signal: str | None = Field(default=None, description="Name of the signal that ended the worker.")
    progress: Progress | None = None
    error: RunError | None = None
    log_path: str

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED


class ProcessIdentity(BaseModel):
    """A process that cannot be mistaken for a later one with the same number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    born: str = Field(description="Boot and start tick of the process; immune to changes of the clock.")


class RunRecord(Run):
    """A run as the store keeps it: with what is needed to launch, to supervise and to check it."""

    python: str
    job: str
    parity_dir: str
    package: str = Field(default="", description="Package of ours that has the job; empty: the engine in parity_dir.")
    cwd: str
    env: dict[str, str] = Field(default_factory=dict)
    keep_tokens: bool = False
    devices: list[str] = Field(default_factory=list)
    time_limit_s: float
    log_limit: int
    memory_limit: int | None = Field(default=None, description="Bytes of resident memory of all its processes.")
    spec_digest: str = Field(description="SHA-256 of spec.json as it was written.")
    key: str = Field(description="Authenticates the worker's result; 64 hexadecimal digits.")
    creator: ProcessIdentity
    supervisor: ProcessIdentity | None = None
    worker: ProcessIdentity | None = None
    cancel_requested: bool = False
    result_digest: str | None = Field(default=None, description="SHA-256 of result.json at the end of the run.")

    def public(self) -> Run:
        """The part that tools may see."""
        return Run.model_validate(self.model_dump(include=set(Run.model_fields)))
