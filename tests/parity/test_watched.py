"""What a process executed and read is known with the bytes that it really took, whatever stands there afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARITY = Path(__file__).resolve().parents[2] / "parity"
_BOOT = f"""
import importlib, importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("_p", {str(PARITY / "__init__.py")!r},
                                              submodule_search_locations=[{str(PARITY)!r}])
sys.modules["_p"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["_p"])
watched = importlib.import_module("_p.watched")
from pathlib import Path
root, given = Path(sys.argv[1]), json.loads(sys.argv[2])
watched.watch({{"worktree": str(root), **given}}, root / "run")
sys.path.insert(0, str(root))
"""
_END = "\nprint(json.dumps([watched.executed_below(root), watched.read_below(root)]))"


def told(root: Path, code: str, **spec: str) -> tuple[dict[str, str], dict[str, str]]:
    """What is executed and read below ``root`` when a process of its own runs ``code``."""
    command = [sys.executable, "-c", _BOOT + code + _END, str(root), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    executed, read = json.loads(done.stdout.splitlines()[-1])
    return executed, read


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A worktree with a module, a config and a table."""
    folder = tmp_path / "a worktree"
    (folder / "fastvideo").mkdir(parents=True)
    (folder / "fastvideo/__init__.py").write_text("")
    (folder / "fastvideo/dit.py").write_text("SCALE = 1\n")
    (folder / "config.json").write_text('{"eps": 1e-6}')
    return folder


def test_a_module_counts_with_the_bytes_that_were_compiled_and_not_with_those_put_there_later(root: Path) -> None:
    code = "import fastvideo.dit\n(root / 'fastvideo/dit.py').write_text('SCALE = 2\\n')"
    executed, _ = told(root, code)
    assert executed == {"fastvideo/__init__.py": digest(""), "fastvideo/dit.py": digest("SCALE = 1\n")}


def test_a_module_counts_although_it_was_taken_out_of_sys_modules(root: Path) -> None:
    executed, _ = told(root, "import fastvideo.dit\ndel sys.modules['fastvideo.dit']")
    assert "fastvideo/dit.py" in executed


def test_bytecode_of_another_source_is_never_run(root: Path) -> None:
    """A stub's bytecode with the honest file's time and size: Python would run it."""
    module = root / "fastvideo/dit.py"
    honest = module.read_text()
    times = module.stat()
    module.write_text("SCALE = 7\n")
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    py_compile.compile(str(module))
    module.write_text(honest)
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    plain = [sys.executable, "-c", "import fastvideo.dit as d; print(d.SCALE)"]
    assert subprocess.run(plain, cwd=root, capture_output=True, text=True, check=True).stdout == "7\n"
    executed, _ = told(root, "import fastvideo.dit as d\nassert d.SCALE == 1, d.SCALE")
    assert executed["fastvideo/dit.py"] == digest(honest)


def test_bytecode_is_kept_of_the_environment_and_not_of_the_worktree(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process would compile torch and diffusers anew."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/library.py").write_text("A = 1\n")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    told(root, "import library, fastvideo.dit")
    assert [path.name.partition(".")[0] for path in (tmp_path / "site/__pycache__").iterdir()] == ["library"]
    assert not list(root.rglob("__pycache__"))


@pytest.mark.parametrize(
    "how",
    [
        "(root / 'config.json').read_text()",
        "json.load(open(root / 'config.json'))",
        "os.read(os.open(root / 'config.json', os.O_RDONLY), 9)",
        "os.chdir(root); open('config.json').read()",
    ],
)
def test_a_config_that_was_read_counts_as_it_was_then(root: Path, how: str) -> None:
    _, read = told(root, f"{how}\nopen(root / 'config.json', 'a').write(' ')")
    assert read == {"config.json": digest('{"eps": 1e-6}')}


def test_a_config_behind_a_link_out_of_the_worktree_counts_by_its_name_in_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/config.json").write_text("{}")
    (root / "official_weights").symlink_to(tmp_path / "weights")
    _, read = told(root, "open(root / 'official_weights/config.json').read()")
    assert read == {"official_weights/config.json": digest("{}")}


def test_what_the_process_wrote_itself_and_what_lies_elsewhere_does_not_count(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    (root / "run").mkdir()
    (root / "run/spec.json").write_text("{}")
    code = (
        "open(root / 'out.json', 'w').write('{}'); open(root / 'out.json').read()\n"
        "open(root / 'run/spec.json').read(); open(root.parent / 'other.json').read()"
    )
    assert told(root, code) == ({}, {})


@pytest.mark.parametrize(
    "how",
    [
        "exec(open(root / 'fastvideo/dit.py').read())",
        "exec(compile((root / 'fastvideo/dit.py').read_text(), 'another name', 'exec'))",
        "import runpy; runpy.run_path(str(root / 'fastvideo/dit.py'))",
    ],
)
def test_code_that_is_read_and_executed_by_hand_counts_as_read(root: Path, how: str) -> None:
    _, read = told(root, how)
    assert read == {"fastvideo/dit.py": digest("SCALE = 1\n")}


@pytest.mark.parametrize(
    "how",
    [
        "import ast; ast.parse((root / 'fastvideo/dit.py').read_text())",
        "open(root / 'fastvideo/dit.py').read(); import dataclasses; dataclasses.make_dataclass('A', ['x'])",
    ],
)
def test_code_that_is_only_looked_through_does_not_count(root: Path, how: str) -> None:
    """FastVideo's registry parses the file of every model, also of those that the port does not use."""
    assert told(root, how) == ({}, {})


def test_an_adapter_that_is_not_the_one_the_run_began_with_is_not_executed(root: Path) -> None:
    adapter = root / "adapter.py"
    adapter.write_text("open('ran', 'w')\n")
    code = "os.chdir(root)\ntry:\n    import adapter\nexcept Exception as error:\n    print('refused:', error)"
    given: dict[str, Any] = {"adapter": str(adapter), "adapter_sha256": digest(adapter.read_text())}
    told(root, code, **given)
    assert (root / "ran").exists()
    (root / "ran").unlink()
    adapter.write_text("open('ran', 'w') \n")
    told(root, code, **given)
    assert not (root / "ran").exists()


def test_a_module_that_is_a_link_out_of_the_worktree_counts_by_its_name_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("SCALE = 3\n")
    (root / "fastvideo/dit.py").unlink()
    (root / "fastvideo/dit.py").symlink_to(tmp_path / "elsewhere.py")
    executed, _ = told(root, "import fastvideo.dit")
    assert executed["fastvideo/dit.py"] == digest("SCALE = 3\n")
