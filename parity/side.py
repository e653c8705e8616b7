"""One side of a component comparison: load the model, run it on every input, keep outputs and traces."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import collecting
from .adapter import Adapter, Side, load_adapter
from .attention import align_environment, one_backend
from .attention_rows import attention_in_rows
from .audit import (
    all_sources,
    attention_classes,
    data_read,
    environment,
    flags,
    foreign_code,
    imported_files,
    reset_flags,
)
from .conduct import Conduct
from .context import Context
from .errors import ParityError
from .facts import sha256
from .handover import announce, await_file
from .healing import Excuse, capturing, healing
from .job import Job
from .leaves import leaves, map_tensors, replace_leaf
from .lift import lifted
from .mapping import plan
from .metrics import distance
from .observe import observing, switches
from .outputs import moved, read_outputs, storable
from .patches import apply_patches
from .proof import Proof, prove
from .seal import Seal
from .tracing import tracing
from .weights import Entry, entries_of_model, tensors_of_model
from .weights_used import asked_again, weights_used

PERTURBATION = 1e-2
"""Size of the self-test's perturbations, relative to the standard deviation of what is perturbed."""
_MOST_INPUTS = 16
_OTHER_KERNEL = 1e-4
"""Relative distance that two correct kernels do not reach in float32; a perturbation of 1 % passes it by far."""


@dataclass(frozen=True)
class Item:
    """One input: a case with a seed; ``key`` is its file name."""

    key: str
    case: str
    seed: int


def items(cases: list[str], seeds: list[int]) -> list[Item]:
    """All inputs of a comparison, in order."""
    return [Item(f"{number}-{seed}", case, seed) for number, case in enumerate(cases) for seed in seeds]


