"""Build a scheduler and walk it: by its own signatures, or through the functions of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .adapter import Adapter, Side
from .classes import accepted, import_class, parameters
from .context import Context
from .errors import ParityError

Tensor = torch.Tensor

_COUNTS = ("num_inference_steps", "num_steps", "sampling_steps", "steps")
SAMPLES = ("sample", "original_samples", "clean_latent", "latents", "x")
_TIMES = ("timestep", "timesteps", "t")
OUTPUTS = ("model_output", "velocity", "noise_pred", "v")


@dataclass(frozen=True)
class Walk:
    """One schedule that both sides build and walk.

    Attributes:
        key: Name of it in files and results.
        steps: Number of steps.
        shift: The shift of its configuration, none when the configuration has none.
        sigmas: Sigmas that are given to ``set_timesteps`` in place of a number of steps.
        mu: Shift of the resolution, where the configuration asks for one.
        config: Contents of the configuration file.
        weights: What ``ctx.official_weights`` is; holds the configuration in ``scheduler/``.
    """

    key: str
    steps: int
    shift: float | None = None
    sigmas: list[float] | None = None
    mu: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The walk as JSON."""
        return asdict(self)


class Driver:
    """Builds one side's scheduler and calls it."""

    def __init__(self, spec: Mapping[str, Any], side: Side, adapter: Adapter | None) -> None:
        self.spec = spec
        self.side: Side = side
        self.adapter = adapter

    def context(self, walk: Walk) -> Context:
        """What the adapter's functions are told for this walk; ``ctx.case`` has ``steps``, ``shift`` and ``batch``."""

        def path(name: str) -> Path | None:
            return Path(self.spec[name]) if self.spec.get(name) else None

        case: dict[str, Any] = {"steps": walk.steps, "batch": 1, "shift": walk.shift}
        if walk.mu is not None:
            case["mu"] = walk.mu
        return Context(
            device=torch.device("cpu"),
            dtype=torch.float32,
            seed=0,
            case=case,
            worktree=Path(self.spec["worktree"]),
            official_repo=path("official_repo"),
            official_weights=Path(walk.weights) if walk.weights else path("official_weights"),
            converted_weights=path("converted_weights"),
        )

    def build(self, walk: Walk, change: Mapping[str, Any] | None = None) -> Any:
        """A fresh scheduler; ``change`` replaces entries of its configuration.

        Raises:
            ParityError: It cannot be built, or what was built is no scheduler.
        """
        if self.adapter is not None:
            scheduler = held(self.adapter.call(f"load_{self.side}", self.context(walk)), self.side)
        else:
            cls = import_class(self.spec[f"{self.side}_class"])
            try:
                scheduler = held(cls(**fitted(cls.__init__, walk.config)), self.side)
            except ParityError:
                raise
            except Exception as error:
                raise ParityError(
                    f"The {self.side} scheduler cannot be constructed.",
                    seen=f"{type(error).__name__}: {str(error)[:400]}",
                    fix="Write an adapter (scaffold_component) whose load_ function builds it, then run it again.",
                ) from error
        if not change:
            return scheduler
        config = {name: value for name, value in dict(scheduler.config).items() if not name.startswith("_")}
        if not set(change) <= set(config):
            raise KeyError(f"no {sorted(change)} in its configuration")
        return type(scheduler)(**accepted(type(scheduler).__init__, {**config, **change}))

    def schedule(self, scheduler: Any, walk: Walk) -> None:
        """Set the timesteps: ``schedule_<side>(scheduler, steps, ctx)`` of the adapter, else by the signature."""
        name = f"schedule_{self.side}"
        if self.adapter is not None and self.adapter.has(name) and walk.sigmas is None:
            self.adapter.call(name, scheduler, walk.steps, self.context(walk))
            return
        known = parameters(scheduler.set_timesteps)
        keywords: dict[str, Any] = {"device": "cpu"} if "device" in known else {}
        if walk.mu is not None and "mu" in known:
            keywords["mu"] = walk.mu
        if walk.sigmas is not None:
            import numpy

            scheduler.set_timesteps(sigmas=numpy.array(walk.sigmas), **keywords)
            return
        count = next((name for name in _COUNTS if name in known), None)
        if count is not None:
            scheduler.set_timesteps(**{count: walk.steps}, **keywords)
        else:
            scheduler.set_timesteps(walk.steps, **keywords)

    def roll(self, scheduler: Any, walk: Walk, latents: Tensor, velocities: Tensor) -> Tensor:
        """The latents after each step (N, ...), from given model outputs."""
        known = parameters(scheduler.step)
        keywords: dict[str, Any] = {"return_dict": False} if "return_dict" in known else {}
        found = []
        for number, timestep in enumerate(scheduler.timesteps):
            torch.manual_seed(number)
            latents = _first(_bound(scheduler.step, known, velocities[number], timestep, latents, keywords))
            found.append(latents)
        return torch.stack(found)


def held(value: Any, side: str) -> Any:
    """The scheduler itself, or the one that a wrapping module holds.

    Raises:
        ParityError: There is none.
    """
    for candidate in (value, *vars(value).values()) if hasattr(value, "__dict__") else (value,):
        if callable(getattr(candidate, "set_timesteps", None)) and callable(getattr(candidate, "step", None)):
            return candidate
    raise ParityError(
        f"load_{side} gives no scheduler.",
        seen=f"a {type(value).__module__}.{type(value).__qualname__} without set_timesteps and step",
        fix="Return an object with set_timesteps(...), step(model_output, timestep, sample), timesteps and sigmas, or "
        "a module that holds one; wrap a sampler that is a function in a small class.",
    )


def fitted(constructor: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor takes of a configuration; ``shift`` and ``flow_shift`` are two names of one thing."""
    found = accepted(constructor, {name: value for name, value in config.items() if not name.startswith("_")})
    known = parameters(constructor)
    for mine, theirs in (("shift", "flow_shift"), ("flow_shift", "shift")):
        if mine in known and mine not in config and theirs in config and theirs not in known:
            found[mine] = config[theirs]
    return found


def add_noise(scheduler: Any, name: str, sample: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """``add_noise`` or ``scale_noise``, whatever its parameters are called."""
    method = getattr(scheduler, name)
    known = parameters(method)
    keywords: dict[str, Any] = {}
    for names, value in ((SAMPLES, sample), (_TIMES, times), (("noise",), noise)):
        chosen = next((item for item in names if item in known), None)
        if chosen is None:
            raise TypeError(f"{name}{tuple(known)} has none of the parameters {names}")
        keywords[chosen] = value
    return _first(method(**keywords))


def _bound(
    step: Any, known: Mapping[str, Any], output: Tensor, timestep: Tensor, sample: Tensor, keywords: dict[str, Any]
) -> Any:
    named = {}
    for names, value in ((OUTPUTS, output), (_TIMES, timestep), (SAMPLES, sample)):
        chosen = next((item for item in names if item in known), None)
        if chosen is None:
            return step(output, timestep, sample, **keywords)
        named[chosen] = value
    return step(**named, **keywords)


def _first(value: Any) -> Tensor:
    while isinstance(value, (tuple, list)):
        value = value[0]
    found = value if isinstance(value, Tensor) else getattr(value, "prev_sample", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"step returned a {type(value).__name__}, in which there is no tensor prev_sample")
    return found
