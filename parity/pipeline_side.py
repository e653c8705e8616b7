"""One side of a pipeline comparison: load the pipeline, run it free and from injected tensors, keep what it records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from . import collecting
from .adapter import Side
from .attention import one_backend
from .audit import (
    attention_classes,
    data_read,
    environment,
    flags,
    foreign_code,
    imported_files,
    reset_flags,
    sources_outside_engine,
)
from .context import Context
from .errors import ParityError
from .facts import sha256
from .handover import announce, await_file
from .inputs import make_inputs
from .items import Item
from .job import Job
from .leaves import leaves
from .lift import lifted
from .observe import switches
from .patches import ask_for
from .perturbation import PERTURBATION
from .pipeline_parts import Parts
from .pipeline_record import STAGES, PipelineContext, Place, Recorder, noisy, stages_of
from .runner import Runner
from .side_process import prepare

FREE, FORCED, CONTROL, REFERENCE, EXACT = "free", "forced", "control", "reference", "exact"
SELF_TESTS = {"initial latents": "test-latents", "weights": "test-weights"}
"""What is perturbed in the port, and the tag of the run."""


class PipelineRunner(Runner):
    """Runs one side's pipeline on the shared inputs.

    Attributes:
        parts: What the loaded pipeline consists of.
        stages: Case -> the stages that it runs.
        remembered: ``<key>.<tag>`` -> what went wrong while recording (`Recorder`).
    """

    def __init__(self, spec: dict[str, Any], side: Side, job: Job, patches: list[str]) -> None:
        super().__init__(spec, side, job, patches)
        self.parts = Parts(None, self.adapter.path)
        self.stages = {name: stages_of(name, case) for name, case in self.cases.items()}
        self.recorder: Recorder | None = None
        self.casts: Callable[[], AbstractContextManager[None]] = nullcontext
        self.remembered: dict[str, dict[str, list[str]]] = {}

    def context(self, item: Item, dtype: torch.dtype) -> Context:
        return PipelineContext(**vars(super().context(item, dtype)), recorder=self.recorder)

    def load_pipeline(self, dtype: torch.dtype) -> Any:
        """Load the pipeline in ``dtype`` with the flags reset, its models in eval mode."""
        reset_flags()
        self._release()
        ask_for(dtype)
        torch.manual_seed(0)
        pipeline = self.adapter.call(f"load_{self.side}", self.context(self.items[0], dtype))
        collecting.as_usual()
        self._loaded = lambda: True  # what a pipeline refers to in circles cannot be told from outside
        self.parts = Parts(pipeline, self.adapter.path)
        if not self.parts.models:
            raise ParityError(
                f"load_{self.side} returned a pipeline without a model.",
                seen=f"{type(pipeline).__module__}.{type(pipeline).__qualname__} holds no torch.nn.Module",
                fix="Return the pipeline object, or a dict of its models and scheduler.",
            )
        if any(model.training for model in self.parts.models.values()):
            self.remark("training-mode", f"load_{self.side} left models in training mode; they were set to eval mode.")
            self.parts.models.eval()
        self.switches = switches()
        reset_flags()
        return pipeline

    def _watched(self, pipeline: Any, bundle: Any, ctx: Context) -> Any:
        with one_backend(self.spec), self.conduct.watching(self.parts.models, bundle):
            return self.adapter.call(f"call_{self.side}", pipeline, bundle, ctx)

    def trace(
        self,
        pipeline: Any,
        item: Item,
        dtype: torch.dtype,
        tag: str,
        injected: Mapping[Place, torch.Tensor] | None = None,
        changed: str | None = None,
    ) -> dict[Place, torch.Tensor]:
        """Run the pipeline once; what it recorded is kept as ``<key>.<tag>.safetensors`` and returned.

        An injected tensor of another shape than the pipeline's own is tried all the same, so that what comes after
        can be judged; a pipeline that cannot go on with it is run again with its own.
        """
        wide = dtype == torch.float64
        recorder = Recorder(injected, changed, wide)
        own: list[str] = []
        try:
            self._record(pipeline, item, dtype, recorder)
        except ParityError:
            if not recorder.misfits:
                raise
            own = [str(place) for place in recorder.misfits[:1]]
            recorder = Recorder(injected, changed, wide, fitting=True)
            self._record(pipeline, item, dtype, recorder)
        path = self.out / f"{item.key}.{tag}.safetensors"
        write_places(path, recorder.kept)
        self._wrote(path)
        self.remembered[f"{item.key}.{tag}"] = {
            "echoed": recorder.echoed,
            "repeated": recorder.repeated,
            "misfits": [str(place) for place in recorder.misfits],
            "own": own,
        }
        return recorder.kept

    def _record(self, pipeline: Any, item: Item, dtype: torch.dtype, recorder: Recorder) -> None:
        ask_for(dtype)
        self.recorder = recorder
        try:
            with torch.no_grad():
                self.call(pipeline, item, dtype)
        finally:
            self.recorder = None

    def whole(self) -> Item | None:
        """The first input that goes through all stages."""
        return next((item for item in self.items if self.stages[item.case] == STAGES), None)

    def call(self, model: Any, item: Item, dtype: torch.dtype, inputs: Any = None) -> Any:
        """One run on fresh copies of the inputs; a pipeline moves its inputs itself, so nothing is tried twice."""
        bundle = self.inputs(item) if inputs is None else inputs
        reset_flags()
        torch.manual_seed(item.seed)
        with self.casts():
            return self._watched(model, bundle, self.context(item, dtype))

    @contextmanager
    def without_casts(self) -> Iterator[None]:
        """Inside the block the adapter's call runs without casts (`lifted`)."""
        self.casts = lifted
        try:
            yield
        finally:
            self.casts = nullcontext

    def decoys(self, item: Item) -> dict[Place, torch.Tensor]:
        """What both sides are given in place of their own tensors, made from what the official side recorded."""
        path = self.shared / f"decoys.{item.key}.safetensors"
        self.read.setdefault(path.name, []).append(sha256(path))
        return read_places(path)

    def look_at_parts(self, dtype: torch.dtype) -> None:
        """Note what the pipeline consists of, as its calls left it."""
        self.conduct.look_at(self.parts.models, dtype)
        self.conduct.code.update(self.parts.code)

    def report(self) -> dict[str, Any]:
        """What both sides tell the coordinator."""
        return {
            **self.facts(),
            "remembered": self.remembered,
            "models": sorted(self.parts.models),
            "model_calls": len(self.conduct.called),
            "attention": sorted(set(attention_classes(self.parts.models).values())),
            "flags": flags(),
            "environment": environment(self.device),
            "remarks": self.remarks,
        }


