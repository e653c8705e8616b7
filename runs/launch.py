"""How the worker is launched: its command and its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from .models import RunRecord
from .processes import MARKER

SUPERVISOR = "FASTVIDEO_PORT_SUPERVISOR"

# No core files: they would land in the worktree, as large as the model.
# PR_SET_PDEATHSIG (1) with SIGKILL (9): without its supervisor nobody would stop the worker or keep its GPU lease. Who
# was orphaned before that has another parent already; the supervisor's number still answers while it is a zombie.
_SAFE_START = f"""\
import importlib, importlib.util, os, resource, sys
place, job, run_dir = sys.argv[1:4]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(os.environ["{SUPERVISOR}"]):
        sys.exit("the supervisor of this run is gone")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""

# The engine, by path and under a private name: the worktree or an official repository may have a package `parity`.
# When `main` returns the result is on disk, and nothing is left to do but to take torch apart.
BOOT = f"""\
{_SAFE_START}
sys.path[0] = os.getcwd()
sys.argv = [job]
name = "_fastvideo_port_parity"
spec = importlib.util.spec_from_file_location(
    name, os.path.join(place, "__init__.py"), submodule_search_locations=[place])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
importlib.import_module(name + ".worker").main(job, run_dir)
os._exit(0)
"""

# A package of ours in the server's interpreter, where it is installed; nothing is imported from the current folder.
BOOT_OWN = f"""\
{_SAFE_START}
sys.path[:] = [entry for entry in sys.path if entry]
importlib.import_module(place + ".worker").main(job, run_dir)
"""

_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL)S?($|_)", re.IGNORECASE)
# They belong to the server's interpreter; inherited, they would put its packages before those of the port's.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def is_secret(name: str) -> bool:
    """Whether an environment variable holds a token or password, by its name (HF_TOKEN, OPENAI_API_KEY, ...)."""
    return _SECRET.search(name) is not None


def worker_command(record: RunRecord, run_dir: str) -> list[str]:
    """The worker's argument vector."""
    if record.package:
        return [record.python, "-c", BOOT_OWN, record.package, record.job, run_dir]
    return [record.python, "-c", BOOT, record.parity_dir, record.job, run_dir]


def worker_environment(record: RunRecord, inherited: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: what is inherited, cleaned, then ours, then what the run asks for.

    Tokens are left out unless the run keeps them. PYTHONPATH is left out too: the worker's folder is the worktree,
    so ``import fastvideo`` finds the worktree's code, and nothing of the server's interpreter stands before it. A job
    of our own package runs in the server's interpreter and keeps what belongs to that.
    No bytecode is written, so that the worktree stays clean; the engine allows that of libraries again (import_watch).
    """
    environment = {
        name: value
        for name, value in inherited.items()
        if (record.package or name not in _FOREIGN) and (record.keep_tokens or not is_secret(name))
    }
    environment.update(
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONUNBUFFERED="1",
        PYTHONUTF8="1",
        PYTHONFAULTHANDLER="1",
    )
    environment.update(record.env)
    environment[MARKER] = record.run_id
    environment[SUPERVISOR] = str(os.getpid())
    return environment
