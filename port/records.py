"""What is known of a port, and the store that keeps it."""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .database import select, transaction
from .errors import PortError
from .paths import require_worktree


class WeightsRecord(BaseModel):
    """Official weights that `fetch_weights` brought into the worktree."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Absolute path of the folder (or link) below official_weights/.")
    source: str = Field(description="Hub id or local path that the weights came from.")
    revision: str | None = Field(default=None, description="Commit hash on the hub; none for a local path.")
    digest: str = Field(description="SHA-256 over names, sizes and content hashes of the safetensors files.")
    identities: dict[str, str] = Field(
        default_factory=dict, description="Size and times of each file when it was hashed, to see a later change."
    )
    components: dict[str, tuple[str, str]] = Field(
        default_factory=dict, description="What the official model consists of: folder -> kind and class name."
    )
    needs_conversion: bool | None = Field(default=None, description="What fetch_weights found; none: not recorded.")
    fetch: int = Field(
        default=0, description="Which fetch of the port brought them: the port's `fetches` at its start."
    )


class ConvertedRecord(BaseModel):
    """Weights that `convert_weights` made of the official ones, proven to hold every value once."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Absolute path of converted_weights/<slug>.")
    digest: str = Field(description="SHA-256 over names, sizes and content hashes of the safetensors files.")
    stamp: str = Field(description="SHA-256 over names, sizes and times of all files, to see a later change.")
    source: str = Field(description="Digest of the official weights that they were made of.")
    conversion: int = Field(description="Which conversion of the port made them.")


class ComponentRecord(BaseModel):
    """A component of the plan: which official class becomes which port class."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Stable name, for example 'transformer'.")
    kind: Literal["dit", "vae", "encoder", "tokenizer", "scheduler", "extra"]
    official: str = Field(description="Import path of the official class, 'package.module.Class'.")
    port: str = Field(description="Import path of the FastVideo class, 'fastvideo.models....Class'.")
    adapter: str = Field(description="Path of the adapter, relative to the worktree.")


class PortRecord(BaseModel):
    """One port: its workspace, interpreter, weights and plan."""

    model_config = ConfigDict(extra="forbid")

    port_id: str
    model_name: str
    slug: str = Field(description="Legal branch and folder name made from model_name.")
    goal: str = ""
    worktree: str = Field(description="Absolute path of the worktree (or clone).")
    branch: str
    base_commit: str
    mode: Literal["worktree", "clone"]
    repository: str = Field(description="The FastVideo repository or URL that the workspace came from.")
    python: str = Field(description="Interpreter that runs FastVideo for this port.")
    official_python: str | None = Field(default=None, description="Interpreter of the official side; none: the same.")
    environment_patches: list[str] = Field(
        default_factory=list, description="Named, reported changes to the port's environment, e.g. 'cpu-attention'."
    )
    official_repo: str | None = Field(default=None, description="Path of the official clone, if one was fetched.")
    official_url: str | None = Field(default=None, description="Where the clone came from, without credentials.")
    official_revision: str | None = Field(default=None, description="Branch, tag or commit that was asked for.")
    official_commit: str | None = Field(default=None, description="Full hash that the clone is pinned to.")
    official_fetches: int = Field(default=0, description="How many fetches of official code were started.")
    official_fetch: int = Field(default=0, description="Which of them brought the clone on record.")
    weights: WeightsRecord | None = None
    fetches: int = Field(
        default=0, description="How many fetches of weights were started; orders them without a clock."
    )
    converted: ConvertedRecord | None = None
    conversions: int = Field(default=0, description="How many conversions were started.")
    components: list[ComponentRecord] = Field(default_factory=list)
    plan_path: str | None = None
    begun: list[str] = Field(default_factory=list, description="Steps that update_step said were begun; no evidence.")
    created_at: str

    def component(self, name: str) -> ComponentRecord | None:
        """The planned component called ``name``, or none."""
        return next((item for item in self.components if item.name == name), None)


def now() -> str:
    """The time in UTC as ISO 8601 with microseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def new_id(prefix: str) -> str:
    """An identifier that cannot be guessed: ``prefix-`` and 16 hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(8)}"


class PortStore:
    """Ports on disk, shared by every server and worker that uses the state folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def add(self, record: PortRecord) -> None:
        """Keep a new port."""
        with transaction(self.home) as db:
            db.execute(
                "INSERT INTO ports (port_id, created_at, record) VALUES (?, ?, ?)",
                (record.port_id, record.created_at, record.model_dump_json()),
            )

    def list(self) -> list[PortRecord]:
        """All ports, the newest first."""
        rows = select(self.home, "SELECT record FROM ports ORDER BY created_at DESC")
        return [PortRecord.model_validate_json(row) for row in rows]

    def get(self, port_id: str) -> PortRecord:
        """The port called ``port_id``.

        Raises:
            PortError: There is no such port, and the nearest ids are named; or something took its worktree's place.
        """
        rows = select(self.home, "SELECT record FROM ports WHERE port_id = ?", port_id)
        if not rows:
            raise self._unknown(port_id)
        record = PortRecord.model_validate_json(rows[0])
        if os.path.lexists(record.worktree):
            require_worktree(Path(record.worktree))
        return record

    def working(self, port_id: str) -> PortRecord:
        """``get`` for what needs the worktree.

        Raises:
            PortError: See there, or the worktree is gone.
        """
        record = self.get(port_id)
        require_worktree(Path(record.worktree))
        return record

    def update(self, port_id: str, change: Callable[[PortRecord], PortRecord]) -> PortRecord:
        """Replace a port's record by ``change(record)`` in one transaction and return the new one.

        Raises:
            PortError: There is no such port.
        """
        with transaction(self.home) as db:
            row = db.execute("SELECT record FROM ports WHERE port_id = ?", (port_id,)).fetchone()
            if row is not None:
                record = change(PortRecord.model_validate_json(row[0]))
                db.execute("UPDATE ports SET record = ? WHERE port_id = ?", (record.model_dump_json(), port_id))
                return record
        raise self._unknown(port_id)

    def _unknown(self, port_id: str) -> PortError:
        known = [record.port_id for record in self.list()]
        near = difflib.get_close_matches(port_id, known, n=3, cutoff=0.5) or known[:3]
        return PortError(
            "There is no port with this id.",
            seen=f"port_id={port_id[:80]!r}; known: {', '.join(near) if near else 'none yet'}",
            fix="Call list_ports for the ids, or create_worktree to begin a port.",
        )
