"""What is learnt of a script while it runs: its modules, whose model files it asked for, its patches, its end."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.script_run import ScriptRun, run_script


def _write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def _run(root: Path, patches: Sequence[str] = (), limit: float = 60, python: str = sys.executable) -> ScriptRun:
    return run_script(
        python,
        root / "run.py",
        ["an argument", "--x=$HOME"],
        worktree=root,
        official=str(root.parent / "official"),
        patches=patches,
        time_limit_s=limit,
        each=lambda gone: None,
    )


def test_modules_are_known_with_the_bytes_that_were_executed(tmp_path: Path) -> None:
    """A file that changes after its import keeps the hash of what ran; lazy imports count, unused files do not."""
    root = tmp_path / "w"
    _write(
        root,
        {
            "fastvideo/__init__.py": "",
            "fastvideo/a.py": "def f():\n    import fastvideo.lazy\n",
            "fastvideo/lazy.py": "X = 1\n",
            "fastvideo/unused.py": "",
            "run.py": "import sys, fastvideo.a\nfastvideo.a.f()\nopen('fastvideo/lazy.py', 'a').write('#')\n"
            "print(sys.argv[1:], flush=True)\n",
        },
    )
    (tmp_path / "official").mkdir()
    run = _run(root)
    assert run.exit_code == 0 and run.output.strip() == "['an argument', '--x=$HOME']", run.output
    assert set(run.files) == {"run.py", "fastvideo/__init__.py", "fastvideo/a.py", "fastvideo/lazy.py"}
    assert run.files["fastvideo/lazy.py"] == hashlib.sha256(b"X = 1\n").hexdigest()
    assert run.pid in run.watched and run.official == []


def test_model_files_are_laid_to_the_port_only_where_the_port_asked_for_them(tmp_path: Path) -> None:
    root, site = tmp_path / "w", tmp_path / "site-packages"
    _write(
        site,
        {
            "diffusers/__init__.py": "",
            "diffusers/models/__init__.py": "",
            "diffusers/models/wan.py": "import diffusers.models.inner\n",
            "diffusers/models/inner.py": "",
            "diffusers/models/vae.py": "",
            "peft.py": "import diffusers.models.vae\n",
        },
    )
    _write(
        root,
        {
            "fastvideo/__init__.py": f"import sys\nsys.path.append({str(site)!r})\nimport peft\n",
            "fastvideo/dit.py": "def load():\n    import diffusers.models.wan\n",
            "run.py": "import fastvideo.dit\nfastvideo.dit.load()\n",
        },
    )
    assert _run(root).foreign == [("diffusers.models.wan", "fastvideo/dit.py:2")]


def test_the_port_s_environment_patches_are_in_force_in_the_script_and_only_there(tmp_path: Path) -> None:
    root = tmp_path / "w"
    _write(
        root,
        {
            "fastvideo/__init__.py": "",
            "fastvideo/platforms/__init__.py": "",
            "fastvideo/platforms/cpu.py": "class CpuPlatform:\n"
            "    @classmethod\n    def get_attn_backend_cls(cls, *a):\n        return 'none'\n",
            "run.py": "from fastvideo.platforms.cpu import CpuPlatform\nprint(CpuPlatform.get_attn_backend_cls(1))\n",
        },
    )
    assert _run(root).output.strip() == "none"
    run = _run(root, ["cpu-attention"])
    assert run.output.strip().endswith("SDPABackend") and "fastvideo/platforms/cpu.py" in run.files


def test_a_script_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    root = tmp_path / "w"
    _write(
        root,
        {
            "run.py": "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid, flush=True)\ntime.sleep(600)\n"
        },
    )
    began = time.monotonic()
    run = _run(root, limit=4)
    assert run.timed_out and run.exit_code is None and time.monotonic() - began < 60
    child = Path(f"/proc/{run.output.strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_a_flood_of_output_and_binary_output_do_no_harm(tmp_path: Path) -> None:
    root = tmp_path / "w"
    _write(root, {"run.py": "import os\nfor _ in range(64): os.write(1, bytes(range(256)) * 256)\nprint('END')\n"})
    run = _run(root)
    assert run.exit_code == 0 and run.output.endswith("END\n") and len(run.output) <= 256 << 10


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = tmp_path / "w"
    _write(root, {"run.py": ""})
    with pytest.raises(ParityError, match="interpreter could not be started"):
        _run(root, python="/nonexistent/python")
