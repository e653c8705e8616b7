"""The report of a port: one HTML page that needs nothing else, and its Markdown twin for a pull request."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from . import report_words as words
from .errors import PortError
from .files import replace_file
from .paths import open_regular
from .templates import render
from .textsafe import clean, redact

MAX_PICTURE_BYTES = 4 * 1024 * 1024
"""Largest picture that is embedded."""

Verdict = Literal["pass", "fail", "investigate", "inconclusive", "error", "missing"]
GateState = Literal["pass", "fail", "stale", "missing", "needs_approval"]

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Row(BaseModel):
    """Base of a report's parts: unknown fields are refused, texts lose secrets and invisible characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _clean_texts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return redact(clean(value))
        if isinstance(value, (list, tuple)):
            return tuple(redact(clean(item)) if isinstance(item, str) else item for item in value)
        return value


class Fact(Row):
    """A line of the header: ``torch`` is ``2.13.0``."""

    name: str
    value: str


class GateRow(Row):
    """One item of the alignment gate."""

    number: int = Field(ge=1)
    item: str
    state: GateState
    evidence: tuple[str, ...] = Field(default=(), description="Run ids, approvals, files.")
    why: str
    changed: tuple[str, ...] = Field(default=(), description="What made its evidence stale, a file each.")
    next: str = Field(default="", description="What to do; empty when it passes.")


class Culprit(Row):
    """Where a component begins to differ."""

    module: str = Field(description="Module path in the port.")
    official_module: str | None = None
    kind: str = Field(description="What kind of difference, e.g. 'module' or 'glue'.")
    file: str | None = Field(default=None, description="Relative to the worktree.")
    line: int | None = None
    why: str

    @property
    def place(self) -> str:
        """``file:line``, or the module when the file is not known."""
        if self.file is None:
            return self.module
        return self.file if self.line is None else f"{self.file}:{self.line}"


class ParityRow(Row):
    """The last parity verdict of one component."""

    component: str
    verdict: Verdict
    logic_ratio: float | None = Field(default=None, description="Worst over the cases; 1 is the reference's own error.")
    boundary_ratio: float | None = Field(default=None, description="Logic at the worst pair of modules.")
    precision_ratio: float | None = Field(default=None, description="The same in the production dtype; at most 2.")
    strict: Literal["pass", "fail"] | None = Field(default=None, description="assert_close at 1e-4; decides nothing.")
    cases: tuple[str, ...] = Field(default=(), description="Cases that were run.")
    culprit: Culprit | None = None
    self_test: bool | None = Field(
        default=None, description="Whether the check turned red when the port was perturbed."
    )
    reference: str = Field(
        default="", description="What stood for the exact result, e.g. 'float64'; 'exact': equal or not, as tokens are."
    )
    whole: bool = Field(default=False, description="Has no modules and one precision: what is none does not apply.")
    dtypes: tuple[str, ...] = Field(default=(), description="Places where the sides compute in different dtypes.")
    remarks: tuple[str, ...] = Field(default=(), description="Findings that did not decide.")
    run_id: str | None = None
    fresh: bool = Field(default=True, description="Whether code, adapter, weights and environment are still the same.")

    @model_validator(mode="after")
    def _a_pass_was_measured(self) -> ParityRow:
        """A verdict of pass with nothing behind it is a mistake of whoever filled the report."""
        if self.verdict != "pass" or (self.reference == "exact" and self.cases):
            return self
        if self.logic_ratio is None or not math.isfinite(self.logic_ratio):
            raise ValueError(f"{self.component}: a pass needs a finite logic_ratio")
        return self


class PipelineLine(Row):
    """A line of the table of the pipeline: a step, an end, or a stage alone. What does not apply to it is none."""

    name: str
    verdict: Verdict | None = None
    error: float | None = Field(default=None, description="Relative L2 in float32 against the float64 reference.")
    reference_error: float | None = Field(default=None, description="The same of the official run.")
    max_abs: float | None = Field(default=None, description="Largest difference between port and official run.")
    gain: float | None = Field(default=None, description="Error over that of the step before.")
    logic_ratio: float | None = None
    precision_ratio: float | None = None


