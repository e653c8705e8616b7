"""The usual slips in plain Python code: one statement of a function written otherwise, in memory, while it is tried.

Torch calls can be changed as they are made (`mutations`); an index, a condition or a factor of a solver is Python's own
and shows in no torch call. So its code is compiled again with one small change. Files are only read.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

from .python_source import parsed

_SHOWN = 90
"""Characters of code in the words of a change, if a smaller part of the statement says it too."""
_ROUNDINGS = ("round", "rint", "floor", "ceil", "trunc")
_NUMBERS = (0.5, 1.0, 2.0)
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
_OTHER_OPERATORS: Mapping[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
}
_OTHER_COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}


@dataclass(frozen=True)
class CodeChange:
    """One statement of a function written otherwise.

    Attributes:
        words: The new code and the old.
        file, line: Where the statement stands.
        rank: 0 for the plainest changes.
        function, code: The function and what it runs in place of its own code.
    """

    words: str
    file: str
    line: int
    rank: int
    function: FunctionType
    code: CodeType

    @contextmanager
    def made(self) -> Iterator[None]:
        """In the block the function runs the changed code."""
        before = self.function.__code__
        self.function.__code__ = self.code
        try:
            yield
        finally:
            self.function.__code__ = before


@dataclass(frozen=True)
class _Slot:
    """A node's place in its parent."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


@dataclass(frozen=True)
class _Edit:
    rank: int
    slot: _Slot
    new: ast.AST
    statement: ast.stmt


def code_changes(functions: Mapping[FunctionType, set[int]]) -> Iterator[CodeChange]:
    """Every small change of the statements that ran, the plainest first.

    Args:
        functions: Function -> numbers of the lines of it that ran. One whose source cannot be read is left out, and so
            is what stands in a ``while`` loop: changed, it may not end.
    """
    found: list[tuple[_Edit, FunctionType, ast.FunctionDef]] = []
    for function, lines in functions.items():
        tree = _tree(function)
        definition = _definition(function, tree) if tree is not None else None
        if tree is not None and definition is not None:
            found += [(edit, function, definition) for edit in _edits(definition, lines, _compared(tree))]
    for edit, function, definition in sorted(found, key=lambda row: row[0].rank):
        change = _compiled(edit, function, definition)
        if change is not None:
            yield change


