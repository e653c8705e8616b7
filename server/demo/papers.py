"""The documents that the demo's agent writes, with what the example measured in this run."""

from __future__ import annotations

import json
from pathlib import Path

from .port_files import EXAMPLE, MODEL_ID, TESTS, VIDEO, adapter

MATRIX = "docs/inference/support_matrix.md"
PAGE = "docs/inference/wan_tiny.md"
STATUS = f"{TESTS}/PORT_STATUS.md"


def write(worktree: Path, port_id: str) -> list[str]:
    """Write the row of the support matrix, the model's page and the status file; their paths below the worktree."""
    cost = json.loads((worktree / VIDEO).with_suffix(".json").read_text(encoding="utf-8"))
    for path, text in ((MATRIX, _matrix()), (PAGE, _page(cost)), (STATUS, _status(port_id))):
        (worktree / path).parent.mkdir(parents=True, exist_ok=True)
        (worktree / path).write_text(text, encoding="utf-8")
    return [MATRIX, PAGE, STATUS]


def _matrix() -> str:
    return f"""# Support matrix

| model | id | task | attention |
| --- | --- | --- | --- |
| Wan2.1 T2V tiny | `{MODEL_ID}` | text to video | TORCH_SDPA |
"""


def _page(cost: dict[str, object]) -> str:
    return f"""# Wan2.1 T2V tiny

`{MODEL_ID}`: Wan's text to video at a small size, for tests on a CPU.

```sh
python {EXAMPLE} --model {MODEL_ID} --output {VIDEO}
```

Constraints: height and width must be multiples of 16, the number of frames 4 n + 1. Its weights are random: it shows
nothing, it computes.

- Memory: {cost["memory_gib"]} GiB at the peak, on {cost["device"]}, 9 frames of 160x96.
- Time: {cost["seconds"]} s for a video on {cost["device"]}, 6 steps with guidance.
- Attention backend: tried with TORCH_SDPA only.
"""


def _status(port_id: str) -> str:
    return f"""# Port status

## Summary
Wan text to video against diffusers, at a small size, port {port_id}.

## Current Phase
Everything is measured; `gate_status` says how it stands.

## Component Matrix
| component | adapter |
| --- | --- |
| transformer | `{adapter("transformer")}` |
| vae | `{adapter("vae")}` |
| text_encoder | `{adapter("text_encoder")}` |
| scheduler | `{adapter("scheduler")}` |
| pipeline | `{adapter("pipeline")}` |

## Conversion State
None: the checkpoint is in Diffusers layout and loads.

## Parity Commands
`pytest {TESTS}`

## Open Questions
None.

## Issues And Blockers
None.

## Escape Hatches
The first sigma of FastVideo's schedule is shifted twice; the pipelines are compared on that grid.

## Decisions
The example calls the pipeline itself: VideoGenerator needs torchvision, which this environment lacks.

## Handoff Notes
Prompts are cleaned (ftfy, html.unescape, white space) as diffusers does.
"""
