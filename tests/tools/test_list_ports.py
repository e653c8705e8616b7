"""list_ports: what a new session sees."""

from __future__ import annotations

import shutil
import sys

from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.list_ports import list_ports


def test_no_port_yet_points_to_create_worktree(context: ToolContext) -> None:
    listed = list_ports(context)
    assert (listed.ports, listed.count) == ([], 0)
    assert "create_worktree" in listed.next_step


def test_ports_are_listed_newest_first_and_a_lost_folder_is_said(context: ToolContext) -> None:
    first = create_worktree(context, "One", python=sys.executable)
    second = create_worktree(context, "Two", python=sys.executable)
    shutil.rmtree(second.worktree)
    listed = list_ports(context)
    assert [(port.model_name, port.present) for port in listed.ports] == [("Two", False), ("One", True)]
    assert first.port_id in listed.next_step
