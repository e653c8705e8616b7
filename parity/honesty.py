"""Ways to agree without having been tested, each by its name.

Everything here is judged in the coordinator, which never imports the adapter, from what the two sides reported and from
the files they left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .audit import ALLOWED, FOREIGN
from .errors import ParityError
from .facts import sha256
from .mapping_job import DERIVED
from .metrics import distance
from .outputs import moved, read_outputs
from .proof import Proof
from .sketch import fingerprint, same_values_in_any_order, sketch_distance
from .trace import Trace
from .verdict import Finding

IMPRECISE = 1e-3
"""Relative error in float32 that float32 does not explain: the reference is degraded and would excuse anything."""
REDUCED = 1 / 256
"""Smallest share of what the official model returns that has to be compared."""
PARTIAL = 1 / 2
"""Below this share, a difference that no compared output shows is no sign of masked elements."""
FEW = 16
"""So many numbers at least are compared, where the model returns twice as many."""

Tensors = Mapping[str, torch.Tensor]


def judge_conduct(official: dict[str, Any], port: dict[str, Any], official_repo: str | None) -> list[Finding]:
    """What the two sides ran and touched (see `Conduct.report`)."""
    mine, theirs = port["conduct"], official["conduct"]
    found = [*_code(mine, theirs, official_repo, port["files"])]
    for side, facts in (("official", theirs), ("port", mine)):
        owner = "the official side" if side == "official" else "the port"
        if facts["engine_changed"]:
            ours = any(name.startswith("parity.") for name in facts["engine_changed"])
            message = f"While {owner} ran, what measures it was replaced: {', '.join(facts['engine_changed'][:5])}."
            found.append(Finding("engine-changed", "fail" if ours else "investigate", message))
        if facts["interventions"]:
            message = (
                f"The adapter changes the model of {owner}, test it as it is: {'; '.join(facts['interventions'][:5])}."
            )
            found.append(Finding("adapter-changes-model", "investigate", message))
        if facts["patched"]:
            message = (
                f"The adapter puts functions of its own into the code of {owner}: {', '.join(facts['patched'][:5])}. "
                "What was compared runs them; read them."
            )
            found.append(Finding("adapter-patches-code", "pass", message))
        if facts["changed_flags"]:
            message = f"The call of {owner} changes global switches: {'; '.join(facts['changed_flags'][:5])}."
            found.append(Finding(f"{side}-changes-flags", "investigate", message))
    if mine["changed_inputs"] and set(mine["changed_inputs"]) - set(theirs["changed_inputs"]):
        names = sorted(set(mine["changed_inputs"]) - set(theirs["changed_inputs"]))
        message = f"The port changes its inputs in place ({', '.join(names)}); the official side does not."
        found.append(Finding("port-changes-inputs", "investigate", message))
    for dtype, kept in mine["dtypes"].items():
        if dtype in theirs["dtypes"].get(dtype, []) and kept and dtype not in kept:
            message = f"Asked for {dtype}, the port keeps its parameters in {', '.join(kept)}; load it in ctx.dtype."
            found.append(Finding("port-ignores-dtype", "investigate", message))
    if mine["draws"] and not theirs["draws"]:
        message = "The port draws random numbers (or sets the seed) where the official side does not: dropout left on?"
        found.append(Finding("port-draws-random", "fail", message))
    elif mine["draws"] or theirs["draws"]:
        who = "Both sides draw" if mine["draws"] else "Only the official side draws"
        message = f"{who} random numbers (or set the seed) inside the call; hand noise in as an input instead."
        found.append(Finding("random-inside", "pass" if mine["draws"] else "investigate", message))
    return found


def _code(
    mine: dict[str, Any], theirs: dict[str, Any], official_repo: str | None, files: Mapping[str, str]
) -> Iterable[Finding]:
    """Official code on the port's side, or one implementation on both."""
    repo = str(Path(official_repo).resolve()) + "/" if official_repo else None
    own = {name: file for name, file in mine["code"].items() if not name.startswith(ALLOWED)}
    foreign = [
        name for name, file in own.items() if name.split(".")[0] in FOREIGN or (repo and file and file.startswith(repo))
    ]
    if foreign:
        message = f"The port's side runs the official implementation: {', '.join(sorted(foreign)[:5])}."
        yield Finding("official-code-in-port", "fail", message)
    used = {file for name, file in theirs["code"].items() if file and not name.startswith(ALLOWED)}
    shared = [name for name, file in own.items() if name not in foreign and (file in used or name in theirs["code"])]
    if shared:
        message = f"Both sides run the same code, so nothing is compared: {', '.join(sorted(shared)[:5])}."
        yield Finding("same-code-on-both-sides", "fail", message)
    if not any(path.startswith("fastvideo/") for path in files):
        message = (
            "The port's process imported nothing from the worktree's fastvideo/ folder: what ran is not the port "
            "(an installed fastvideo, or a model written in the adapter)."
        )
        yield Finding("port-not-from-worktree", "fail", message)


