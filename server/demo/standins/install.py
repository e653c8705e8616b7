"""Put the CPU stand-ins into the environment whose interpreter runs this file, and check that they answer.

Run as ``.venv-fastvideo/bin/python server/demo/standins/install.py``. Where torch is a CUDA build nothing is installed,
because there the real torchvision belongs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = "fastvideo_port_cpu_standins"
_PROBE = f"import builtins, {MODULE} as s; assert builtins.__import__ is s._import"


def main() -> int:
    """Copy the module and write its ``.pth`` file; return the exit status."""
    import torch.version

    if torch.version.cuda is not None:
        sys.stderr.write("torch is a CUDA build: install the real torchvision; no stand-in was installed.\n")
        return 0
    site = Path(sysconfig.get_path("purelib"))
    if sys.prefix == sys.base_prefix:
        sys.stderr.write(f"{sys.executable} is no virtual environment: the stand-ins belong into one of their own.\n")
        return 2
    shutil.copyfile(Path(__file__).with_name(f"{MODULE}.py"), site / f"{MODULE}.py")
    (site / f"{MODULE}.pth").write_text(f"import {MODULE}; {MODULE}.activate()\n", encoding="utf-8")
    return subprocess.run([sys.executable, "-c", _PROBE], check=False, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
