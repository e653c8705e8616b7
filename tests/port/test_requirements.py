"""Dependency files are data: every form that repositories use, and nothing of it executed."""

from __future__ import annotations

import pytest
from fastvideo_port.port.requirements import is_dependency_file, read


def texts(path: str, content: str) -> list[tuple[str, str, bool]]:
    return [(item.name, item.specifier, item.optional) for item in read(path, content)[0]]


def test_requirements_with_comments_options_markers_and_addresses() -> None:
    content = (
        "torch>=2.4,<3  # why\n-r other.txt\n--extra-index-url https://x\nFlash_Attn ; sys_platform == 'linux'\n"
        "git+https://github.com/a/CLIP.git\n./local\n-e git+https://host/b/thing.git@v1#egg=thing\nwhat is this?\n"
    )
    found, notes, _ = read("requirements.txt", content)
    assert [item.name for item in found] == ["torch", "flash-attn", "clip", "thing"]
    assert found[0].specifier == "<3,>=2.4" and found[1].marker
    assert sum("option for pip" in note for note in notes) == 2
    assert any("local path" in note for note in notes) and any("what is this?" in note for note in notes)


def test_pyproject_with_extras_and_poetry() -> None:
    content = (
        '[project]\nrequires-python = ">=3.12"\ndependencies = ["torch==2.1"]\n[project.optional-dependencies]\n'
        'dev = ["pytest"]\n[tool.poetry.dependencies]\npython = "^3.10"\neinops = "^0.7"\n'
        'x = {version = "~1.2", optional = true}\n'
    )
    found, _, python = read("pyproject.toml", content)
    assert python == ">=3.12"
    assert [(item.name, item.specifier) for item in found] == [
        ("torch", "==2.1"),
        ("pytest", ""),
        ("einops", "<0.8,>=0.7"),
        ("x", "~=1.2"),
    ]
    assert [item.optional for item in found] == [False, True, False, True]


def test_setup_py_is_read_and_never_run() -> None:
    content = "raise SystemExit\nNEEDS = ['torch<2']\nsetup(install_requires=NEEDS, extras_require=open('x').read())\n"
    found, notes, _ = read("setup.py", content)
    assert [item.text for item in found] == ["torch<2"]
    assert "computed" in notes[0]


def test_setup_cfg_and_conda() -> None:
    assert texts("setup.cfg", "[options]\ninstall_requires =\n  a>=1\n  b\n") == [("a", ">=1", False), ("b", "", False)]
    conda = "name: x\nchannels:\n  - c\n"
    conda += "dependencies:\n  - python=3.10\n  - numpy=1.26\n  - pip:\n    - torch==2.1\nvariables:\n  - no\n"
    assert texts("environment.yml", conda) == [("numpy", "==1.26.*", False), ("torch", "==2.1", False)]


@pytest.mark.parametrize(
    ("path", "content"),
    [("pyproject.toml", "[["), ("setup.py", "def ("), ("setup.cfg", "no section"), ("setup.py", "(" * 5000)],
)
def test_a_file_that_cannot_be_read_is_said(path: str, content: str) -> None:
    found, notes, _ = read(path, content)
    assert found == [] and "cannot be read" in notes[0]


@pytest.mark.parametrize(
    ("path", "yes"),
    [
        ("requirements.txt", True),
        ("requirements_infer.txt", True),
        ("requirements/base.txt", True),
        ("pyproject.toml", True),
        ("a/pyproject.toml", False),
        ("a/b/requirements.txt", False),
        ("notes.txt", False),
    ],
)
def test_which_files_count(path: str, yes: bool) -> None:
    assert is_dependency_file(path) is yes