def _tree(function: FunctionType) -> ast.Module | None:
    try:
        return parsed(Path(function.__code__.co_filename).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _definition(function: FunctionType, tree: ast.Module) -> ast.FunctionDef | None:
    code = function.__code__
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(row.lineno for row in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                node.decorator_list = []
                return node
    return None


def _compared(tree: ast.Module) -> dict[str, list[str]]:
    """Name -> the strings that the file compares it with: its other possible values."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [part for other in node.comparators for part in ast.walk(other)]
            texts = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
            found.setdefault(_last_name(node.left), []).extend(texts)
    return {name: list(dict.fromkeys(texts)) for name, texts in found.items() if name}


def _last_name(node: ast.AST) -> str:
    return getattr(node, "attr", "") or getattr(node, "id", "")


def _compiled(edit: _Edit, function: FunctionType, definition: ast.FunctionDef) -> CodeChange | None:
    file, line = function.__code__.co_filename, edit.statement.lineno
    shown = _shown(edit)
    before = ast.unparse(shown or edit.slot.node)
    ast.fix_missing_locations(ast.copy_location(edit.new, edit.slot.node))
    edit.slot.put(edit.new)
    try:
        # The class around it gives ``super()`` its cell.
        holder = ast.ClassDef(name="_", bases=[], keywords=[], body=[definition], decorator_list=[])
        holder.type_params = []  # type: ignore[attr-defined]  # Python 3.12
        module = ast.Module(body=[ast.copy_location(holder, definition)], type_ignores=[])
        words = "left out" if isinstance(edit.new, ast.Pass) else ast.unparse(shown or edit.new)
        code = next(
            (c for c in _codes(compile(module, file, "exec", dont_inherit=True)) if c.co_name == definition.name), None
        )
    except (SyntaxError, ValueError, TypeError):
        return None
    finally:
        edit.slot.put(edit.slot.node)
    if code is None or code.co_freevars != function.__code__.co_freevars or words == before:
        return None
    said = f"`{before}` left out" if words == "left out" else f"`{words}` in place of `{before}`"
    return CodeChange(said, file, line, edit.rank, function, code)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _shown(edit: _Edit) -> ast.AST | None:
    """The largest part around the change that is short enough to be read; of a compound statement its head alone."""
    parts: list[ast.AST] = [] if hasattr(edit.statement, "body") else [edit.statement]
    parents = {id(slot.node): slot.parent for slot in _inside(edit.statement)}
    node: ast.AST | None = edit.slot.parent
    chain = []
    while node is not None and node is not edit.statement:
        chain.append(node)
        node = parents.get(id(node))
    parts += [part for part in reversed(chain) if isinstance(part, ast.expr)]
    return next((part for part in parts if len(ast.unparse(part)) <= _SHOWN), parts[-1] if parts else None)


def _edits(definition: ast.FunctionDef, lines: set[int], compared: Mapping[str, list[str]]) -> Iterator[_Edit]:
    nodes = list(ast.walk(definition))
    names = sorted({n.id for n in nodes if isinstance(n, ast.Name)} - {"self"})
    attributes = sorted({n.attr for n in nodes if isinstance(n, ast.Attribute)})
    for slot in _statements(definition):
        statement = slot.node
        assert isinstance(statement, ast.stmt)
        if isinstance(statement, (ast.Raise, ast.Assert)) or not lines & set(_header(statement)):
            continue
        if isinstance(statement, (ast.Assign, ast.AugAssign)):
            yield _Edit(1, slot, ast.Pass(), statement)
        for inner in _inside(statement):
            for rank, new in itertools.chain(
                _conditions(inner), _numbers(inner), _parts(inner), _moved(inner), _texts(inner, compared)
            ):
                yield _Edit(rank, inner, new, statement)
            for new in _kin(inner, names, attributes):
                yield _Edit(3, inner, new, statement)


def _header(statement: ast.stmt) -> range:
    """The lines of a statement, without those of the statements in it."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else (statement.end_lineno or statement.lineno)
    return range(statement.lineno, max(last, statement.lineno) + 1)


def _children(node: ast.AST) -> Iterator[_Slot]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield _Slot(node, field, None, value)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield _Slot(node, field, index, item)


def _statements(node: ast.AST) -> Iterator[_Slot]:
    for slot in _children(node):
        if isinstance(slot.node, (ast.While, ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(slot.node, ast.stmt):
            yield slot
        if isinstance(slot.node, (ast.stmt, ast.excepthandler)):
            yield from _statements(slot.node)


def _inside(node: ast.AST) -> Iterator[_Slot]:
    """The expressions of a statement: not what stands in its body, nor what is assigned to, nor annotations."""
    for slot in _children(node):
        skipped = slot.field in _BODIES or slot.field in ("annotation", "type_comment", "targets")
        if skipped or (slot.field == "target" and isinstance(node, (ast.AugAssign, ast.For, ast.AnnAssign))):
            continue
        if isinstance(slot.node, ast.expr):
            yield slot
        if isinstance(slot.node, (ast.expr, ast.keyword)) and not isinstance(slot.node, ast.JoinedStr):
            yield from _inside(slot.node)


def _conditions(slot: _Slot) -> Iterator[tuple[int, ast.AST]]:
    """Comparisons, negations and choices the other way."""
    node = slot.node
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _OTHER_COMPARISONS.get(type(node.ops[0]), ()):
            yield 1 if isinstance(node.ops[0], ast.Eq) else 0, ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.UnaryOp):
        yield 0, node.operand
    elif isinstance(node, ast.BoolOp):
        for left_out in node.values:
            rest = [value for value in node.values if value is not left_out]
            yield 1, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        yield 1, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.IfExp):
        yield from ((0, node.body), (0, node.orelse), (0, ast.IfExp(node.test, node.orelse, node.body)))
    if slot.field == "test" and isinstance(node, ast.expr) and not isinstance(node, (ast.Compare, ast.UnaryOp)):
        yield 0, ast.UnaryOp(ast.Not(), node)


def _numbers(slot: _Slot) -> Iterator[tuple[int, ast.AST]]:
    """Other operators, other constants."""
    node = slot.node
    if isinstance(node, ast.BinOp):
        for other in _OTHER_OPERATORS.get(type(node.op), ()):
            yield (0 if isinstance(node.op, (ast.Add, ast.Sub)) else 1), ast.BinOp(node.left, other(), node.right)
        if isinstance(node.op, (ast.Sub, ast.Div)):
            yield 1, ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        value = node.value
        others = [value + 1, value - 1, 0] if isinstance(value, int) else [*_NUMBERS, 0.0]
        for number in dict.fromkeys(others):
            if number != value and not (number == 0 and isinstance(slot.parent, ast.BinOp)):
                yield 0, ast.Constant(number)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield 0, ast.Constant(not node.value)


def _parts(slot: _Slot) -> Iterator[tuple[int, ast.AST]]:
    """An operand, a call or an argument left out; another rounding."""
    node = slot.node
    if isinstance(node, ast.BinOp):
        yield from ((1, node.left), (1, node.right))
    elif isinstance(node, ast.Call):
        function = node.func
        if len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            yield 1, node.args[0]
        if isinstance(function, ast.Attribute):
            if not node.args:
                yield 1, function.value
            if function.attr in _ROUNDINGS:
                for name in _ROUNDINGS:
                    if name != function.attr:
                        yield 1, ast.Call(ast.Attribute(function.value, name, ast.Load()), node.args, node.keywords)
        for left_out in node.keywords:
            rest = [keyword for keyword in node.keywords if keyword is not left_out]
            yield 1, ast.Call(function, node.args, rest)
        if isinstance(function, ast.Name) and function.id in ("min", "max"):
            yield from ((1, argument) for argument in node.args)
    elif isinstance(node, ast.Slice):
        for lower, upper in ((None, node.upper), (node.lower, None)):
            if (lower, upper) != (node.lower, node.upper):
                yield 2, ast.Slice(lower, upper, node.step)


def _moved(slot: _Slot) -> Iterator[tuple[int, ast.AST]]:
    """One more, one less, one minus it, its negative."""
    node, parent = slot.node, slot.parent
    value = isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(
        getattr(node, "ctx", None), ast.Load
    )
    reads = isinstance(parent, (ast.BinOp, ast.AugAssign, ast.Compare, ast.UnaryOp)) or slot.field in ("slice", "args")
    if value and reads:
        assert isinstance(node, ast.expr)
        one = ast.Constant(1)
        yield 2, ast.BinOp(node, ast.Add(), one)
        yield 2, ast.BinOp(node, ast.Sub(), one)
        yield 2, ast.BinOp(one, ast.Sub(), node)
        yield 2, ast.UnaryOp(ast.USub(), node)


def _texts(slot: _Slot, compared: Mapping[str, list[str]]) -> Iterator[tuple[int, ast.AST]]:
    """Another of the values that a name is compared with."""
    node, parent = slot.node, slot.parent
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and isinstance(parent, ast.Compare):
        others = compared.get(_last_name(parent.left), [])
        yield from ((0, ast.Constant(text)) for text in others if text != node.value)


def _kin(slot: _Slot, names: list[str], attributes: list[str]) -> Iterator[ast.AST]:
    """Another name of the function that shares a part with this one: ``sigma_t``, ``sigma_s0``."""
    node = slot.node
    if isinstance(node, ast.Name) and slot.field != "func" and not isinstance(slot.parent, ast.Attribute):
        yield from (ast.Name(name, ast.Load()) for name in names if _related(node.id, name))
    elif isinstance(node, ast.Attribute) and slot.field != "func":
        yield from (ast.Attribute(node.value, n, ast.Load()) for n in attributes if _related(node.attr, n))


def _related(name: str, other: str) -> bool:
    return name != other and bool(set(name.strip("_").split("_")) & set(other.strip("_").split("_")))
