"""Which approvals count: `policy.json` in the state folder, and the defaults where there is none.

The file is a person's. It can only be as safe as the state folder: whoever may write there as this user may also read
the ledger's key. No tool reads it for an agent or writes it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import PortError
from .paths import open_regular

POLICY_NAME = "policy.json"
DAYS_VARIABLE = "FASTVIDEO_PORT_APPROVAL_DAYS"
_MOST_BYTES = 64 * 1024
_LONGEST_DAYS = 365.0

Channel = Literal["client", "command", "page"]
STRENGTHS: tuple[Channel, ...] = ("client", "command", "page")
"""From weak to strong. ``client``: answered in the agent's client, which asserts that a person did. ``command``: typed
at a terminal. ``page``: clicked in a browser that holds the page's secret."""


class Policy(BaseModel):
    """What a state folder asks of approvals."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    minimum: Channel = Field(default="client", description="Weakest channel whose approval counts.")
    days: Annotated[float, Field(gt=0, le=_LONGEST_DAYS)] = 7.0
    """How long a request waits, and how long an approval counts, in days."""
    official_code: bool = Field(
        default=False, description="Whether running an official repository's code at a new commit needs an approval."
    )

    def counts(self, channel: str) -> bool:
        """Whether an approval that came through ``channel`` is strong enough."""
        known: tuple[str, ...] = STRENGTHS
        return channel in known and known.index(channel) >= known.index(self.minimum)


def read_policy(home: Path) -> Policy:
    """The policy of the state folder ``home``; `FASTVIDEO_PORT_APPROVAL_DAYS` sets the days where the file does not.

    Raises:
        PortError: The file or the variable cannot be read as a policy: a policy that is not understood must not be
            taken for a lenient one.
    """
    path = home / POLICY_NAME
    if os.path.lexists(path):
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
        try:
            if len(content) > _MOST_BYTES:
                raise ValueError("the file is larger than 64 KiB")
            given = json.loads(content.decode("utf-8"), object_pairs_hook=_no_doubles)
            if not isinstance(given, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            raise _refused(f"{path}: {error}") from error
    else:
        given = {}
    days = os.environ.get(DAYS_VARIABLE)
    if days is not None and "days" not in given:
        try:
            given["days"] = float(days)
        except ValueError as error:
            raise _refused(f"{DAYS_VARIABLE}={days[:40]!r}") from error
    try:
        return Policy.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _refused(f"{path if place in given else DAYS_VARIABLE}: {place[:40]}: {first['msg'][:100]}") from error


def _no_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _refused(seen: str) -> PortError:
    return PortError(
        "The policy for approvals cannot be read, so no approval counts.",
        seen=seen,
        fix=f'Write {POLICY_NAME} as {{"minimum": "client", "days": 7, "official_code": false}}; minimum is one of '
        f"{', '.join(STRENGTHS)}, days at most {_LONGEST_DAYS:g}. Or remove it for these defaults.",
    )