def judge_weights(proof: Proof, used: Mapping[str, bool] | None) -> list[Finding]:
    """Official tensors that are nowhere in the port."""
    lost = [name for name in proof.unexpected if not name.endswith(DERIVED)]
    needed = [name for name in lost if used is not None and used.get(name)]
    if needed:
        message = f"{len(needed)} official tensors on which the output depends arrive nowhere: {', '.join(needed[:5])}."
        return [Finding("weights-not-arrived", "investigate", message)]
    return []


def judge_files(root: Path, official: dict[str, Any], port: dict[str, Any]) -> list[Finding]:
    """Whether every file is still the one that its own side wrote, and both sides read the inputs that were made.

    Raises:
        ParityError: One of them is gone, so that nothing can be judged.
    """
    found = []
    for side, facts in (("official", official), ("port", port)):
        folder = root / side
        there = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
        written: dict[str, str] = facts["written"]
        gone = sorted(set(written) - there)
        if gone:
            raise ParityError(
                f"Files that the {side} side wrote are gone: the comparison cannot be judged.",
                seen=f"{', '.join(gone[:5])} of {folder}",
                fix="Nothing but the engine may touch the folder of a run: look for what removes files in the adapter "
                "and in the port, then run the tool again.",
            )
        bad = sorted(
            {name for name in there if name not in written}
            | {name for name, digest in written.items() if sha256(folder / name) != digest}
        )
        if bad:
            message = f"Files of the {side} side are not as that side wrote them: {', '.join(bad[:5])}."
            found.append(Finding("files-changed", "fail", message))
    made: dict[str, str] = official["inputs"]["files"]
    for side, facts in (("official", official), ("port", port)):
        read: dict[str, list[str]] = facts["read"]
        bad = sorted(name for name, digests in read.items() if any(digest != made.get(name) for digest in digests))
        if bad:
            message = f"The {side} side was not given the inputs that make_inputs made: {', '.join(bad[:5])} changed."
            found.append(Finding("inputs-replaced", "fail", message))
    return found


def judge_outputs(folder: Path, key: str, official: dict[str, Any], port: dict[str, Any]) -> list[Finding]:
    """Whether the compared outputs move with what they are said to be computed from.

    Args:
        folder: Of the run.
        key: Key of the first input, on which the perturbations were run.
        official, port: What the two sides reported.
    """

    def outputs(side: str, tag: str) -> dict[str, torch.Tensor]:
        return read_outputs(folder / side, key, tag)

    truth = outputs("official", "float32" if key in official["reference"]["float32"] else "reference")
    single, mine = outputs("official", "float32"), outputs("port", "float32")
    if not any(tensor.numel() for tensor in truth.values()):
        return []
    found = [*_imprecise(single, truth), *_dtypes(single, mine), *_constant(single, mine)]
    weights = [outputs("port", f"weight.{number}") for number in range(len(port["self_test_weights"]))]
    if weights and not any(moved(after, mine) for after in weights):
        message = (
            "What call_port returns does not move when the weights of load_port's model do: it comes from elsewhere."
        )
        found.append(Finding("output-not-from-model", "fail", message))
    inputs = range(len(port["input_names"]))
    if inputs and not any(moved(outputs("official", f"input.{number}"), single) for number in inputs):
        message = "No input of make_inputs moves the official output: the calls make their own inputs, or ignore them."
        found.append(Finding("inputs-unused", "inconclusive", message))
    found += _raised(folder, key)
    found += _reduced(folder, key, single)
    return found


