"""The prompt `port_model`: the skill, filled in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer


def add_prompts(server: MCPServer, cwd: Path) -> None:
    """Offer `port_model`. Only the goal is asked for; what else is missing is inferred, and the text says so."""

    def port_model(
        goal: Annotated[str, Field(description="What to port, and what it has to do afterwards.")],
        model_name: Annotated[str | None, Field(description="Model name; inferred if left out.")] = None,
        official_repo: Annotated[str | None, Field(description="URL or path of the official code.")] = None,
        official_weights_path: Annotated[str | None, Field(description="Hub id or path of the weights.")] = None,
    ) -> str:
        # jinja2 is imported behind this, on first use.
        from ..port.skill import render_skill

        return render_skill(goal, model_name, official_repo, official_weights_path, cwd=cwd)

    server.prompt(
        name="port_model",
        title="Port a model to FastVideo",
        description="The whole procedure for porting a video model into FastVideo with proof of numerical parity.",
    )(port_model)