class PipelineRow(Row):
    """The last comparison of both pipelines."""

    verdict: Verdict
    lines: tuple[PipelineLine, ...] = ()
    steps: int | None = Field(default=None, ge=0, description="How many were compared; lines may show fewer.")
    guilty: tuple[str, ...] = Field(default=(), description="Stages that differ on their own.")
    self_test: bool | None = None
    perturbed: int | None = Field(default=None, ge=0, description="How many perturbations the self-test tried.")
    turned_red: int | None = Field(default=None, ge=0, description="How many of them were seen.")
    run_id: str
    fresh: bool = True


class MappingRow(Row):
    """The last mapping proof of one component."""

    component: str
    verdict: Verdict
    coverage: float | None = Field(default=None, ge=0, le=1, description="Share of official tensors that arrive.")
    tensors: int | None = Field(default=None, ge=0, description="Official tensors.")
    missing: int | None = Field(default=None, ge=0)
    unexpected: int | None = Field(default=None, ge=0)
    shape_mismatches: int | None = Field(default=None, ge=0)
    collisions: int | None = Field(default=None, ge=0)
    unused: int | None = Field(default=None, ge=0, description="Left out on purpose.")
    unused_names: tuple[str, ...] = ()
    run_id: str | None = None
    fresh: bool = True


class Picture(Row):
    """A picture on disk that the page embeds."""

    path: Path = Field(description="A PNG or JPEG file of at most MAX_PICTURE_BYTES.")
    caption: str


class SsimRow(Row):
    """The last comparison of two videos."""

    name: str
    verdict: Verdict
    metric: str
    reference: str = Field(default="", description="Path of the official video.")
    reference_sha256: str = ""
    candidate_sha256: str = ""
    mean: float | None = None
    minimum: float | None = None
    worst_frame: int | None = Field(default=None, ge=0, description="Counted from 0.")
    frames: int | None = Field(default=None, ge=0)
    threshold: float | None = None
    pictures: tuple[Picture, ...] = ()
    run_id: str | None = None
    fresh: bool = True


class Gallery(Row):
    """Pictures that one run made, other than those of a comparison of videos."""

    title: str
    pictures: tuple[Picture, ...]


class ApprovalRow(Row):
    """A person's decision, as the ledger has it."""

    step: str
    decision: Literal["approved", "declined"]
    channel: str = Field(description="How it came in; 'client' is what the agent's client asserts.")
    by: str = ""
    when: str = ""
    note: str = Field(default="", description="The person's own words.")


class RunRow(Row):
    """One run, in the order in which they were started."""

    run_id: str
    tool: str
    what: str = Field(default="", description="Component or file that it was about.")
    state: str
    verdict: Verdict | None = None
    started_at: str | None = None
    seconds: float | None = Field(default=None, ge=0)


class StepRow(Row):
    """A step of the plan with its state."""

    id: str
    title: str
    state: str = Field(description="todo, in_progress, claimed, done, ...")
    acceptance: str = Field(default="", description="When it counts as done.")
    asked: bool = Field(default=True, description="Whether the gate is closed while it is not done.")


