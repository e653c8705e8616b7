"""What every tool is made of: its context, its result, its entry in the list of tools."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ..port.records import PortStore
    from ..runs.store import RunStore

Report = Callable[[float, float | None, str], None]
"""``report(done, total, message)``: progress for whoever waits; ``done`` never falls."""


def _silent(done: float, total: float | None, message: str) -> None:
    """Progress for nobody."""


@dataclass(frozen=True)
class Question:
    """What a person is asked before the tool runs.

    Attributes:
        message: The whole text; the same for the same question, however often it is put.
        asked_at: When it was first put.
    """

    message: str
    asked_at: datetime


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        kind: ``approve``, ``decline`` (a filled form), ``refused`` (the dialogue was declined as a whole),
            ``dismissed`` (closed), ``unusable`` (an empty or malformed form), ``cannot-ask`` (the client has no
            dialogues).
        note: The person's own words.
        client: The client's name, as it calls itself.
        seconds: From question to answer.
        message: The question's text.
    """

    kind: Literal["approve", "decline", "refused", "dismissed", "unusable", "cannot-ask"]
    note: str = ""
    client: str = ""
    seconds: float = 0.0
    message: str = ""


@dataclass
class ToolContext:
    """What a tool may use besides its arguments.

    Attributes:
        home: State folder.
        cwd: Folder that the server was started in; decides whether we stand in a FastVideo repository.
        report: Progress callback.
        answer: What a person answered to the tool's question; none where nobody could be asked. Set by the server
            alone: no argument of a tool reaches it.
        resumed: Whether this is a later round of a call in which the question was put already.
        leaving: Set when the clients are gone: nothing waits for a run any longer. The runs go on.
    """

    home: Path
    cwd: Path
    report: Report = field(default=_silent)
    answer: Answer | None = None
    resumed: bool = False
    leaving: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def ports(self) -> PortStore:
        """The ports of this state folder."""
        from ..port.records import PortStore

        return PortStore(self.home)

    @cached_property
    def runs(self) -> RunStore:
        """The runs of this state folder."""
        from ..runs.store import RunStore

        return RunStore(self.home, leaving=self.leaving)


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
        question: ``question(ctx, **arguments)``: what a person is to be asked before the tool runs, or none.
    """

    function: Callable[..., Any]
    title: str
    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool
    question: Callable[..., Question | None] | None = None

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.function.__name__
