"""What a comparison imports before its two sides run."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("job", ["component_job", "locate_job"])
def test_a_comparison_starts_its_sides_before_it_imports_torch(job: str) -> None:
    code = f"import sys, fastvideo_port.parity.{job}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