class ReportData(Row):
    """Everything that a report says. What a list does not hold is reported as absent, never as passed."""

    model_name: str
    goal: str = ""
    gate: Literal["open", "closed"]
    worktree: str
    branch: str
    base_commit: str
    head_commit: str | None = None
    changed_files: int | None = Field(default=None, ge=0, description="Not committed; none: git did not say.")
    new_files: int | None = Field(default=None, ge=0, description="Not committed and not ignored.")
    plan_path: str | None = None
    written_at: str = Field(description="ISO 8601.")
    environment: tuple[Fact, ...] = ()
    environment_patches: tuple[str, ...] = Field(default=(), description="Reported changes to the environment.")
    items: tuple[GateRow, ...]
    parity: tuple[ParityRow, ...] = ()
    pipeline: PipelineRow | None = None
    mapping: tuple[MappingRow, ...] = ()
    ssim: tuple[SsimRow, ...] = ()
    gallery: tuple[Gallery, ...] = ()
    approvals: tuple[ApprovalRow, ...] = ()
    reproduce: tuple[str, ...] = Field(default=(), description="Commands, one each.")
    problem: str = Field(default="", description="Why nothing here is evidence, e.g. a changed ledger.")
    steps: tuple[StepRow, ...] = ()
    runs: tuple[RunRow, ...] = ()
    residual_risks: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = Field(default=(), description="Beyond the items that the gate calls missing.")

    @model_validator(mode="after")
    def _the_gate_agrees_with_its_items(self) -> ReportData:
        if self.gate == "open" and (not self.items or any(row.state != "pass" for row in self.items)):
            raise ValueError("the gate is said to be open, and not every item passes")
        if self.gate == "open" and self.problem:
            raise ValueError(f"the gate is said to be open, and {self.problem}")
        return self

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture that the page embeds."""
        of_videos = [picture for row in self.ssim for picture in row.pictures]
        return (*of_videos, *(picture for gallery in self.gallery for picture in gallery.pictures))

    @property
    def beside_the_gate(self) -> tuple[StepRow, ...]:
        """The plan's steps that are not done and that an open gate does not show."""
        return tuple(row for row in self.steps if row.state != "done" and not row.asked)

    @property
    def commits(self) -> str:
        """What stands on top of the base commit besides commits."""
        if self.changed_files is None or self.new_files is None:
            return "whether everything is committed is not known"
        count = self.changed_files + self.new_files
        if not count:
            return "everything is committed"
        changes = "1 change" if count == 1 else f"{count} changes"
        return f"{changes} not committed ({self.changed_files} in known files, {self.new_files} new files)"

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Everything that no tool has measured, gate items first."""
        missing = [f"{row.item} ({row.why})" for row in self.items if row.state == "missing"]
        open_steps = [row.id for row in self.beside_the_gate if row.state != "claimed"]
        beside = [f"Open steps of the plan that the gate does not ask for: {', '.join(open_steps)}"] * bool(open_steps)
        return (*missing, *beside, *self.not_measured)


def write_report(folder: Path, data: ReportData) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into ``folder`` (made if absent) and return both paths.

    The page loads nothing from anywhere: style and pictures stand inside. Each file is replaced in one step.

    Raises:
        PortError: A picture is absent, no PNG or JPEG, or too large; or the folder cannot be written.
    """
    pictures = {picture.path: _data_uri(picture.path) for picture in data.pictures}
    values: dict[str, Any] = {
        "data": data,
        "number": words.number,
        "figure": words.figure,
        "count": words.count,
        "moment": words.moment,
        "sha": words.sha,
        "guilty": words.guilty(data.pipeline),
        "pipeline_test": words.pipeline_test(data.pipeline),
        "pipeline_legend": words.legend(data.pipeline),
        "nothing_open": words.NOTHING_OPEN,
        "passed": _passed(data),
        "done": sum(row.state == "done" for row in data.steps),
    }
    page = render("report.html.j2", **values, pictures=pictures)
    twin = render("report.md.j2", **values)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PortError(
            "The report's folder cannot be made.", seen=f"{folder}: {error.strerror}", fix="Name another folder."
        ) from error
    html, markdown = folder / "report.html", folder / "report.md"
    replace_file(html, page.encode("utf-8"))
    replace_file(markdown, twin.encode("utf-8"))
    return html, markdown


def is_picture(content: bytes) -> bool:
    """Whether the content is one that a page embeds: PNG or JPEG, not larger than MAX_PICTURE_BYTES."""
    return content.startswith(tuple(_MAGIC)) and len(content) <= MAX_PICTURE_BYTES


def _passed(data: ReportData) -> int:
    return sum(row.state == "pass" for row in data.items)


def _data_uri(path: Path) -> str:
    with open_regular(path) as file:
        content = file.read(MAX_PICTURE_BYTES + 1)
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)
    if kind is None or len(content) > MAX_PICTURE_BYTES:
        raise PortError(
            "A picture of the report cannot be embedded.",
            seen=f"{path}: {'no PNG or JPEG' if kind is None else f'more than {MAX_PICTURE_BYTES} bytes'}",
            fix=f"Give a PNG or JPEG file of at most {MAX_PICTURE_BYTES} bytes.",
        )
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