def write_places(path: Path, tensors: Mapping[Place, torch.Tensor]) -> None:
    """Write tensors by place; a pipeline that recorded nothing leaves a file without tensors."""
    names = {
        f"{number:05d}|{place.name}|{place.step}": tensor for number, (place, tensor) in enumerate(tensors.items())
    }
    save_file({name: torch.view_as_real(t) if t.is_complex() else t for name, t in names.items()}, path)


def read_places(path: Path) -> dict[Place, torch.Tensor]:
    """What `write_places` wrote, in its order; empty when there is no file."""
    found: dict[Place, torch.Tensor] = {}
    for name, tensor in sorted((load_file(path) if path.is_file() else {}).items()):
        _, stage, step = name.split("|")
        found[Place(stage, None if step == "None" else int(step))] = tensor
    return found


def run_official(runner: PipelineRunner) -> dict[str, Any]:
    """Make the inputs, then run the official pipeline: float32, float64 and the production dtypes, each free and
    forced."""
    made = make_inputs(runner)
    pipeline = runner.load_pipeline(torch.float32)
    for item in runner.items:
        kept = runner.trace(pipeline, item, torch.float32, FREE)
        decoys = {place: t if place.stage == "timesteps" else noisy(t) for place, t in kept.items()}
        path = runner.shared / f"decoys.{item.key}.safetensors"
        write_places(path, decoys)
        made["files"][path.name] = sha256(path)
    announce(runner.shared / "decoys.ready", [])
    for item in runner.items:
        runner.trace(pipeline, item, torch.float32, FORCED, runner.decoys(item))
        runner.trace(pipeline, item, torch.float32, CONTROL)
    runner.look_at_parts(torch.float32)
    reference = _reference(runner, pipeline)
    del pipeline
    _production(runner)
    repo = runner.spec.get("official_repo")
    return {
        **runner.report(),
        "cases": list(runner.cases),
        "stages": runner.stages,
        "inputs": made,
        "given": _given(runner),
        "reference": reference,
        "files": imported_files(Path(repo)) if repo else {},
        "data": data_read(runner.spec, "official"),
        "sources": sources_outside_engine(),
    }