def _imprecise(single: Tensors, truth: Tensors) -> list[Finding]:
    for name, exact in truth.items():
        tensor = single.get(name)
        if tensor is None or tensor.shape != exact.shape or not exact.numel() or not exact.is_floating_point():
            continue
        error = distance(tensor, exact).relative_l2
        if error > IMPRECISE:
            message = (
                f"The official output {name!r} in float32 is {error:.1g} away from the float64 one: too far "
                "for rounding, so its error is no measure. call_official has to run the model in ctx.dtype as it is."
            )
            return [Finding("reference-imprecise", "inconclusive", message)]
    return []


def _dtypes(single: Tensors, mine: Tensors) -> list[Finding]:
    rows = list(zip(single.items(), mine.values(), strict=False)) if len(single) == len(mine) == 1 else []
    rows = rows or [((name, single[name]), mine[name]) for name in single if name in mine]
    for (name, theirs), own in rows:
        if own.is_floating_point() and theirs.is_floating_point() and own.dtype.itemsize < theirs.dtype.itemsize:
            message = f"Asked for float32, the port returns {name!r} in {str(own.dtype).removeprefix('torch.')}."
            return [Finding("output-dtype", "fail", message)]
    return []


def _constant(single: Tensors, mine: Tensors) -> list[Finding]:
    if any(tensor.numel() > 1 and not _flat(tensor) for tensor in single.values()):
        flat = [name for name, tensor in mine.items() if tensor.numel() > 1 and _flat(tensor)]
        if mine and len(flat) == len(mine):
            value = float(mine[flat[0]].reshape(-1)[0])
            message = f"The port returns {value:g} everywhere; the official output varies."
            return [Finding("constant-port-output", "fail", message)]
    return []


def _flat(tensor: torch.Tensor) -> bool:
    return bool((tensor == tensor.reshape(-1)[0]).all())


def _sorted(tensor: torch.Tensor, trace: Trace) -> bool:
    """Whether an output is what the model returned, with its values put in order."""
    flat = tensor.reshape(-1)
    if flat.numel() < FEW or not tensor.is_floating_point():
        return False
    rows = tensor if tensor.ndim and tensor.shape[-1] > 2 else flat
    steps = rows.diff(dim=-1)
    if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        return False
    mine = fingerprint(tensor)
    returned = [trace.tensors[index] for call in trace.calls if call.module == "" for _, index in call.outputs]
    return any(
        same_values_in_any_order(mine, theirs, 1e-6) and sketch_distance(mine, theirs) > IMPRECISE
        for theirs in returned
    )


def compared_share(trace: Trace, outputs: Tensors) -> float:
    """Elements of the outputs over those of the largest tensor that the model returned; 1 if it returned none."""
    returned = [trace.tensors[index].elements for call in trace.calls if call.module == "" for _, index in call.outputs]
    largest = max(returned, default=0)
    return sum(tensor.numel() for tensor in outputs.values()) / largest if largest else 1.0


def _raised(folder: Path, key: str) -> list[Finding]:
    found = []
    for side in ("official", "port"):
        trace = Trace.load(folder / side / f"{key}.float32.trace")
        broken = next((call for call in trace.calls if call.ended < 0), None)
        if broken is not None:
            message = (
                f"{broken.module or 'the model'} ({broken.cls}) of the {side} side raised an exception, "
                "and what called it went on; let it rise."
            )
            found.append(Finding("exception-swallowed", "investigate", message))
    return found


def _reduced(folder: Path, key: str, single: Tensors) -> list[Finding]:
    trace = Trace.load(folder / "official" / f"{key}.float32.trace")
    if any(_sorted(tensor, trace) for tensor in single.values()):
        message = (
            "call_official hands on the model's numbers sorted, which hides their places: return them as they are."
        )
        return [Finding("output-sorted", "investigate", message)]
    share, compared = compared_share(trace, single), sum(tensor.numel() for tensor in single.values())
    if compared and (share < REDUCED or (share < PARTIAL and compared < FEW)):
        message = (
            f"The official model returns {round(compared / share)} numbers and call_official hands on {compared}: "
            "return what the model returns, not a summary of it."
        )
        return [Finding("output-reduced", "investigate", message)]
    return []