class Runner:
    """Runs one side's model on the shared inputs."""

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
        self.cases = _choose(self.adapter.cases, spec["cases"])
        self.items = items(list(self.cases), spec["seeds"])
        self.remarks: list[dict[str, str]] = []
        self.cast_inputs = False
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        self.excuses = [Excuse(**row) for row in spec.get("excuses", [])]
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
        if not self.cast_inputs:
            try:
                return self._watched(model, map_tensors(bundle, torch.Tensor.clone), ctx)
            except ParityError as error:
                if not _is_dtype_or_device_clash(error):
                    raise
                self.cast_inputs = True
                self.remark(
                    "inputs-cast",
                    f"call_{self.side} does not move its inputs to ctx.device and ctx.dtype; they were moved for it.",
                )
        torch.manual_seed(item.seed)
        return self._watched(model, _to(bundle, ctx.device, ctx.dtype), ctx)

    def _watched(self, model: torch.nn.Module, bundle: Any, ctx: Context) -> Any:
        with one_backend(self.spec), self.conduct.watching(model, bundle), self.around():
            return self.adapter.call(f"call_{self.side}", model, bundle, ctx)

    def _attention(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Around a forward: in float64 a GPU has the math kernel alone, and aligned sides ask for it."""
        wide = self.device.type == "cuda" and dtype == torch.float64
        return attention_in_rows(wide or bool(self.spec.get("align_backends")))

    def run(self, model: torch.nn.Module, item: Item, dtype: torch.dtype, tag: str, inputs: Any = None) -> None:
        """One forward whose outputs are kept as ``<key>.<tag>.safetensors``."""
        with torch.no_grad(), self._attention(dtype):
            self.keep(self.call(model, item, dtype, inputs), item, tag)

    def run_traced(
        self,
        model: torch.nn.Module,
        item: Item,
        dtype: torch.dtype,
        tag: str,
        sketches: bool = True,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        inputs: Any = None,
    ) -> int:
        """The same, with a trace beside it and the call inside ``around()``. Returns the number of module calls."""
        inputs = self.inputs(item) if inputs is None else inputs
        self.around = around
        try:
            with torch.no_grad(), self._attention(dtype), tracing(model, sketches=sketches) as trace:
                output = self.call(model, item, dtype, inputs)
        finally:
            self.around = nullcontext
        path = self.out / f"{item.key}.{tag}.trace"
        trace.save(path)
        self._wrote(path.with_suffix(".json"), path.with_suffix(".npy"))
        self.keep(output, item, tag)
        return sum("::" not in call.module for call in trace.calls)

    def observe(self, model: torch.nn.Module, dtype: torch.dtype, tag: str) -> Any:
        """One more forward on the first input, to see in which dtypes and with which attention kernels it computes.

        Returns:
            Its output; none when it could not be observed.
        """
        path = self.out / f"{tag}.observed.json"
        try:
            with torch.no_grad(), self._attention(dtype), observing(model, self.device.type) as seen:
                output = self.call(model, self.items[0], dtype)
        except (ParityError, RuntimeError) as error:
            reason = (error.seen if isinstance(error, ParityError) else str(error)).strip().splitlines()
            self.remark("not-observed", f"No dtype audit in {tag}: {reason[0][:200] if reason else error!r}")
            return None
        seen.flags["load"] = self.switches
        seen.save(path)
        self._wrote(path)
        return output

    def control(self, model: torch.nn.Module, item: Item, observed: Any = None) -> None:
        """A second float32 run of ``item`` with its seed; ``observed`` is one if it has the bits of the first."""
        if observed is not None:
            self.keep(observed, item, "control")
        first, second = (self.written.get(f"{item.key}.{tag}.safetensors") for tag in ("float32", "control"))
        if first != second:
            self.run(model, item, torch.float32, "control")

    def _wrote(self, *paths: Path) -> None:
        """Note what a file holds, so that nobody else can put another one in its place unseen."""
        self.written.update({path.name: sha256(path) for path in paths})

    def facts(self) -> dict[str, Any]:
        """What the coordinator needs in order to believe this side."""
        return {"conduct": self.conduct.report(self.seal.broken()), "written": self.written, "read": self.read}

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

    def input_names(self) -> list[str]:
        """The leaves of the inputs that are perturbed, one at a time."""
        return [name for name, tensor in leaves(self.inputs(self.items[0])) if tensor.numel()][:_MOST_INPUTS]

    def perturbed(self, item: Item, name: str) -> Any:
        """Inputs with that leaf changed."""
        return replace_leaf(self.inputs(item), name, perturb)


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


def _choose(cases: dict[str, dict[str, Any]], wanted: list[str] | None) -> dict[str, dict[str, Any]]:
    if wanted is None:
        return cases
    unknown = [name for name in wanted if name not in cases]
    if unknown or not wanted:
        raise ParityError(
            "The adapter has no such case." if unknown else "No case was chosen.",
            seen=f"asked for {wanted}; CASES has {', '.join(cases)}",
            fix="Name cases of the adapter, or leave 'cases' out to run all of them.",
        )
    return {name: cases[name] for name in wanted}


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


def perturb(tensor: torch.Tensor) -> torch.Tensor:
    """Floats move by 1 % of their spread; integers are mirrored in their range; a mask loses its last element."""
    generator = torch.Generator().manual_seed(20)
    if tensor.is_floating_point():
        spread = tensor.double().std() if tensor.numel() > 1 else tensor.abs().double().mean()
        scale = float(spread) or 1.0
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        return tensor + PERTURBATION * scale * noise
    flat = tensor.reshape(-1)
    if tensor.dtype == torch.bool or (int(flat.min()) >= 0 and int(flat.max()) <= 1):
        last = tensor[..., -1:] if tensor.ndim else tensor
        last.copy_(1 - last.long())
        return tensor
    if int(flat.min()) == int(flat.max()):
        return tensor + 1
    return flat.max() + flat.min() - tensor


def run_official(runner: Runner) -> dict[str, Any]:
    """Make the inputs, then run the official model: float32 twice, float64, and the production dtypes."""
    spec = runner.spec
    made = make_inputs(runner)
    production = flags()
    model = runner.load(torch.float32)
    announce(runner.shared / "entries.json", [entry.to_json() for entry in entries_of_model(model).values()])
    calls = 0
    for item in runner.items:
        calls += runner.run_traced(model, item, torch.float32, "float32")
    _controls(runner, model, runner.observe(model, torch.float32, "float32"))
    used = _responses(runner, model)
    backends = attention_classes(model)
    runner.conduct.look_at(model, torch.float32)
    reference = _reference(runner, model)
    del model
    for name in spec["dtypes"]:
        if name != "float32":
            model = runner.load(getattr(torch, name))
            for item in runner.items:
                runner.run_traced(model, item, getattr(torch, name), name, sketches=False)
            runner.observe(model, getattr(torch, name), name)
            runner.conduct.look_at(model, getattr(torch, name))
            del model
    return {
        **runner.facts(),
        "cases": list(runner.cases),
        "inputs": made,
        "module_calls": calls,
        "reference": reference,
        "weights_used": used,
        "attention": backends,
        "flags": production,
        "environment": environment(runner.device),
        "files": imported_files(Path(spec["official_repo"])) if spec.get("official_repo") else {},
        "data": data_read(spec, "official"),
        "sources": [path for path in all_sources() if not path.startswith(str(Path(__file__).parent))],
        "remarks": runner.remarks,
    }


def make_inputs(runner: Runner) -> dict[str, Any]:
    """Call ``make_inputs`` once per case and seed and hand the bundles over on disk."""
    digests: dict[str, set[str]] = {}
    for item in runner.items:
        ctx = runner.context(item, torch.float32)
        torch.manual_seed(item.seed)
        bundle = runner.adapter.call("make_inputs", ctx)
        if not isinstance(bundle, dict) or not leaves(bundle):
            raise ParityError(
                "make_inputs did not return a dict with at least one tensor.",
                seen=f"case {item.case!r}: {type(bundle).__name__} with {len(leaves(bundle))} tensors",
                fix="Return a dict of CPU tensors, floats in float32.",
            )
        for name, tensor in leaves(bundle):
            if tensor.device.type != "cpu" or tensor.dtype in (torch.bfloat16, torch.float16):
                runner.remark("inputs-not-float32", f"make_inputs gives {name!r} as {tensor.dtype} on {tensor.device}.")
        bundle = map_tensors(bundle, lambda tensor: tensor.detach().cpu().clone())
        _save(bundle, runner.shared / f"inputs.{item.key}.pt")
        digests.setdefault(item.case, set()).add(
            json.dumps(
                [
                    (name, str(t.dtype), list(t.shape), t.double().flatten().tolist()[:4096])
                    for name, t in leaves(bundle)
                ]
            )
        )
    seeds = len(runner.spec["seeds"])
    files = {path.name: sha256(path) for path in (runner.shared / f"inputs.{i.key}.pt" for i in runner.items)}
    announce(runner.shared / "inputs.ready", list(runner.cases))
    return {
        "files": files,
        "ignore_seed": [case for case, seen in digests.items() if seeds > 1 and len(seen) == 1],
        "alike": [
            [first, second]
            for first, second in combinations(digests, 2)
            if digests[first] == digests[second] and runner.cases[first] == runner.cases[second]
        ],
    }


def _save(bundle: Any, path: Path) -> None:
    try:
        torch.save(bundle, path)
        torch.load(path, weights_only=True)
    except Exception as error:
        raise ParityError(
            "make_inputs returned something that cannot be handed to another process.",
            seen=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}",
            fix="Return only tensors, numbers, strings and dicts, lists or tuples of them.",
        ) from error


def _reference(runner: Runner, model: torch.nn.Module) -> dict[str, Any]:
    """Run the official model in float64 (its own casts kept); where that cannot be, learn its rounding in float32.

    Returns:
        ``kind`` (``float64``, ``float32`` or ``mixed``), ``why``, and ``float32``: keys of the inputs without float64.
    """
    failed: list[Item] = []
    why = ""
    model.double()
    for item in runner.items:
        try:
            runner.run_traced(model, item, torch.float64, "reference")
        except (ParityError, RuntimeError) as error:
            seen = error.seen if isinstance(error, ParityError) else str(error)
            why = why or (seen.strip().splitlines()[0][:200] if seen.strip() else type(error).__name__)
            failed.append(item)
    exact = [item for item in runner.items if item not in failed]
    if exact:
        _without_casts(runner, model, exact)
    full = "official weights and inputs in float64, the official code's own casts kept"
    if not failed:
        return {"kind": "float64", "why": full, "float32": []}
    _rounded(runner, model, failed)
    where = sorted({item.case for item in failed})
    runner.remark("no-float64", f"The official model does not run in float64 (case {', '.join(where)}): {why}")
    rest = "the float32 output is the reference, its rounding measured by changing last bits of weights and inputs"
    text = f"{rest}, since float64 failed: {why}"
    if exact:
        text = f"{full}; in case {', '.join(where)} {text}"
    return {"kind": "mixed" if exact else "float32", "why": text, "float32": [item.key for item in failed]}


def _rounded(runner: Runner, model: torch.nn.Module, chosen: list[Item]) -> None:
    """Run the official model with the last bits of weights and inputs changed at random: an estimate of its rounding.

    Random rounding of the data in place of the arithmetic (Monte Carlo arithmetic, Parker 1997).
    """
    model.float()  # the values came from float32, so nothing was lost on the way through float64
    generator = torch.Generator().manual_seed(11)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        signs = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor.device, torch.float32)
        return tensor * (1 + 2.0**-23 * signs)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    for item in chosen:
        runner.run_traced(model, item, torch.float32, "rounded", inputs=map_tensors(runner.inputs(item), change))


def _without_casts(runner: Runner, model: torch.nn.Module, chosen: list[Item]) -> None:
    """Run the float64 model once more with its casts lifted; where that fails there is no second reference.

    Only the adapter's call is lifted: what is around it resets the default dtype.
    """
    try:
        for item in chosen:
            runner.run_traced(model, item, torch.float64, "lifted", around=lifted)
    except (ParityError, RuntimeError) as error:
        seen = error.seen if isinstance(error, ParityError) else str(error)
        reason = seen.strip().splitlines()[0][:200] if seen.strip() else type(error).__name__
        runner.remark("no-lifted-reference", f"The official model does not run with its casts lifted: {reason}")


def run_capture(runner: Runner) -> dict[str, Any]:
    """Run the official model in float32 once more and keep the tensors of the excuses."""
    model = runner.load(torch.float32)
    for item in runner.items:
        with torch.no_grad(), capturing(model, runner.excuses, runner.shared, item.key):
            runner.call(model, item, torch.float32)
    return {}


def run_healed(runner: Runner) -> dict[str, Any]:
    """Run the port in float32 once more, with official tensors in the places of the excuses."""
    model = runner.load(torch.float32)
    for item in runner.items:
        with healing(model, runner.excuses, runner.shared, item.key):
            runner.run_traced(model, item, torch.float32, "float32")
    return runner.facts()


def _controls(runner: Runner, model: torch.nn.Module, observed: Any) -> None:
    """Every input once more with its seed, the observed output counting as the first input's."""
    for item in runner.items:
        runner.control(model, item, observed if item is runner.items[0] else None)


def _responses(runner: Runner, model: torch.nn.Module) -> dict[str, bool] | None:
    """Outputs with each input perturbed: an input that one side ignores and the other uses is a finding.

    The run of the first floating input also tells which weights the output depends on. With gradients a model may
    choose other kernels, so that output is kept only if it moved by far more than rounding; else the input runs again.

    Returns:
        What `weights_used` says.
    """
    item = runner.items[0]
    names = runner.input_names()
    floats = {name for name, tensor in leaves(runner.inputs(item)) if tensor.is_floating_point() and tensor.numel() > 1}
    shared = next((name for name in names if name in floats), None)

    def forward(inputs: Any) -> tuple[dict[str, bool] | None, Any]:
        return weights_used(model, lambda: runner.call(model, item, torch.float32, inputs))

    used = None if shared else forward(None)[0]
    for number, name in enumerate(names):
        inputs, tag = runner.perturbed(item, name), f"input.{number}"
        if name == shared:
            used, output = forward(inputs)
            if output is not None:
                runner.keep(output, item, tag)
                if _far(runner, item, tag):
                    continue
        runner.run(model, item, torch.float32, tag, inputs)
    return used


def _far(runner: Runner, item: Item, tag: str) -> bool:
    """Whether every output is further from the unperturbed one than another kernel could bring it."""
    before, after = (read_outputs(runner.out, item.key, name) for name in ("float32", tag))
    return before.keys() == after.keys() and all(
        after[name].shape == tensor.shape and distance(after[name], tensor).relative_l2 > _OTHER_KERNEL
        for name, tensor in before.items()
    )


def _moved(runner: Runner, model: torch.nn.Module) -> bool:
    """Whether the first input gives another output than the one that was kept, or none."""
    item = runner.items[0]
    try:
        with torch.no_grad():
            output = leaves(runner.call(model, item, torch.float32))
    except ParityError:
        return True
    found = {name or "output": storable(tensor, name) for name, tensor in output}
    return moved(found, read_outputs(runner.out, item.key, "float32"))


def run_port(runner: Runner) -> dict[str, Any]:
    """Run the port: float32 twice, the self-test's perturbations, and the production dtypes."""
    spec = runner.spec
    await_file(runner.shared / "inputs.ready", "make_inputs")
    production = flags()
    model = runner.load(torch.float32)
    calls = 0
    for item in runner.items:
        calls += runner.run_traced(model, item, torch.float32, "float32")
    _controls(runner, model, runner.observe(model, torch.float32, "float32"))
    used = _responses(runner, model)
    used = used and asked_again(model, used, lambda: _moved(runner, model))
    tested = _perturb_weights(runner, model, used)
    proof = _prove(runner, model)
    foreign = foreign_code(model, Path(spec["official_repo"]) if spec.get("official_repo") else None)
    backends = attention_classes(model)
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    runner.conduct.look_at(model, torch.float32)
    del model
    for name in spec["dtypes"]:
        if name != "float32":
            model = runner.load(getattr(torch, name))
            for item in runner.items:
                runner.run_traced(model, item, getattr(torch, name), name, sketches=False)
            runner.observe(model, getattr(torch, name), name)
            runner.conduct.look_at(model, getattr(torch, name))
            del model
    return {
        **runner.facts(),
        "class": cls,
        "module_calls": calls,
        "proof": proof.to_json(),
        "weights_used": used,
        "self_test_weights": tested,
        "input_names": runner.input_names(),
        "module_map": runner.adapter.module_map,
        "foreign": foreign,
        "attention": backends,
        "flags": production,
        "environment": environment(runner.device),
        "files": imported_files(Path(spec["worktree"])),
        "data": data_read(spec, "port"),
        "patches": runner.patches,
        "remarks": runner.remarks,
    }


def _perturb_weights(runner: Runner, model: torch.nn.Module, used: dict[str, bool] | None) -> list[str]:
    """Run the port with one weight perturbed at a time: the first, a middle and the last one that is used."""
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.numel() and (used is None or used.get(name))
    ]
    if not named:
        return []
    chosen = sorted({0, len(named) // 2, len(named) - 1})
    item = runner.items[0]
    for number, index in enumerate(chosen):
        parameter = named[index][1]
        before = parameter.detach().clone()
        with torch.no_grad():
            spread = float(before.double().std()) if before.numel() > 1 else 0.0
            scale = spread or float(before.abs().double().mean()) or 1.0
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(before.shape, generator=generator).to(before.device, before.dtype)
            parameter.add_(PERTURBATION * scale * noise)
        runner.run(model, item, torch.float32, f"weight.{number}")
        with torch.no_grad():
            parameter.copy_(before)
    return [named[index][0] for index in chosen]


def _prove(runner: Runner, model: torch.nn.Module) -> Proof:
    """Prove by value that the official model's tensors are in the port."""
    rules = runner.mapping_of_adapter() or getattr(model, "param_names_mapping", None)
    await_file(runner.shared / "entries.json", "load_official")
    rows = json.loads((runner.shared / "entries.json").read_text())
    official = {row["name"]: Entry.from_json(row) for row in rows}
    planned = plan(rules, official) if isinstance(rules, dict) and rules else None
    buffers = {name for name, _ in model.named_buffers()}
    patterns = runner.unused()
    unused = {name for name in official if any(re.match(pattern, name) for pattern in patterns)}
    return prove(official, tensors_of_model(model), planned, buffers=buffers, unused=unused)


def single_process_environment() -> None:
    """What FastVideo's distributed set-up reads, for a group of one; what is already set stays."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    defaults = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def prepare(spec: dict[str, Any], side: Side) -> list[str]:
    """Prepare this process for one side: threads, paths, FastVideo's environment; returns what was patched."""
    torch.set_num_threads(max(1, int(spec.get("threads", 1))))
    align_environment(spec)
    if side == "official":
        if spec.get("official_repo"):
            sys.path.insert(0, spec["official_repo"])
        return []
    single_process_environment()
    return apply_patches(spec["patches"])


def open_side(spec: dict[str, Any], side: Side, job: Job) -> Runner:
    """Prepare this process for one side and load the adapter."""
    return Runner(spec, side, job, prepare(spec, side))


def run_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Job of a side's process in component parity."""
    runner = open_side(spec, spec["side"], job)
    if runner.excuses:
        return run_capture(runner) if spec["side"] == "official" else run_healed(runner)
    return run_official(runner) if spec["side"] == "official" else run_port(runner)
