"""The rooms and the arrows between them (design, section 1): server -> tools -> port, runs -> parity."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "fastvideo_port"

# What a room may import of ours. `parity` is loaded by path in another interpreter, so it gets nothing.
ARROWS: dict[str, set[str]] = {
    "server": {"server", "tools", "port", "runs", "prompts", ""},
    "tools": {"tools", "port", "runs", "parity"},
    "runs": {"runs", "port", "parity"},
    "port": {"port", "prompts"},
    "parity": {"parity"},
}
NEVER: dict[str, set[str]] = {
    "server": {"torch", "diffusers", "transformers", "fastvideo"},
    "tools": {"torch", "diffusers", "transformers", "fastvideo", "mcp", "mcp_types"},
    "runs": {"torch", "diffusers", "transformers", "fastvideo", "mcp", "mcp_types"},
    "port": {"torch", "diffusers", "transformers", "fastvideo", "mcp", "mcp_types"},
    "parity": {"mcp", "mcp_types", "pydantic"},
}
# The engine runs in FastVideo's environment: nothing but these may be imported there. av and PIL decode frames.
# torch itself brings typing_extensions, and triton where there is CUDA.
PARITY_MAY = {"torch", "numpy", "safetensors", "av", "PIL", "triton", "typing_extensions"}
# The SSIM job runs in the server's own environment; what it draws and compares with is imported in functions only.
PARITY_LAZILY = {"parity/ssim.py": {"pytorch_msssim"}, "parity/ssim_pictures.py": {"matplotlib"}}
_CUDA = (
    "metrics_triton",
    "metrics_triton_float64",
    "sketch_blocks",
    "sketch_device",
    "sketch_order",
    "sketch_triton",
    "ssim_triton",
    "triton_launch",
)
ONLY_WITH_CUDA = {f"parity/{name}.py" for name in _CUDA}


def modules(room: str) -> list[Path]:
    """Modules of ``room``, without the demo, which plays the other side and imports what that needs."""
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "demo" not in path.relative_to(ROOT).parts]


def imports(path: Path) -> Iterator[tuple[int, int, str]]:
    """Every import of ``path``: line, relative level, dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module is None:
                for alias in node.names:
                    yield node.lineno, node.level, alias.name
            else:
                yield node.lineno, node.level, node.module


def top_level_lines(path: Path) -> set[int]:
    """Lines of the imports that run when ``path`` is imported, as far as no function holds them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.lineno for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}


def target_room(path: Path, level: int, name: str) -> str:
    """The room that a relative import of ``path`` ends in; empty for the root package itself."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    base = package[: len(package) - (level - 1)]
    full = [*base, *name.split(".")]
    return full[1] if len(full) > 1 and (ROOT / full[1]).is_dir() else ""


def violations(room: str, paths: list[Path]) -> list[str]:
    """Every import of ``paths`` that ``room`` may not have."""
    found = []
    for path in paths:
        for line, level, name in imports(path):
            place = f"{path.relative_to(ROOT)}:{line}: {'.' * level}{name}"
            top = name.split(".")[0]
            if level:
                if target_room(path, level, name) not in ARROWS[room]:
                    found.append(f"{place} (arrow)")
            elif top == PACKAGE or (ROOT / top).is_dir():
                found.append(f"{place} (absolute import of ours)")
            elif top in NEVER[room]:
                found.append(f"{place} (forbidden)")
            elif room == "parity" and top not in PARITY_MAY and top not in sys.stdlib_module_names:
                lazily = PARITY_LAZILY.get(str(path.relative_to(ROOT)), set())
                if top not in lazily or line in top_level_lines(path):
                    found.append(f"{place} (not in FastVideo's environment for sure)")
    return found


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_arrows_point_down(room: str) -> None:
    assert modules(room), f"{room}/ has no modules"
    assert violations(room, modules(room)) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("port", "from ..tools import base"),
        ("tools", "import mcp.server"),
        ("tools", "from ..server import app"),
        ("runs", "def f():\n    import torch"),
        ("parity", "from ..port import errors"),
        ("parity", "import huggingface_hub"),
        ("server", "from fastvideo_port.tools import ALL"),
    ],
)
def test_the_arrow_check_turns_red(room: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ARROWS:
        (tmp_path / name).mkdir()
    path = tmp_path / room / "planted.py"
    path.write_text(source, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(violations(room, [path])) == 1


def circle(paths: list[Path]) -> list[str]:
    """Modules of one folder that import each other in a circle, wherever in their code; empty when there is none.

    What imports CUDA kernels does so on first use, and they take its constants: imports of them do not count.
    """
    names = {path.stem for path in paths}
    kernels = {Path(path).stem for path in ONLY_WITH_CUDA}
    graph = {
        path.stem: {name for _, level, name in imports(path) if level == 1 and name in names - kernels}
        for path in paths
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_of_the_engine_imports_itself_through_others() -> None:
    assert circle(modules("parity")) == []


def test_the_circle_check_turns_red(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from .b import x", encoding="utf-8")
    (tmp_path / "b.py").write_text("def f():\n    from .c import y", encoding="utf-8")
    (tmp_path / "c.py").write_text("from . import a", encoding="utf-8")
    assert set(circle(sorted(tmp_path.glob("*.py")))) == {"a", "b", "c"}


def test_the_map_of_the_engine_names_modules_that_exist() -> None:
    text = (ROOT / "parity" / "__init__.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    there = {path.stem for path in modules("parity")}
    assert named and named - there == set()
    assert {name for name in there if name.endswith("_job")} - named == set()


def import_all(rooms: list[str], blocked: list[str]) -> subprocess.CompletedProcess[str]:
    """Import every module of ``rooms`` in a process in which ``blocked`` packages are absent."""
    names = []
    for room in rooms:
        for path in modules(room):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__" and str(path.relative_to(ROOT)) not in ONLY_WITH_CUDA:
                names.append(".".join([PACKAGE, *(part for part in parts if part != "__init__")]))
    code = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_server_side_imports_without_torch() -> None:
    out = import_all(["port", "runs", "tools", "server"], ["torch", "diffusers", "transformers", "fastvideo"])
    assert out.returncode == 0, out.stderr[-2000:]


def test_port_runs_and_tools_import_without_mcp() -> None:
    out = import_all(["port", "runs", "tools"], ["mcp", "mcp_types"])
    assert out.returncode == 0, out.stderr[-2000:]


def test_the_engine_imports_without_mcp_and_pydantic() -> None:
    out = import_all(["parity"], ["mcp", "mcp_types", "pydantic", "diffusers", "fastvideo"])
    assert out.returncode == 0, out.stderr[-2000:]


def test_the_import_check_turns_red() -> None:
    assert import_all(["server"], ["mcp"]).returncode != 0


# What is imported on first use, so that the server starts within its second.
LAZY = ("torch", "numpy", "git", "huggingface_hub", "jinja2", "matplotlib", "av", "skimage", "markdown_it", "PIL")


def test_heavy_packages_wait_for_their_first_use() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        f"from {PACKAGE}.server.app import build_server; build_server(Path('/'), Path('/'))\n"
        f"print([name for name in {LAZY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
