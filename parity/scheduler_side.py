"""One side of a scheduler check: tables, rollouts and noised samples of every walk, kept as tensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .adapter import load_adapter
from .audit import FOREIGN, data_read, environment, imported_files, reset_flags
from .errors import ParityError
from .facts import sha256
from .job import Job
from .patches import apply_patches
from .scheduler_drive import Driver, Walk, add_noise
from .side_process import single_process_environment

Tensors = dict[str, torch.Tensor]

NOISE = ("add_noise", "scale_noise")
_OWN = ("step", "set_timesteps", *NOISE)


def scheduler_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Walk one side's scheduler.

    Args:
        spec: As for ``check_scheduler``, with ``side``, ``walks``, ``inputs`` and ``out`` (files), and for trials
            ``changes`` (configuration entries to replace) and ``tables`` (file with the tables to walk on, or none).
        job: Not used; progress is the coordinator's.
    """
    torch.set_num_threads(1)
    side = spec["side"]
    if side == "official" and spec.get("official_repo"):
        sys.path.insert(0, spec["official_repo"])
    patches: list[str] = []
    if side == "port":
        single_process_environment()
        patches = apply_patches(spec["patches"])
    adapter = load_adapter(Path(spec["adapter"])) if spec.get("adapter") else None
    driver = Driver(spec, side, adapter)
    walks = [Walk(**row) for row in spec["walks"]]
    inputs = load_file(spec["inputs"])
    reset_flags()
    tensors: Tensors = {}
    errors: dict[str, str] = {}
    if spec.get("changes"):
        tables = load_file(spec["tables"]) if spec.get("tables") else {}
        for walk in walks:
            _trials(driver, walk, inputs, spec["changes"], tables, tensors, errors)
        save_file(tensors, spec["out"])
        return {"errors": errors}
    scheduler: Any = None
    for walk in walks:
        scheduler = _walk(driver, walk, inputs, tensors, errors) or scheduler
    if scheduler is None:
        scheduler = driver.build(walks[0])
    save_file(tensors, spec["out"])
    repo = Path(spec["official_repo"]) if spec.get("official_repo") else None
    root = Path(spec["worktree"]) if side == "port" else repo
    return {
        "errors": errors,
        "class": f"{type(scheduler).__module__}.{type(scheduler).__qualname__}",
        "methods": [name for name in (*NOISE, "scale_model_input") if callable(getattr(scheduler, name, None))],
        "facts": _facts(scheduler),
        "config": _config(scheduler),
        "foreign": _foreign(scheduler, repo) if side == "port" else [],
        "dtypes": _dtypes(driver, walks[0], inputs),
        "files": imported_files(root) if root else {},
        "data": data_read(spec, side),
        "environment": environment(torch.device("cpu")),
        "patches": patches,
        "written": sha256(Path(spec["out"])),
    }