def _reference(runner: PipelineRunner, pipeline: Any) -> dict[str, str]:
    """Run the official pipeline in float64, its own casts kept, and if it can without them.

    Returns:
        ``kind``: ``float64``, or ``none`` where it does not run so; ``why``.
    """
    runner.parts.models.double()
    try:
        for item in runner.items:
            runner.trace(pipeline, item, torch.float64, f"{REFERENCE}.{FREE}")
            runner.trace(pipeline, item, torch.float64, f"{REFERENCE}.{FORCED}", runner.decoys(item))
    except (ParityError, RuntimeError) as error:
        seen = error.seen if isinstance(error, ParityError) else str(error)
        return {"kind": "none", "why": seen.strip()[:300] or type(error).__name__}
    why = "official weights and inputs in float64, the official code's own casts kept"
    return {"kind": "float64", "why": why, "without_casts": _exact(runner, pipeline)}


def _exact(runner: PipelineRunner, pipeline: Any) -> str:
    """Run the official pipeline in float64 without any cast. Returns why it does not run so, or nothing."""
    for item in runner.items:
        try:
            with runner.without_casts():
                runner.trace(pipeline, item, torch.float64, f"{EXACT}.{FREE}")
                runner.trace(pipeline, item, torch.float64, f"{EXACT}.{FORCED}", runner.decoys(item))
        except (ParityError, RuntimeError, TypeError) as error:
            seen = error.seen if isinstance(error, ParityError) else str(error)
            return seen.strip()[:300] or type(error).__name__
    return ""


def _production(runner: PipelineRunner) -> None:
    for name in runner.spec["dtypes"]:
        if name == "float32":
            continue
        dtype = getattr(torch, name)
        pipeline = runner.load_pipeline(dtype)
        for item in runner.items:
            runner.trace(pipeline, item, dtype, f"{name}.{FREE}")
            runner.trace(pipeline, item, dtype, f"{name}.{FORCED}", runner.decoys(item))
        runner.look_at_parts(dtype)
        del pipeline


def _given(runner: PipelineRunner) -> list[str]:
    """Names of what the official side records as `make_inputs` made it: handed in, not computed."""
    item = runner.whole() or runner.items[0]
    inputs = [tensor for _, tensor in leaves(runner.inputs(item))]
    kept = read_places(runner.out / f"{item.key}.{FREE}.safetensors")
    return sorted(
        {
            place.name
            for place, tensor in kept.items()
            if any(t.shape == tensor.shape and torch.equal(t.to(tensor.dtype), tensor) for t in inputs)
        }
    )


def run_port(runner: PipelineRunner) -> dict[str, Any]:
    """Run the port's pipeline: float32 and the production dtypes, each free and forced, and the self-test."""
    await_file(runner.shared / "inputs.ready", "make_inputs")
    pipeline = runner.load_pipeline(torch.float32)
    for item in runner.items:
        runner.trace(pipeline, item, torch.float32, FREE)
        runner.trace(pipeline, item, torch.float32, CONTROL)
    await_file(runner.shared / "decoys.ready", "the official pipeline")
    for item in runner.items:
        runner.trace(pipeline, item, torch.float32, FORCED, runner.decoys(item))
    if (whole := runner.whole()) is not None:
        _self_test(runner, pipeline, whole)
    repo = runner.spec.get("official_repo")
    foreign = foreign_code(runner.parts.models, Path(repo) if repo else None)
    runner.look_at_parts(torch.float32)
    kind = f"{type(pipeline).__module__}.{type(pipeline).__qualname__}"
    del pipeline
    _production(runner)
    return {
        **runner.report(),
        "class": kind,
        "foreign": foreign,
        "files": imported_files(Path(runner.spec["worktree"])),
        "data": data_read(runner.spec, "port"),
        "patches": runner.patches,
    }


def _self_test(runner: PipelineRunner, pipeline: Any, item: Item) -> None:
    runner.trace(pipeline, item, torch.float32, SELF_TESTS["initial latents"], changed="latents")
    before = _perturb_models(runner.parts.models)
    runner.trace(pipeline, item, torch.float32, SELF_TESTS["weights"], runner.decoys(item))
    with torch.no_grad():
        for parameter, value in zip(runner.parts.models.parameters(), before, strict=True):
            parameter.copy_(value)


def _perturb_models(models: torch.nn.Module) -> list[torch.Tensor]:
    """Add noise of 1 % of its spread to every weight; returns what the weights were, on the CPU."""
    before = []
    with torch.no_grad():
        for parameter in models.parameters():
            before.append(parameter.detach().to("cpu", copy=True))
            parameter.copy_(noisy(parameter, PERTURBATION))
    return before


def run_pipeline_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of a side's process in pipeline parity."""
    runner = PipelineRunner(spec, spec["side"], job, prepare(spec, spec["side"]))
    return run_official(runner) if spec["side"] == "official" else run_port(runner)
