"""Load one side's model through the adapter, call it on the shared inputs, and keep what it returns."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import collecting
from .adapter import Adapter, Side, load_adapter
from .attention import one_backend
from .audit import reset_flags
from .conduct import Conduct
from .context import Context
from .errors import ParityError
from .facts import sha256
from .items import Item, choose, items
from .job import Job
from .leaves import leaves, map_tensors
from .observe import switches
from .outputs import storable
from .seal import Seal
from .side_process import prepare


class Runner:
    """Runs one side's model on the shared inputs.

    Attributes:
        shared: Folder through which the two sides hand each other inputs and facts.
        out: Folder of what this side leaves.
        written: File name -> SHA-256 of what this side wrote.
        read: File name -> the digests under which this side read it.
        remarks: What the report shall say although it changes no verdict: rows with ``code`` and ``message``.
        cast_inputs: Whether the adapter leaves it to the runner to move inputs to the device and dtype.
        around: Entered around each call of the adapter.
        switches: Global numeric switches as the last load left them.
    """

    def __init__(self, spec: dict[str, Any], side: Side, job: Job, patches: list[str]) -> None:
        self.spec = spec
        self.side: Side = side
        self.job = job
        self.patches = patches
        self.shared = Path(spec["shared"])
        self.out = Path(spec["out"])
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = _device(spec["device"])
        self.seal = Seal()
        self.conduct = Conduct(Path(spec["adapter"]))
        self.written: dict[str, str] = {}
        self.read: dict[str, list[str]] = {}
        self.adapter: Adapter = load_adapter(Path(spec["adapter"]))
        self.cases = choose(self.adapter.cases, spec["cases"])
        self.items = items(list(self.cases), spec["seeds"])
        self.remarks: list[dict[str, str]] = []
        self.cast_inputs = False
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        self.switches: dict[str, Any] = {}
        self._loaded: Callable[[], Any] = lambda: None

    def context(self, item: Item, dtype: torch.dtype) -> Context:
        spec = self.spec
        worktree = Path(spec["worktree"])
        return Context(
            device=self.device,
            dtype=dtype,
            seed=item.seed,
            case=self.cases[item.case],
            worktree=worktree,
            official_repo=Path(spec["official_repo"]) if spec.get("official_repo") else None,
            official_weights=Path(spec["official_weights"]) if spec.get("official_weights") else None,
            converted_weights=Path(spec["converted_weights"]) if spec.get("converted_weights") else None,
        )

    def load(self, dtype: torch.dtype) -> torch.nn.Module:
        """Load the model in ``dtype`` with the flags reset, and put it in eval mode."""
        reset_flags()
        self._release()
        torch.manual_seed(0)
        with self.conduct.meddling.watching():
            model = self.adapter.load_model(self.side, self.context(self.items[0], dtype))
        collecting.as_usual()
        self._loaded = weakref.ref(model)
        if model.training:
            self.remark(
                "training-mode", f"load_{self.side} returned a model in training mode; it was set to eval mode."
            )
            model.eval()
        self.switches = switches()
        changed = self.switches["default_dtype"]
        if changed != "float32":
            self.remark("default-dtype", f"load_{self.side} left torch's default dtype at {changed}; it was set back.")
        reset_flags()
        return model

    def _release(self) -> None:
        """Give back what earlier models and forwards left in the allocator: the other side shares the card."""
        if self._loaded() is not None or self.device.type == "cuda":  # looking through all objects takes 0.3 s
            gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def mapping_of_adapter(self) -> dict[str, Any] | None:
        """The adapter's own ``param_mapping``, if it has one."""
        if not self.adapter.has("param_mapping"):
            return None
        value = self.adapter.call("param_mapping", self.context(self.items[0], torch.float32))
        if not isinstance(value, dict):
            raise ParityError(
                "param_mapping of the adapter did not return a dict.",
                seen=f"it returned {type(value).__name__}",
                fix="Return pattern -> template or (template, index, total), as FastVideo's param_names_mapping.",
            )
        return value

    def unused(self) -> tuple[str, ...]:
        """Patterns of official keys that the port leaves out on purpose."""
        return self.adapter.unused(self.context(self.items[0], torch.float32))

    def unused_among(self, names: Iterable[str]) -> set[str]:
        """Those of the official names that the port leaves out on purpose."""
        patterns = self.unused()
        return {name for name in names if any(re.match(pattern, name) for pattern in patterns)}

    def remark(self, code: str, message: str) -> None:
        if not any(entry["code"] == code and entry["message"] == message for entry in self.remarks):
            self.remarks.append({"code": code, "message": message})

    def inputs(self, item: Item) -> Any:
        path = self.shared / f"inputs.{item.key}.pt"
        digests, digest = self.read.setdefault(path.name, []), sha256(path)
        if digest not in digests:
            digests.append(digest)
        return torch.load(path, weights_only=True)

    def call(self, model: torch.nn.Module, item: Item, dtype: torch.dtype, inputs: Any = None) -> Any:
        """One forward on fresh copies of the inputs, with the same random state on both sides."""
        ctx = self.context(item, dtype)
        bundle = self.inputs(item) if inputs is None else inputs
        reset_flags()
        torch.manual_seed(item.seed)
        if self.cast_inputs:
            return self._watched(model, _to(bundle, ctx.device, ctx.dtype), ctx)
        try:
            return self._watched(model, map_tensors(bundle, torch.Tensor.clone), ctx)
        except ParityError as error:
            if not _is_dtype_or_device_clash(error):
                raise
            torch.manual_seed(item.seed)
            try:
                output = self._watched(model, _to(bundle, ctx.device, ctx.dtype), ctx)
            except ParityError:
                raise error from error.__cause__  # of the adapter as it is: moving the inputs was not what it lacks
        self.cast_inputs = True
        self.remark(
            "inputs-cast",
            f"call_{self.side} does not move its inputs to ctx.device and ctx.dtype; they were moved for it.",
        )
        return output

    def _watched(self, model: torch.nn.Module, bundle: Any, ctx: Context) -> Any:
        with one_backend(self.spec), self.conduct.watching(model, bundle), self.around():
            return self.adapter.call(f"call_{self.side}", model, bundle, ctx)

    def keep(self, output: Any, item: Item, tag: str) -> None:
        """Write an output as ``<key>.<tag>.safetensors``."""
        try:
            tensors = {name or "output": storable(tensor, name) for name, tensor in leaves(output, strict=True)}
        except TypeError as error:
            raise ParityError(
                f"call_{self.side} returned something that cannot be compared.",
                seen=str(error),
                fix="Return dense tensors, or dicts, lists, tuples or dataclasses of them.",
            ) from error
        path = self.out / f"{item.key}.{tag}.safetensors"
        save_file(tensors, path)
        self._wrote(path)

    def _wrote(self, *paths: Path) -> None:
        """Note what a file holds, so that nobody else can put another one in its place unseen."""
        self.written.update({path.name: sha256(path) for path in paths})

    def facts(self) -> dict[str, Any]:
        """What the coordinator needs in order to believe this side."""
        return {"conduct": self.conduct.report(self.seal.broken()), "written": self.written, "read": self.read}


def open_side(spec: dict[str, Any], side: Side, job: Job) -> Runner:
    """Prepare this process for one side and load the adapter."""
    return Runner(spec, side, job, prepare(spec, side))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ParityError(
            "The device is not one that torch knows.", seen=f"device={name!r}", fix="Use 'cpu', 'cuda' or 'cuda:N'."
        ) from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ParityError(
            "The device is not there.",
            seen=f"device={name!r}; torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices",
            fix="Use device='cpu', or run on a machine with a GPU and a CUDA build of torch.",
        )
    return device


def _is_dtype_or_device_clash(error: ParityError) -> bool:
    return isinstance(error.__cause__, (RuntimeError, TypeError, ValueError)) and bool(
        re.search(
            r"dtype|same device|on the same device|Input type|scalar type|cuda.*cpu|cpu.*cuda", str(error.__cause__)
        )
    )


def _to(bundle: Any, device: torch.device, dtype: torch.dtype) -> Any:
    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device, copy=True)

    return map_tensors(bundle, move)
