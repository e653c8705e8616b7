"""Job: what two classes look like: signatures, files, configuration class, and the names of their tensors."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

import torch

from .audit import reset_flags
from .children import Child, wait_for
from .classes import NoSuchName, import_class, parameters
from .errors import ParityError
from .headers import read_headers
from .job import Job
from .patches import apply_patches
from .side_process import single_process_environment

_METHODS = ("forward", "encode", "decode", "set_timesteps", "step", "__call__")
_MOST_TENSORS = 20000


def signatures(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Look at both classes, each in its interpreter; a class that is not there yet is a fact, not an error.

    Args:
        spec: ``official_class`` and ``port_class`` (import paths), ``weights_folder`` (folder of the component, or
            none), ``worktree``, ``official_repo``, ``python``, ``official_python``, ``patches``.
        job: Where progress goes.

    Returns:
        ``official`` and ``port``: see ``signature_side``. ``stored``: name -> shape in the official files.
    """
    job.progress(1, 3, "importing both classes")
    children = {}
    for side in ("official", "port"):
        python = (spec.get("official_python") if side == "official" else None) or spec["python"]
        folder = job.run_dir / f"{side}.process"
        children[side] = Child(python, "signature_side", folder, {**spec, "side": side}, Path(spec["worktree"]))
    wait_for(list(children.values()), lambda: None)
    value: dict[str, Any] = {side: child.value() for side, child in children.items()}
    value["stored"] = {}
    if spec.get("weights_folder"):
        with contextlib.suppress(ParityError):
            entries = read_headers(Path(spec["weights_folder"])).entries
            value["stored"] = {name: list(item.shape) for name, item in list(entries.items())[:_MOST_TENSORS]}
    job.progress(3, 3, "done")
    return value


def signature_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """One class.

    Returns:
        ``error`` ("" when it imports), ``absent`` (beside an error: whether only the name is wrong), ``file``,
        ``line``, ``is_module``, ``methods`` (name -> rows of ``name``, ``kind``, ``default``, ``annotation``;
        ``__init__`` too), ``has`` (names of loaders it has), ``config`` (import path of the class of its ``config``
        parameter), ``tensors`` (name -> shape, when it can be built on meta).
    """
    side = spec["side"]
    if side == "official" and spec.get("official_repo"):
        sys.path.insert(0, spec["official_repo"])
    if side == "port":
        single_process_environment()
        apply_patches(spec["patches"])
    try:
        cls = import_class(spec[f"{side}_class"])
    except ParityError as error:
        return {"error": f"{error.what.rstrip('.')}: {error.seen}"[:600], "absent": isinstance(error, NoSuchName)}
    home = inspect.getmodule(cls)
    try:
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        line = 0
    config = _config_class(cls)
    return {
        "error": "",
        "file": str(getattr(home, "__file__", "") or ""),
        "line": line,
        "is_module": isinstance(cls, type) and issubclass(cls, torch.nn.Module),
        "methods": {
            name: _rows(getattr(cls, name)) for name in ("__init__", *_METHODS) if callable(getattr(cls, name, None))
        },
        "has": [name for name in ("load_weights", "param_names_mapping", "from_pretrained") if hasattr(cls, name)],
        "config": f"{config.__module__}.{config.__qualname__}" if config else "",
        "tensors": _tensors(cls, config, spec.get("weights_folder")),
    }


def _rows(function: Any) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "default": "" if item.default is inspect.Parameter.empty else repr(item.default)[:60],
            "annotation": "" if item.annotation is inspect.Parameter.empty else _annotation(item.annotation),
        }
        for name, item in parameters(function).items()
    ]


def _annotation(value: Any) -> str:
    return (value if isinstance(value, str) else inspect.formatannotation(value))[:80]


def _config_class(cls: Any) -> Any:
    """The class of the constructor's ``config``, as FastVideo's models have it."""
    if "config" not in parameters(cls.__init__):
        return None
    try:
        found = typing.get_type_hints(cls.__init__).get("config")
    except Exception:
        name = parameters(cls.__init__)["config"].annotation
        found = getattr(inspect.getmodule(cls), name, None) if isinstance(name, str) else name
    return found if isinstance(found, type) and hasattr(found, "update_model_arch") else None


def _tensors(cls: Any, config: Any, folder: str | None) -> dict[str, list[int]]:
    """Names and shapes of the state dict, on the meta device; empty where the class cannot be built there."""
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        return {}
    file = Path(folder) / "config.json" if folder else None
    try:
        told = json.loads(file.read_text()) if file and file.is_file() else {}
        if config is not None:
            # FastVideo's layers ask for their process groups when they are built.
            distributed = importlib.import_module("fastvideo.distributed")
            distributed.maybe_init_distributed_environment_and_model_parallel(1, 1)
        with torch.device("meta"):
            if config is not None:
                settings = config()
                settings.update_model_arch(dict(told))
                extra = {"hf_config": told} if "hf_config" in parameters(cls.__init__) else {}
                model = cls(settings, **extra)
            elif hasattr(cls, "config_class") and cls.config_class is not None:
                model = cls(cls.config_class(**told))
            elif hasattr(cls, "from_config"):
                model = cls.from_config(told)
            else:
                model = cls()
        found = {name: list(value.shape) for name, value in model.state_dict().items()}
        return dict(list(found.items())[:_MOST_TENSORS])
    except Exception:  # a class that wants more than this is built by the person who fills in the adapter
        return {}
    finally:
        reset_flags()
