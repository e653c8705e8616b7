"""Load an adapter from its path and check that it keeps the contract."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from .context import Context
from .errors import ParityError
from .patches import advice

Side = Literal["official", "port"]

_REQUIRED = {
    "load_official": ["ctx"],
    "load_port": ["ctx"],
    "make_inputs": ["ctx"],
    "call_official": ["model", "inputs", "ctx"],
    "call_port": ["model", "inputs", "ctx"],
}
_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
MAX_CASES = 64
"""Most entries of ``CASES``: with more a check does not end in a day."""

MODULE_NAME = "_fastvideo_port_adapter"
"""What the adapter is called among the imported modules."""


class Adapter:
    """An adapter file that has been loaded and checked."""

    def __init__(self, path: Path, module: ModuleType) -> None:
        self.path = path
        self._module = module

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """The adapter's ``CASES``, or one case called ``default``."""
        cases = getattr(self._module, "CASES", None)
        if cases is None:
            return {"default": {}}
        if not isinstance(cases, dict) or not cases or not all(isinstance(value, dict) for value in cases.values()):
            raise ParityError(
                "CASES of the adapter is not a dict of dicts with at least one entry.",
                seen=f"{self.path}: CASES = {cases!r:.200}",
                fix='Write CASES = {"small": {...}, "odd": {...}}, or leave it out.',
            )
        if len(cases) > MAX_CASES:
            raise ParityError(
                "CASES of the adapter has more entries than a check can run.",
                seen=f"{self.path}: {len(cases)} cases",
                fix=f"Keep the {MAX_CASES} that differ most; a small and an odd one are usual.",
            )
        return {str(name): dict(value) for name, value in cases.items()}

    @property
    def module_map(self) -> dict[str, str]:
        """The adapter's ``MODULE_MAP``: port module name -> official module name. Empty when it has none."""
        mapping = getattr(self._module, "MODULE_MAP", None) or {}
        return {str(port): str(official) for port, official in mapping.items()}

    def unused(self, ctx: Context) -> tuple[str, ...]:
        """Patterns (`re.match`) of official keys that the port leaves out on purpose: ``UNUSED`` or ``unused(ctx)``."""
        value = self.call("unused", ctx) if self.has("unused") else getattr(self._module, "UNUSED", ())
        patterns = (value,) if isinstance(value, str) else value
        try:
            return tuple(re.compile(pattern).pattern for pattern in patterns)
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise ParityError(
                "UNUSED of the adapter is not a tuple of regular expressions.",
                seen=f"{self.path}: {value!r:.200} ({error})",
                fix=r'Write UNUSED = (r"^vision_model\.encoder\.layers\.31\.",), or leave it out.',
            ) from error

    def has(self, name: str) -> bool:
        """Whether the adapter defines the optional function ``name``."""
        return callable(getattr(self._module, name, None))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of the adapter's functions; an exception in it becomes a `ParityError` that names the line."""
        function: Callable[..., Any] = getattr(self._module, name)
        try:
            return function(*arguments)
        except ParityError:
            raise
        except torch.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info()
            raise ParityError(
                f"{name} ran out of GPU memory.",
                seen=f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB; {str(error).splitlines()[0][:300]}",
                fix="Use a smaller case, fewer dtypes, or device='cpu'; check which process holds the card.",
            ) from error
        except (Exception, SystemExit) as error:
            raise ParityError(
                f"{name} of the adapter raised {type(error).__name__}.",
                seen=f"{error!s:.600}\n{_user_frames(error)}",
                fix=f"Repair {name} in {self.path} (or the code it calls) and run the tool again."
                + (advice(error) if name.endswith("_port") else ""),
            ) from error

    def load_model(self, side: Side, ctx: Context) -> torch.nn.Module:
        """Load one side's model.

        Raises:
            ParityError: The function raised, or did not return a `torch.nn.Module`.
        """
        model = self.call(f"load_{side}", ctx)
        if not isinstance(model, torch.nn.Module):
            raise ParityError(
                f"load_{side} did not return a torch.nn.Module.",
                seen=f"it returned {type(model).__module__}.{type(model).__qualname__}",
                fix="Return the model itself; wrap a scheduler or function in a small nn.Module.",
            )
        return model


def _user_frames(error: BaseException) -> str:
    """The last frames of the traceback, without those of this engine; of torch's own only the last one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_HERE)]
    own = [frame for frame in frames if not frame.filename.startswith(_TORCH)]
    shown = own[-4:] + [frame for frame in frames[-1:] if frame not in own]
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in shown)


def load_adapter(path: Path, optional: tuple[str, ...] = ()) -> Adapter:
    """Load the adapter file at ``path``, which may lack the functions in ``optional``.

    Raises:
        ParityError: The file is absent, does not import, or lacks a function of the contract.
    """
    if not path.is_file():
        raise ParityError(
            "The adapter file does not exist.",
            seen=str(path),
            fix="Write it there: load_official, load_port, make_inputs, call_official, call_port.",
        )
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except ParityError:  # it is not the adapter that the run began with
        raise
    except (Exception, SystemExit) as error:
        where = f"line {error.lineno}" if isinstance(error, SyntaxError) else _user_frames(error).strip()
        raise ParityError(
            f"The adapter does not import: {type(error).__name__}.",
            seen=f"{path}: {error!s:.400} ({where})",
            fix="Repair the adapter. Import a side's packages inside its load_ function: the other may lack them.",
        ) from error
    problems = []
    for name, parameters in _REQUIRED.items():
        function = getattr(module, name, None)
        if function is None and name in optional:
            continue
        if not callable(function):
            problems.append(f"{name}({', '.join(parameters)}) is missing")
        elif not _accepts(function, len(parameters)):
            problems.append(f"{name} does not take ({', '.join(parameters)})")
    if problems:
        raise ParityError(
            "The adapter does not keep the contract.",
            seen=f"{path}: {'; '.join(problems)}",
            fix="Define the five functions: load_official(ctx), load_port(ctx), make_inputs(ctx), "
            "call_official(model, inputs, ctx), call_port(model, inputs, ctx).",
        )
    return Adapter(path, module)


def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True