def _walk(driver: Driver, walk: Walk, inputs: Tensors, tensors: Tensors, errors: dict[str, str]) -> Any:
    """Everything of one walk; an error ends it and is kept under its name."""
    try:
        scheduler = driver.build(walk)
        driver.schedule(scheduler, walk)
        steps = len(scheduler.timesteps)
        for name in ("timesteps", "sigmas"):
            value = getattr(scheduler, name, None)
            if value is not None:
                tensors[f"{walk.key}.{name}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
        velocities = inputs["velocities"]
        if steps > len(velocities):
            raise ValueError(f"{steps} timesteps for {walk.steps} steps")
        outputs = velocities[:steps]
        tensors[f"{walk.key}.float32"] = driver.roll(scheduler, walk, inputs["latents"].clone(), outputs).contiguous()
        # A pipeline sets the timesteps again for the next video: nothing of this one may be left.
        driver.schedule(scheduler, walk)
        tensors[f"{walk.key}.again"] = driver.roll(scheduler, walk, inputs["latents"].clone(), outputs).contiguous()
        wide = driver.build(walk)
        driver.schedule(wide, walk)
        try:
            start = inputs["latents"].double()
            tensors[f"{walk.key}.float64"] = driver.roll(wide, walk, start, outputs.double()).contiguous()
        except Exception as error:
            errors[f"{walk.key}.float64"] = _said(error)
        _noised(driver, walk, inputs, tensors, errors)
        return scheduler
    except Exception as error:
        errors[walk.key] = _said(error)
        return None


def _noised(driver: Driver, walk: Walk, inputs: Tensors, tensors: Tensors, errors: dict[str, str]) -> None:
    """A batch of two samples, noised to the first and a middle timestep, in float32 and float64."""
    scheduler = driver.build(walk)
    driver.schedule(scheduler, walk)
    times = scheduler.timesteps[[0, len(scheduler.timesteps) // 2]]
    for name in NOISE:
        if not callable(getattr(scheduler, name, None)):
            continue
        for dtype in (torch.float32, torch.float64):
            key = f"{walk.key}.{name}.{str(dtype).removeprefix('torch.')}"
            try:
                sample, noise = inputs["image"].to(dtype), inputs["noise"].to(dtype)
                tensors[key] = add_noise(scheduler, name, sample, noise, times).contiguous()
            except Exception as error:
                errors[key] = _said(error)
    if callable(getattr(scheduler, "scale_model_input", None)):
        try:
            scaled = scheduler.scale_model_input(inputs["latents"].clone(), scheduler.timesteps[0])
            tensors[f"{walk.key}.scale_model_input.float32"] = scaled.contiguous()
        except Exception as error:
            errors[f"{walk.key}.scale_model_input.float32"] = _said(error)


def _trials(
    driver: Driver,
    walk: Walk,
    inputs: Tensors,
    changes: list[dict[str, Any]],
    tables: Tensors,
    tensors: Tensors,
    errors: dict[str, str],
) -> None:
    """The walk once for each change of the configuration, on given tables where there are some."""
    for number, change in enumerate(changes):
        key = f"{walk.key}.trial.{number}"
        try:
            scheduler = driver.build(walk, change)
            driver.schedule(scheduler, walk)
            for name in ("timesteps", "sigmas"):
                if f"{walk.key}.{name}" in tables:
                    setattr(scheduler, name, tables[f"{walk.key}.{name}"].clone())
                value = getattr(scheduler, name, None)
                if value is not None:
                    tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
            velocities = inputs["velocities"][: len(scheduler.timesteps)]
            tensors[f"{key}.float32"] = driver.roll(scheduler, walk, inputs["latents"].clone(), velocities).contiguous()
        except Exception as error:
            errors[key] = _said(error)


def _dtypes(driver: Driver, walk: Walk, inputs: Tensors) -> dict[str, str]:
    """In which dtype the first step answers, by the dtype of sample and model output."""
    found = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        try:
            scheduler = driver.build(walk)
            driver.schedule(scheduler, walk)
            velocities = inputs["velocities"][: len(scheduler.timesteps)].to(dtype)
            answer = driver.roll(scheduler, walk, inputs["latents"].to(dtype), velocities)
            found[name] = str(answer.dtype).removeprefix("torch.")
        except Exception as error:
            found[name] = f"error: {_said(error)}"
    return found


def _facts(scheduler: Any) -> dict[str, float]:
    """Numbers that pipelines read from a scheduler."""
    found = {}
    for name in ("init_noise_sigma", "sigma_min", "sigma_max", "order"):
        value = getattr(scheduler, name, None)
        if isinstance(value, (int, float, torch.Tensor)) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _config(scheduler: Any) -> dict[str, Any]:
    """Plain entries of its configuration."""
    config = getattr(scheduler, "config", None)
    items = dict(config).items() if isinstance(config, Mapping) else ()
    return {
        str(name): list(value) if isinstance(value, tuple) else value
        for name, value in items
        if not str(name).startswith("_") and isinstance(value, (bool, int, float, str, list, tuple, type(None)))
    }


def _foreign(scheduler: Any, repo: Path | None) -> list[str]:
    """Where the port's scheduler runs the official one's code. Mixins for configuration files are no algorithm."""
    found = []
    for name in _OWN:
        method = getattr(type(scheduler), name, None)
        if method is not None and _official(str(getattr(method, "__module__", "")), repo):
            found.append(f"{name} is {method.__module__}.{method.__qualname__}")
    for name, value in vars(scheduler).items():
        if callable(getattr(value, "set_timesteps", None)) and _official(type(value).__module__, repo):
            found.append(f"its attribute {name!r} is a {type(value).__module__}.{type(value).__qualname__}")
    home = sys.modules.get(type(scheduler).__module__)
    for name, value in vars(home).items() if home else ():
        is_scheduler = isinstance(value, type) and hasattr(value, "set_timesteps") and hasattr(value, "step")
        if is_scheduler and _official(value.__module__, repo):
            found.append(f"{type(scheduler).__module__} imports the scheduler {value.__module__}.{name}")
    return found


def _official(module: str, repo: Path | None) -> bool:
    if module.split(".")[0] in FOREIGN:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return bool(repo and file and Path(file).resolve().is_relative_to(repo.resolve()))


def _said(error: BaseException) -> str:
    if isinstance(error, ParityError):
        return f"{error.what} {error.seen}"[:600]
    return f"{type(error).__name__}: {str(error)[:400]}"
