"""What a port consists of inside FastVideo, and how its parts are found in parsed modules."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Literal

State = Literal["found", "missing", "wrong", "note"]
REGISTRY = "fastvideo/registry.py"


@dataclass(frozen=True)
class Row:
    """One thing that was looked for.

    Attributes:
        id: What it is, for example ``registration``.
        state: found; missing; wrong (it is there and must not be, or is not right); note (worth knowing).
        where: ``file:line``, or the file where it belongs, or "".
        what: What was found, or what is missing and what to do.
        component: The component that it is about, where one step of the plan rests on it.
    """

    id: str
    state: State
    where: str
    what: str
    component: str = ""


@dataclass
class Wiring:
    """What the parts of a port are called, as far as they were found.

    Attributes:
        model_classes: Class names of the planned components.
        configs: Names of model config classes.
        pipeline_configs, ids, families, presets, pipelines: From the registrations.
        folders: Folders of the pipelines with those presets.
        production: File that belongs to the port -> kind of the component there, or what else it holds.
    """

    model_classes: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    pipeline_configs: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    presets: list[str] = field(default_factory=list)
    pipelines: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    production: dict[str, str] = field(default_factory=dict)


def classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Top-level classes by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def bases(node: ast.ClassDef) -> set[str]:
    """Last names of the bases."""
    return {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}


def assigned(body: list[ast.stmt], name: str) -> tuple[int, ast.expr] | None:
    """Line and value of the last assignment of ``name`` in a body."""
    found = None
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            found = (node.lineno, value)
    return found


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute in a part of a tree."""
    found = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
    return found | {item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute)}


def strings_in(node: ast.AST) -> set[str]:
    """Every literal string in a part of a tree."""
    return {item.value for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)}
