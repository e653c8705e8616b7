"""`python -m fastvideo_port.server`: the same as the command `fastvideo-port`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
