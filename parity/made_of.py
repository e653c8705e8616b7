"""What a tensor was made of, read from the source: the lines of one function behind an argument or a returned value.

Between two calls that agree there may be code for two streams (image and text, queries and keys). The last call before
a wrong tensor is then not the one that it was made of, and the lines after that call are not those that are wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from .python_source import parsed

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_NESTED = (ast.If, ast.For, ast.While, ast.With, ast.Try)


def first_line(file: str, line: int, leaf: str, checked: Collection[int], called: str) -> int | None:
    """The first line that a value was made of, since the calls that were checked.

    Args:
        file: Of the source.
        line: Of the call that is handed the value; any line of the function if it is returned.
        leaf: Name of the value among the arguments, or what is returned (`leaves`): ``[1].mask[0]``.
        checked: Lines of the calls whose arguments and results are known to be right.
        called: Name of the module or function that is called; empty if the value is returned.

    Returns:
        None if the source does not tell, or nothing in it leads back to a checked call.
    """
    function = _function_at(file, line)
    if function is None:
        return None
    uses = _argument(function, line, leaf, called) if called else _returned(function, leaf)
    slicer = _Slice(function, checked)
    for use in uses:
        slicer.follow(use, use.lineno)
    return min(slicer.lines, default=None) if slicer.anchored else None


class _Slice:
    def __init__(self, function: _Function, checked: Collection[int]) -> None:
        self.checked = set(checked)
        self.lines: set[int] = set()
        self.anchored = False
        self.statements = sorted(_statements(function), key=lambda row: row[0].lineno)

    def follow(self, expression: ast.AST, line: int) -> None:
        """Note the lines of the assignments behind the names of an expression that stands in ``line``."""
        calls = [node for node in ast.walk(expression) if self.is_checked(node)]
        self.anchored |= bool(calls)
        inside = {id(node) for call in calls for node in ast.walk(call)}
        inside |= {id(node.value) for node in ast.walk(expression) if _is_form(node)}
        for node in ast.walk(expression):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside:
                self.name(node.id, line)

    def name(self, name: str, line: int) -> None:
        for statement, nested in reversed(self.statements):
            end = statement.end_lineno or statement.lineno
            if end >= line or name not in _assigned(statement):
                continue
            if self.seen_right(name, end, line) or _is_form(getattr(statement, "value", None)):
                return
            if statement.lineno not in self.lines:
                self.lines.add(statement.lineno)
                self.follow(statement, statement.lineno)
            if not nested and not isinstance(statement, ast.AugAssign | ast.Expr):
                return

    def seen_right(self, name: str, after: int, before: int) -> bool:
        """Whether a checked call between two lines takes the value of a name as it is."""
        for statement, _ in self.statements:
            if after < statement.lineno and (statement.end_lineno or 0) < before:
                for node in ast.walk(statement):
                    if isinstance(node, ast.Call) and self.is_checked(node):
                        values = [*node.args, *(keyword.value for keyword in node.keywords)]
                        if any(isinstance(value, ast.Name) and value.id == name for value in values):
                            self.anchored = True
                            return True
        return False

    def is_checked(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and _of_module(node) and node.lineno in self.checked


def _is_form(node: ast.AST | None) -> TypeGuard[ast.Attribute]:
    """Whether an expression asks for the shape, dtype or device of a tensor."""
    return isinstance(node, ast.Attribute) and node.attr in ("shape", "dtype", "device", "ndim")


def _of_module(call: ast.Call) -> bool:
    """Whether a call may be one of a module: ``self.norm(x)``, ``self.to_out[0](x)``, ``block(x)``; not ``F.pad``."""
    function = call.func
    while isinstance(function, ast.Attribute | ast.Subscript):
        function = function.value
    return isinstance(function, ast.Name) and function.id not in ("torch", "F", "nn", "math", "rearrange")


def _statements(function: _Function) -> Iterator[tuple[ast.stmt, bool]]:
    """The simple statements of a function, each with whether it may be skipped (a branch, a loop)."""

    def inside(body: list[ast.stmt], nested: bool) -> Iterator[tuple[ast.stmt, bool]]:
        for statement in body:
            if isinstance(statement, _NESTED):
                skipped = nested or not isinstance(statement, ast.With)
                for part in ("body", "orelse", "finalbody"):
                    yield from inside(getattr(statement, part, []), skipped)
            elif not isinstance(statement, _Function | ast.ClassDef):
                yield statement, nested

    return inside(function.body, False)


def _assigned(statement: ast.stmt) -> set[str]:
    """The names that a statement gives another value: assigned, of a part, or by a method that ends in ``_``."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        in_place = isinstance(function, ast.Attribute) and function.attr.endswith("_")
        targets = [function.value] if isinstance(function, ast.Attribute) and in_place else []
    else:
        targets = []
    found = set()
    for target in targets:
        for node in [target] if not isinstance(target, ast.Tuple | ast.List) else ast.walk(target):
            while isinstance(node, ast.Subscript | ast.Starred):
                node = node.value
            if isinstance(node, ast.Name):
                found.add(node.id)
    return found


def _argument(function: _Function, line: int, leaf: str, called: str) -> list[ast.expr]:
    """The expression of an argument of the call in a line; nothing if it cannot be told which it is."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and node.lineno == line]
    calls = [node for node in calls if called in _names(node.func)] or [node for node in calls if _of_module(node)]
    place, _, rest = leaf.removeprefix("[").partition("]")
    keyword = rest.removeprefix(".").partition("[")[0].partition(".")[0] if rest.startswith(".") else ""
    found = []
    for call in calls:
        named = [argument.value for argument in call.keywords if argument.arg == keyword]
        if named:
            found += named
        elif not keyword and place.isdigit() and int(place) < len(call.args):
            found.append(call.args[int(place)])
    return found if len(found) == 1 else []


def _names(function: ast.expr) -> set[str]:
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}


def _returned(function: _Function, leaf: str) -> list[ast.expr]:
    """What a function returns, or the part of it that the leaf names."""
    found: list[ast.expr] = []
    place = leaf.removeprefix("[").partition("]")[0]
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            value = node.value
            if isinstance(value, ast.Tuple) and place.isdigit() and int(place) < len(value.elts):
                value = value.elts[int(place)]
            found.append(value)
    return found


def _tree(file: str) -> ast.Module | None:
    try:
        return _parsed(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


_parsed = lru_cache(maxsize=16)(parsed)


def _function_at(file: str, line: int) -> _Function | None:
    """The innermost function around a line."""
    tree = _tree(file)
    around = [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, _Function) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno, default=None)
