"""What every tool is made of: its context, its result, its entry in the list of tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ..port.records import PortStore
    from ..runs.store import RunStore

Report = Callable[[float, float | None, str], None]
"""``report(done, total, message)``: progress for whoever waits; ``done`` never falls."""


def _silent(done: float, total: float | None, message: str) -> None:
    """Progress for nobody."""


@dataclass
class ToolContext:
    """What a tool may use besides its arguments.

    Attributes:
        home: State folder.
        cwd: Folder that the server was started in; decides whether we stand in a FastVideo repository.
        report: Progress callback.
    """

    home: Path
    cwd: Path
    report: Report = field(default=_silent)

    @cached_property
    def ports(self) -> PortStore:
        """The ports of this state folder."""
        from ..port.records import PortStore

        return PortStore(self.home)

    @cached_property
    def runs(self) -> RunStore:
        """The runs of this state folder."""
        from ..runs.store import RunStore

        return RunStore(self.home)


class ToolResult(BaseModel):
    """Base of every tool's result."""

    model_config = ConfigDict(extra="forbid")

    next_step: str = Field(description="One sentence: which tool to call next, and why.")


@dataclass(frozen=True)
class ToolSpec:
    """A tool as clients see it; the name is the function's name.

    Attributes:
        function: ``f(ctx, **arguments) -> ToolResult``. Its docstring is the description that models read, its
            ``Annotated[..., Field(description=...)]`` parameters are the input schema.
        title: Short title for people.
        read_only, destructive, idempotent, open_world: The four MCP annotations, always set.
    """

    function: Callable[..., Any]
    title: str
    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.function.__name__
