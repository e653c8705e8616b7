"""From a tool's signature to its schemas, and from raw JSON to checked arguments. Knows nothing of MCP.

The command line and the MCP binding share this, so both accept the same input and word the same errors.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from ..port.errors import PortError
from ..tools.base import ToolContext, ToolSpec
from .schema import compact_input

MAX_STRING = 100_000
"""Characters in one string argument. Longer text is a file's job; a plan of 100,000 characters is no plan."""

MAX_DEPTH = 32
"""Nesting of lists and objects in the arguments."""

_SEEN = 80
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Signature:
    """A tool function's parameters, read once.

    Attributes:
        name: The tool's name.
        model: Pydantic model of the arguments, without the context parameter.
        returns: The function's return annotation.
    """

    name: str
    model: type[BaseModel]
    returns: Any

    @property
    def parameters(self) -> dict[str, FieldInfo]:
        """Parameter names, in the order of the signature, with their annotations and defaults."""
        return self.model.model_fields

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return compact_input(self.model)

    def check(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them.

        Strings that hold a JSON list or object are accepted where one of those is wanted: several clients send them so.

        Raises:
            PortError: An argument is unknown, missing, too large, or of a wrong type or range; all of them are named.
        """
        self._refuse_unknown(raw)
        arguments = {key: self._unpacked(key, value) for key, value in raw.items()}
        _refuse_excess(self.name, arguments)
        for key, field in self.parameters.items():
            if key in arguments and field.annotation is not bool and bool not in get_args(field.annotation):
                arguments[key] = _without_numbers(arguments[key])
        try:
            checked = self.model.model_validate(arguments)
        except ValidationError as error:
            raise self._worded(error) from None
        return {name: getattr(checked, name) for name in self.parameters}

    def _refuse_unknown(self, raw: Mapping[str, Any]) -> None:
        known = list(self.parameters)
        unknown = [key for key in raw if key not in self.parameters]
        if not unknown:
            return
        hints = []
        for key in unknown[:_SHOWN_PROBLEMS]:
            near = difflib.get_close_matches(key[:64].lower().replace("-", "_"), known, n=1, cutoff=0.5)
            hints.append(f"{shown(key)}" + (f" (nearest: {near[0]})" if near else ""))
        raise PortError(
            f"{self.name} has no such argument.",
            seen=", ".join(hints),
            fix=f"Use only these arguments: {', '.join(known) if known else 'none'}.",
        )

    def _unpacked(self, key: str, value: Any) -> Any:
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return value
        if _accepts_text(self.parameters[key].annotation):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value

    def _worded(self, error: ValidationError) -> PortError:
        problems = error.errors(include_url=False, include_context=True)
        lines: list[str] = []
        for problem in problems:
            path = _path(problem["loc"])
            line = f"{path}: {_wording(problem['type'], problem.get('ctx', {}))}"
            if problem["type"] != "missing":
                line += f", got {shown(problem['input'])}"
            # One line per argument: a union reports each of its arms.
            if not any(other.startswith(f"{path}:") for other in lines):
                lines.append(line)
        more = len(lines) - _SHOWN_PROBLEMS
        seen = "; ".join(lines[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        name = str(problems[0]["loc"][0]) if problems[0]["loc"] else ""
        field = self.parameters.get(name)
        meaning = f" {name}: {field.description}" if field is not None and field.description else ""
        return PortError(
            f"{self.name} was called with arguments that it cannot take.",
            seen=seen,
            fix=f"Correct the named arguments and call {self.name} again.{meaning}",
        )


@cache
def signature_of(spec: ToolSpec) -> Signature:
    """Read the signature of ``spec``'s function.

    Raises:
        TypeError: The function does not take ``ctx: ToolContext`` first, or a parameter has no annotation.
    """
    function = spec.function
    parameters = list(inspect.signature(function).parameters.values())
    hints = get_type_hints(function, include_extras=True)
    if not parameters or parameters[0].name != "ctx" or hints.get("ctx") is not ToolContext:
        raise TypeError(f"{spec.name}: the first parameter must be `ctx: ToolContext`")
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.name not in hints:
            raise TypeError(f"{spec.name}: parameter {parameter.name} has no annotation")
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    model = create_model(f"{spec.name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    return Signature(name=spec.name, model=model, returns=hints.get("return"))


def shown(value: Any) -> str:
    """``value`` for an error text: its repr, cut, without control characters, with its size when it was cut."""
    if isinstance(value, str):
        text = repr(value[: _SEEN + 1])
        return text if len(value) <= _SEEN else f"{value[:_SEEN]!r}... ({len(value):,} characters)"
    if isinstance(value, (list, tuple)):
        kind = f"a list of {len(value)} items"
    elif isinstance(value, dict):
        kind = f"an object with {len(value)} fields"
    else:
        return repr(value)[:_SEEN]
    try:
        text = repr(value) if len(value) <= _SEEN else ""
    except RecursionError:
        text = ""
    return text if text and len(text) <= _SEEN else kind


def _refuse_excess(name: str, raw: Mapping[str, Any]) -> None:
    """Refuse what no honest call holds, before anything else looks at it; iterative, so depth cannot hurt it."""
    stack: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in raw.items()]
    while stack:
        key, value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise PortError(
                f"{name}: {key} is nested too deeply.",
                seen=f"more than {MAX_DEPTH} levels of lists and objects",
                fix=f"Send {key} as its schema says; no argument needs more than {MAX_DEPTH} levels.",
            )
        if isinstance(value, str):
            if len(value) > MAX_STRING:
                raise PortError(
                    f"{name}: {key} is too long.",
                    seen=f"{len(value):,} characters; the limit is {MAX_STRING:,}",
                    fix="Shorten it, or write it to a file in the worktree and name the file.",
                )
            if "\0" in value or not _is_unicode(value):
                raise PortError(
                    f"{name}: {key} holds a NUL character or half of a surrogate pair.",
                    seen=shown(value),
                    fix=f"Send {key} as plain text.",
                )
        elif isinstance(value, dict):
            stack.extend((key, item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, list):
            stack.extend((key, item, depth + 1) for item in value)


class _Truth:
    """A true or false that is not also 1 or 0, which is what pydantic would take it for."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _without_numbers(value: Any) -> Any:
    """``value`` with every true and false as a `_Truth`."""
    if isinstance(value, bool):
        return _Truth(value)
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _accepts_text(annotation: Any) -> bool:
    """Whether a string is a value of ``annotation`` itself, so that JSON inside it must be left alone."""
    if annotation is str or annotation is Any:
        return True
    arms = getattr(annotation, "__args__", ())
    union = type(annotation).__name__ in ("UnionType", "_UnionGenericAlias", "Union")
    return union and any(_accepts_text(arm) for arm in arms)


def _path(location: tuple[int | str, ...]) -> str:
    """``("components", 0, "name")`` as ``components[0].name``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{str(part)[:64]}" if text else str(part)[:64]
    return text or "arguments"


_PLAIN = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is out of range",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "none_required": "must be left out or null",
}

_WITH_LIMIT = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
    "string_too_short": ("must have at least this many characters:", "min_length"),
    "string_too_long": ("must have at most this many characters:", "max_length"),
    "too_short": ("must have at least this many items:", "min_length"),
    "too_long": ("must have at most this many items:", "max_length"),
    "literal_error": ("must be one of", "expected"),
    "enum": ("must be one of", "expected"),
    "string_pattern_mismatch": ("must match", "pattern"),
}


def _wording(kind: str, context: Mapping[str, Any]) -> str:
    """Our sentence for pydantic's error ``kind``: no foreign wording, no input repeated in full, no link."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _WITH_LIMIT:
        words, key = _WITH_LIMIT[kind]
        return f"{words} {context.get(key)}"
    if kind == "value_error":
        return str(context.get("error", "is not allowed"))[:200]
    return f"is not allowed ({kind.replace('_', ' ')})"
