"""The tools as clients see them, one JSON file each, so that a change of contract is a diff that someone reads.

`python tests/server/update_snapshots.py` writes them; the test beside it compares.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "schemas"


def current() -> dict[str, str]:
    """File name to content, for every tool of this version."""
    from fastvideo_port.server.app import build_server

    tools = asyncio.run(build_server(Path("/"), Path("/")).list_tools())
    dumps = {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools}
    return {f"{name}.json": json.dumps(dump, indent=1, ensure_ascii=False) + "\n" for name, dump in dumps.items()}


def main() -> None:
    """Write the snapshots and remove those of tools that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = current()
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    sys.stdout.write(f"{len(wanted)} schemas in {FOLDER}\n")


if __name__ == "__main__":
    main()
