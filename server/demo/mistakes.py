"""What the demo's agent gets wrong in its copy of FastVideo, and takes back."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ...port.errors import PortError


@dataclass(frozen=True)
class Mistake:
    """One wrong line.

    Attributes:
        name: What a reviewer would call it.
        file: Path below the worktree.
        right: The text as FastVideo has it; its first occurrence in the file is the one that changes.
        wrong: The text that replaces it.
    """

    name: str
    file: str
    right: str
    wrong: str

    def plant(self, worktree: Path) -> str:
        """Make the mistake; return it as a unified diff.

        Raises:
            PortError: The file does not hold the right text.
        """
        return self._replace(worktree, self.right, self.wrong)

    def repair(self, worktree: Path) -> str:
        """Take the mistake back; return the repair as a unified diff.

        Raises:
            PortError: The file does not hold the wrong text.
        """
        return self._replace(worktree, self.wrong, self.right)

    def line(self, worktree: Path) -> int:
        """The line (counted from 1) that the planted mistake stands on."""
        text = (worktree / self.file).read_text(encoding="utf-8")
        return text.count("\n", 0, text.index(self.wrong)) + 1

    def _replace(self, worktree: Path, old: str, new: str) -> str:
        path = worktree / self.file
        before = path.read_text(encoding="utf-8")
        if old not in before:
            raise PortError(
                "The line that the demo edits is not what it expects.",
                seen=f"{self.file} has no {old!r}",
                fix="Run the demo on the pinned FastVideo wheel.",
            )
        after = before.replace(old, new, 1)
        path.write_text(after, encoding="utf-8")
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"a/{self.file}", f"b/{self.file}", n=0, lineterm=""
        )
        return "\n".join(lines)


SCALE_SHIFT = Mistake(
    name="scale and shift swapped in the block's first modulation",
    file="fastvideo/models/dits/wanvideo.py",
    right="self.norm1(hidden_states.float()) * (1 + scale_msa) + shift_msa",
    wrong="self.norm1(hidden_states.float()) * (1 + shift_msa) + scale_msa",
)

EPSILON = Mistake(
    name="RMSNorm with an epsilon of 1e-5 in place of the model's 1e-6",
    file="fastvideo/layers/layernorm.py",
    right="x = x * torch.rsqrt(variance + self.variance_epsilon)",
    wrong="x = x * torch.rsqrt(variance + 1e-5)",
)

GUIDANCE = Mistake(
    name="one character: the guidance is subtracted",
    file="fastvideo/pipelines/stages/denoising.py",
    right="noise_pred = noise_pred_uncond + current_guidance_scale * (noise_pred_text -",
    wrong="noise_pred = noise_pred_uncond - current_guidance_scale * (noise_pred_text -",
)
"""In a file that the pipelines run; made when the gate is open."""

ELSEWHERE = Mistake(
    name="a change in a model that this port does not use",
    file="fastvideo/models/dits/hunyuanvideo.py",
    right="class HunyuanVideoTransformer3DModel(",
    wrong="# Touched.\nclass HunyuanVideoTransformer3DModel(",
)
"""In a file that no run imported."""
