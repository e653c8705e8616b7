"""What a pipeline shows of its stages, and what it goes on with: its own tensor, or one that was put in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .context import Context
from .errors import ParityError

STAGES = ("text", "latents", "timesteps", "denoising", "decode")
"""Every pipeline has these; a part of one is called ``stage.part``, for example ``text.negative``."""
_NAME = re.compile(rf"({'|'.join(STAGES)})(\.[a-z][a-z0-9_]*)?")
_MOST = 10_000


def stages_of(name: str, case: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages that case ``name`` runs: those of its entry ``stages``, or all.

    A case with ``"stages": ["text"]`` tries one more prompt without the cost of denoising it.

    Raises:
        ParityError: The entry is no list of stages.
    """
    wanted = case.get("stages", STAGES)
    if not isinstance(wanted, (list, tuple)) or not wanted or not set(map(str, wanted)) <= set(STAGES):
        raise ParityError(
            "A case names stages that no pipeline has.",
            seen=f"CASES[{name!r}]['stages'] = {wanted!r:.200}",
            fix=f"Give a list of {', '.join(STAGES)}, or leave it out for all of them.",
        )
    return tuple(stage for stage in STAGES if stage in wanted)


@dataclass(frozen=True)
class Place:
    """A point of a pipeline.

    Attributes:
        name: ``stage`` or ``stage.part``.
        step: Denoising step, from 0; none outside the loop.
    """

    name: str
    step: int | None = None

    @property
    def stage(self) -> str:
        """The stage that it belongs to."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.name} at step {self.step}"


class Recorder:
    """Keeps what one run of a pipeline records.

    Args:
        injected: What the run goes on with at each place, in place of its own tensors; none: its own.
        changed: Stage whose tensors are perturbed, for the self-test.
        wide: Whether floating tensors go on in float64 (the reference).
        fitting: Whether only tensors of the run's own shape are injected.

    Attributes:
        kept: Place -> the run's own tensor, on the CPU, in order.
        echoed: Places at which the run recorded exactly what was injected there.
        repeated: Places that were recorded more than once; the first tensor counts.
        misfits: Places at which the injected tensor has another shape than the run's own.
    """

    def __init__(
        self,
        injected: Mapping[Place, torch.Tensor] | None = None,
        changed: str | None = None,
        wide: bool = False,
        fitting: bool = False,
    ) -> None:
        self.injected = injected
        self.changed = changed
        self.wide = wide
        self.fitting = fitting
        self.kept: dict[Place, torch.Tensor] = {}
        self.echoed: list[str] = []
        self.repeated: list[str] = []
        self.misfits: list[Place] = []
        self._returned: dict[Place, torch.Tensor] = {}

    def record(self, name: str, tensor: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Keep ``tensor`` and return the one to go on with; see `PipelineContext.record`."""
        place = _checked(name, tensor, step)
        if place in self.kept:
            self.repeated.append(str(place))
            return self._returned[place]
        if len(self.kept) >= _MOST:
            raise ParityError(
                "Too many tensors were recorded.", seen=f"more than {_MOST}", fix="Record each stage once per step."
            )
        if self.changed == place.stage and tensor.is_floating_point():
            tensor = noisy(tensor)
        self.kept[place] = tensor.detach().to("cpu", copy=True).contiguous()
        self._returned[place] = self._next(place, tensor)
        return self._returned[place]

    def _next(self, place: Place, tensor: torch.Tensor) -> torch.Tensor:
        other = self.injected.get(place) if self.injected is not None else None
        dtype = torch.float64 if self.wide and tensor.is_floating_point() else tensor.dtype
        if other is None:
            return tensor.to(dtype)
        if other.shape != tensor.shape:
            self.misfits.append(place)
            return tensor.to(dtype) if self.fitting else other.to(tensor.device, dtype)
        theirs = other.to(tensor.dtype)
        if place.stage == "timesteps" and not torch.equal(theirs.double(), other.double()):
            # In the port's dtype it would be another schedule, and the steps would be blamed for it.
            return other.to(tensor.device)
        if place.stage != "timesteps" and other.is_floating_point() and torch.equal(theirs, self.kept[place]):
            self.echoed.append(str(place))
        return other.to(tensor.device, dtype)


def _checked(name: str, tensor: torch.Tensor, step: int | None) -> Place:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParityError(
            "The pipeline has no stage of this name.",
            seen=f"ctx.record({name!r:.80}, ...)",
            fix=f"Use {', '.join(STAGES)}, or a part of one such as 'text.negative'.",
        )
    if not isinstance(tensor, torch.Tensor):
        raise ParityError(
            "Something that is no tensor was recorded.",
            seen=f"ctx.record({name!r}, {type(tensor).__name__})",
            fix="Record tensors; a list of tensors is recorded one by one, under part names.",
        )
    loop = name.partition(".")[0] == "denoising"
    if loop != (step is not None) or (step is not None and (not isinstance(step, int) or step < 0)):
        raise ParityError(
            "The step of a recorded tensor is not right.",
            seen=f"ctx.record({name!r}, ..., step={step!r})",
            fix="Give step=0, 1, 2 ... in the denoising stage, and no step in the others.",
        )
    return Place(name, step)


def noisy(tensor: torch.Tensor, size: float = 1e-2) -> torch.Tensor:
    """``tensor`` with seeded noise of ``size`` times its spread; zeros stay zeros, because padding is made of them."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    wide = tensor.detach().double()
    there = wide != 0
    spread = float(wide[there].std()) if int(there.sum()) > 1 else float(wide.abs().sum())
    generator = torch.Generator().manual_seed(31)
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    return (wide + size * (spread or 1.0) * noise * there).to(tensor.dtype)


@dataclass(frozen=True)
class PipelineContext(Context):
    """The ``ctx`` of a pipeline's adapter: a `Context` that also takes what the stages give."""

    recorder: Recorder | None = field(default=None, repr=False)

    def record(self, stage: str, tensor: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Show the tensor that a stage gave and return the one with which the pipeline has to go on.

        Args:
            stage: ``text``, ``latents``, ``timesteps``, ``denoising`` or ``decode``, or a part of one
                (``text.negative``, ``denoising.model``). Both sides use the same names.
            tensor: What the stage gave, of any shape and dtype; ``denoising`` is the latents after a step.
            step: Number of the denoising step, from 0; only in ``denoising``.

        Returns:
            The tensor itself, or while the check injects, a tensor of its shape, dtype and device made from what the
            official side recorded there.

        Raises:
            ParityError: The name, the tensor or the step is not right, or the call is not one of a ``call_`` function.
        """
        if self.recorder is None:
            raise ParityError(
                "Something was recorded outside a call of the pipeline.",
                seen=f"ctx.record({stage!r:.80}, ...)",
                fix="Call ctx.record with the ctx of call_official or call_port, inside that call.",
            )
        return self.recorder.record(stage, tensor, step)
