"""Show a picture that a run made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..port.errors import PortError
from ._artifacts import read_artifact
from .base import ToolContext, ToolSpec
from .picture import Picture


def show_picture(
    ctx: ToolContext,
    run_id: Annotated[str, Field(description="Run that made the picture.")],
    name: Annotated[str, Field(description="File name as the result gave it, for example 'ssim.png'.")],
) -> Picture:
    """Show one image of a run: SSIM plot, worst frames, contact sheet, heat map. Use it when a result names a
    picture; results themselves carry only names."""
    run = ctx.runs.get(run_id)
    data, mime = read_artifact(ctx.runs.folder(run.run_id) / "files", name, run.finished)
    if not mime.startswith("image/"):
        raise PortError(
            "This file is not a picture.",
            seen=f"{name!r} is {mime}",
            fix=f"Read it as the resource run://{run.run_id}/files/{name}.",
        )
    return Picture(data=data, mime=mime)


SPEC = ToolSpec(
    show_picture, title="Show a run's picture", read_only=True, destructive=False, idempotent=True, open_world=False
)
