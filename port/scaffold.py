"""The files that begin the comparison of a component, from what is known of its two classes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .plan_steps import has_weights
from .records import ComponentRecord
from .templates import render
from .textsafe import clean

Side = dict[str, Any]

_USUAL = (
    "hidden_states",
    "encoder_hidden_states",
    "timestep",
    "encoder_attention_mask",
    "input_ids",
    "attention_mask",
    "pixel_values",
    "sample",
)
"""Inputs that are given although they have a default: without them nothing would be computed."""
_COUNTS = ("num_inference_steps", "num_steps", "sampling_steps", "steps")
_GROUPS = 400


@dataclass(frozen=True)
class Scaffold:
    """Text of one file.

    Attributes:
        path: Relative to the worktree.
        text: What it holds.
        role: ``adapter``, ``test`` or ``mapping``.
    """

    path: str
    text: str
    role: str


def scaffold_files(
    component: ComponentRecord, folder: str, weights: str, facts: dict[str, Any], patches: list[str]
) -> list[Scaffold]:
    """The adapter, the plain test and, for a component with weights, the mapping skeleton.

    Args:
        component: Of the plan.
        folder: Name of its folder below the official weights.
        weights: Folder of the official weights, relative to the worktree.
        facts: What the job ``signatures`` found.
        patches: Environment patches of the port.
    """
    adapter = PurePosixPath(component.adapter)
    kind = component.kind if component.kind in ("scheduler", "tokenizer") else "module"
    official, port = (
        _side(path, facts[side], component.kind)
        for path, side in ((component.official, "official"), (component.port, "port"))
    )
    inputs = _inputs(component.kind, official, port)
    names = {row["name"] for row in inputs}
    for side in (official, port):
        side["arguments"] = _arguments(side, names, component.kind)
    loader = "load_weights" if "load_weights" in facts["port"].get("has", []) else "load_state_dict"
    foreign = official["module"].split(".")[0] not in ("diffusers", "transformers")
    common = {
        "component": component.name,
        "kind": component.kind,
        "folder": folder,
        "weights": weights,
        "official": official,
        "port": port,
        "patches": "cpu-attention" in patches,
        "adapter_stem": adapter.stem,
    }
    files = [
        Scaffold(
            component.adapter,
            render(
                f"scaffold/adapter_{kind}.py.j2",
                **common,
                inputs=inputs,
                loader=loader,
                uses_weights=foreign or (component.kind != "dit" and loader == "load_state_dict"),
            ),
            "adapter",
        ),
        Scaffold(
            str(adapter.parent / f"test_{component.name}_parity.py"), render("scaffold/test.py.j2", **common), "test"
        ),
    ]
    if has_weights(component):
        files.append(
            Scaffold(
                str(adapter.parent / f"mapping_{component.name}.py"), _mapping(component, facts, official), "mapping"
            )
        )
    return files


def _side(path: str, facts: Side, kind: str) -> Side:
    module, _, name = path.rpartition(".")
    methods: dict[str, list[dict[str, str]]] = facts.get("methods", {})
    times = methods.get("set_timesteps", [])
    config = facts.get("config", "")
    # A DiT that is not written yet will have what FastVideo's base class asks for.
    unwritten = kind == "dit" and not methods
    known = ["hf_config"] if unwritten else [row["name"] for row in methods.get("__init__", [])]
    return {
        "path": path,
        "module": module,
        "name": name,
        "error": clean(facts.get("error", ""))[:300],
        "init": methods.get("__init__", []),
        "forward": methods.get("forward", []),
        "set_timesteps": times,
        "config_module": config.rpartition(".")[0],
        "config_name": config.rpartition(".")[2],
        "call": "config, hf_config=hf_config" if "hf_config" in known else "config",
        "count": next((name for name in _COUNTS if name in {row["name"] for row in times}), "num_inference_steps"),
        "device": any(row["name"] == "device" for row in times),
    }


def _inputs(kind: str, official: Side, port: Side) -> list[dict[str, str]]:
    """What make_inputs gives: what a forward requires, and the usual tensors that both take."""
    if kind == "vae":
        return [
            {"name": "video", "annotation": "float32, in [-1, 1]"},
            {"name": "latents", "annotation": "float32"},
        ]
    theirs, mine = ({row["name"] for row in side["forward"]} for side in (official, port))
    both = theirs & mine if mine else theirs
    found = [
        row
        for row in official["forward"]
        if row["name"].isidentifier() and (not row["default"] or (row["name"] in _USUAL and row["name"] in both))
    ]
    named = {row["name"] for row in found}
    if not found:
        return [{"name": "hidden_states", "annotation": "the first argument of the official forward"}]
    return [{"name": row["name"], "annotation": row["annotation"]} for row in found if row["name"] in named]


def _arguments(side: Side, inputs: set[str], kind: str) -> list[dict[str, str]]:
    """The call of a forward: inputs by name, and what else it requires."""
    rows = []
    for row in side["forward"]:
        name = row["name"]
        if not name.isidentifier():
            continue
        if name in inputs:
            rows.append({"name": name, "value": f'_on(inputs["{name}"], ctx)'})
        elif not row["default"]:
            rows.append({"name": name, "value": f'fill_in("which input is {name}")'})
        elif name == "return_dict":
            rows.append({"name": name, "value": "False"})
    if not side["forward"]:
        names = sorted(inputs)
        rows = [{"name": name, "value": f'_on(inputs["{name}"], ctx)'} for name in names]
        rows.append({"name": "unknown", "value": f'fill_in("the arguments of the forward of {side["name"]}")'})
    return rows


def _mapping(component: ComponentRecord, facts: dict[str, Any], official: Side) -> str:
    stored: dict[str, list[int]] = facts.get("stored") or facts["official"].get("tensors") or {}
    port: dict[str, list[int]] = facts["port"].get("tensors") or {}
    source = "headers of the files" if facts.get("stored") else "state dict on meta" if stored else "not known yet"
    groups: dict[str, list[str]] = defaultdict(list)
    for name in stored:
        groups[_folded(name)].append(name)
    taken = {name for name in stored if name in port}
    free: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, shape in port.items():
        if name not in taken:
            free[tuple(shape)].append(_folded(name))
    rows = []
    for folded, names in list(groups.items())[:_GROUPS]:
        shape = stored[names[0]]
        if all(name in port for name in names):
            continue
        near = list(dict.fromkeys(free.get(tuple(shape), [])))
        note = f"port tensors of this shape: {', '.join(near[:4])}" if near else "no port tensor has this shape"
        if not port:
            note = "the port's names are not known yet"
        rows.append(
            {"count": len(names), "shape": str(tuple(shape)), "note": note, "rule": "", "pattern": _pattern(folded)}
        )
    unfed = list(dict.fromkeys(_folded(name) for name in port if name not in taken))
    return render(
        "scaffold/mapping.py.j2",
        component=component.name,
        official_source=f"{len(stored)} from {source}" if stored else source,
        port_source=f"{len(port)} from the state dict on meta" if port else "not known yet",
        rows=rows,
        unfed=unfed[:_GROUPS],
    )


def _folded(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)


def _pattern(folded: str) -> str:
    return "^" + r"(\d+)".join(re.escape(part) for part in folded.split("#")).replace('"', "") + "$"
