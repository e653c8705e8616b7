"""The one way templates are rendered: sandboxed, undefined variables forbidden, arguments never compiled."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
"""Folder of the templates."""


def _signature(rows: list[dict[str, str]]) -> str:
    """Parameters as in a signature, without annotations; for docstrings and strings, so no quotes or backslashes."""
    told = ", ".join(row["name"] + (f"={row['default']}" if row["default"] else "") for row in rows)
    return told.replace("\\", "/").replace('"', "'")[:900] or "not known"


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    from .textsafe import bullet, cell, fenced, inline_code, one_line, quoted

    environment = SandboxedEnvironment(
        loader=FileSystemLoader(PROMPTS),
        undefined=StrictUndefined,
        # HTML escapes by itself; in Markdown the filters below do, because HTML escapes would show there.
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(signature=_signature)
    environment.filters.update(code=inline_code, fenced=fenced, quoted=quoted, bullet=bullet, cell=cell, line=one_line)
    return environment


def render(template: str, **values: Any) -> str:
    """Render ``prompts/<template>`` with ``values``, which are data: braces inside them mean nothing.

    Raises:
        jinja2.UndefinedError: The template uses a variable that was not given.
        jinja2.sandbox.SecurityError: The template reaches for an unsafe attribute.
    """
    return _environment().get_template(template).render(**values)
