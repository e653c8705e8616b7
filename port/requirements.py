"""What a repository says it needs: dependency files read as data. No line of them is executed or fetched."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from .python_source import parse_python
from .textsafe import one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST = 400
"""Most requirements that are read of one file."""

_REQUIREMENTS = re.compile(r"(.*[-_.])?requirements?([-_.].*)?\.(txt|in)", re.IGNORECASE)
_NAMES = ("pyproject.toml", "setup.py", "setup.cfg", "environment.yml", "environment.yaml")


@dataclass(frozen=True)
class Needed:
    """One requirement.

    Attributes:
        name: Distribution name, normalised (lower case, ``-``).
        text: As it stands in the file, one line.
        specifier: Version part, for example ``>=2.4,<3``; empty for any version.
        marker: Environment marker, or empty.
        file: Where it stands.
        optional: It belongs to an extra or a group, not to what everybody needs.
    """

    name: str
    text: str
    specifier: str
    marker: str
    file: str
    optional: bool = False


def is_dependency_file(path: str) -> bool:
    """Whether the path is that of a dependency file, at the top or one folder below (``requirements/base.txt``)."""
    parts = PurePosixPath(path).parts
    if len(parts) > 2:
        return False
    name = parts[-1]
    in_folder = len(parts) == 2 and parts[0].lower() == "requirements" and name.endswith((".txt", ".in"))
    return name.lower() in _NAMES[: 5 if len(parts) == 1 else 0] or bool(_REQUIREMENTS.fullmatch(name)) or in_folder


def read(path: str, text: str) -> tuple[list[Needed], list[str], str]:
    """Requirements of one file, remarks on what could not be read, and its ``requires-python``."""
    name = PurePosixPath(path).name.lower()
    lines: list[tuple[str, bool]]
    notes: list[str] = []
    python = ""
    try:
        if name == "pyproject.toml":
            lines, python = _pyproject(text)
        elif name == "setup.cfg":
            lines, python = _setup_cfg(text)
        elif name == "setup.py":
            lines, python, notes = _setup_py(text, path)
        elif name.endswith((".yml", ".yaml")):
            lines, python = [(line, False) for line in _environment(text)], ""
        else:
            lines = [(line, False) for line in _requirement_lines(text, path, notes)]
    except (
        ValueError, SyntaxError, ConfigError, RecursionError, MemoryError, TypeError, AttributeError, ArithmeticError
    ) as error:  # fmt: skip
        return [], [f"{path} cannot be read: {type(error).__name__}: {one_line(str(error))[:120]}"], ""
    if len(lines) > MOST:
        notes.append(f"{path} has {len(lines)} requirements; the first {MOST} were read.")
    found = []
    for line, optional in lines[:MOST]:
        item = parse(line, path, optional)
        if item is None:
            notes.append(f"{path}: {line[:100]!r} is not a requirement that can be read")
        else:
            found.append(item)
    return found, notes, python


def parse(line: str, file: str, optional: bool = False) -> Needed | None:
    """One requirement in pip's form, or none if it is not one."""
    line = line.strip()
    url = re.match(r"(?:git\+|https?://).*?(?:#egg=|/)([A-Za-z0-9._-]+?)(?:\.git)?(?:@[^/]*)?$", line)
    try:
        item = Requirement(line)
    except InvalidRequirement:
        if url is None:
            return None
        return Needed(normal(url[1]), line, "", "", file, optional)
    return Needed(normal(item.name), line, str(item.specifier), str(item.marker or ""), file, optional)


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirement_lines(text: str, path: str, notes: list[str]) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        line = re.sub(r"\s--(hash|config-settings|global-option)[= ].*$", "", line)
        if not line:
            continue
        if line.startswith(("-e ", "--editable ")):
            line = line.split(None, 1)[1]
        if line.startswith("-"):
            notes.append(f"{path}: {line[:100]!r} is an option for pip; it was not followed")
            continue
        if line.startswith((".", "/", "file:")):
            notes.append(f"{path}: {line[:100]!r} is a local path; it was not followed")
            continue
        yield line


def _pyproject(text: str) -> tuple[list[tuple[str, bool]], str]:
    document = tomllib.loads(text)
    project = document.get("project") or {}
    lines = [(str(item), False) for item in project.get("dependencies") or []]
    for items in (project.get("optional-dependencies") or {}).values():
        lines += [(str(item), True) for item in items]
    poetry = ((document.get("tool") or {}).get("poetry") or {}).get("dependencies") or {}
    python = str(project.get("requires-python") or "")
    for name, value in poetry.items():
        if name == "python":
            python = python or _caret(str(value))
        else:
            version = value if isinstance(value, str) else (value or {}).get("version", "") if _is_table(value) else ""
            lines.append((f"{name}{_caret(version)}", _is_table(value) and bool(value.get("optional"))))
    return lines, python


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _caret(version: str) -> str:
    """Poetry's version forms as specifiers: ``^1.2`` is ``>=1.2,<2``, ``~1.2`` is ``~=1.2``, a bare one is exact."""
    version = version.strip()
    if version in ("", "*"):
        return ""
    if version.startswith("^"):
        numbers = version[1:].split(".")
        lead = next((place for place, number in enumerate(numbers) if number != "0"), len(numbers) - 1)
        upper = [*numbers[:lead], str(int(re.sub(r"\D.*", "", numbers[lead]) or 0) + 1)]
        return f">={version[1:]},<{'.'.join(upper)}"
    if version.startswith("~") and not version.startswith("~="):
        return f"~={version[1:]}" if "." in version else f"=={version[1:]}.*"
    return version if version[0] in "<>=!~" else f"=={version}"


def _setup_cfg(text: str) -> tuple[list[tuple[str, bool]], str]:
    config = ConfigParser(interpolation=None, strict=False)
    config.read_string(text)
    rows = [(line.strip(), False) for line in config.get("options", "install_requires", fallback="").splitlines()]
    if config.has_section("options.extras_require"):
        for _, block in config.items("options.extras_require"):
            rows += [(line.strip(), True) for line in block.splitlines()]
    return [row for row in rows if row[0]], config.get("options", "python_requires", fallback="").strip()


def _setup_py(text: str, path: str) -> tuple[list[tuple[str, bool]], str, list[str]]:
    """The literals of ``setup(...)``; what the script computes is said to be unknown."""
    tree = parse_python(text)
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lines: list[tuple[str, bool]] = []
    notes: list[str] = []
    python = ""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if (getattr(call.func, "id", None) or getattr(call.func, "attr", None)) != "setup":
            continue
        for keyword in call.keywords:
            if keyword.arg not in ("install_requires", "extras_require", "python_requires"):
                continue
            node = keyword.value
            node = constants.get(node.id, node) if isinstance(node, ast.Name) else node
            try:
                value = ast.literal_eval(node)
            except ValueError:
                notes.append(f"{path}: {keyword.arg} is computed, and setup.py is not executed; read it yourself")
                continue
            if keyword.arg == "python_requires":
                python = str(value)
            elif keyword.arg == "install_requires":
                lines += [(str(item), False) for item in ([value] if isinstance(value, str) else value)]
            else:
                lines += [(str(item), True) for items in value.values() for item in items]
    return lines, python, notes


def _environment(text: str) -> Iterator[str]:
    """Conda's ``dependencies`` list, and the ``pip`` list in it, by their indentation; no YAML tag is looked at."""
    inside = False
    for line in text.splitlines():
        bare = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not bare:
            continue
        if re.match(r"\S", bare) and not bare.startswith("-"):
            inside = bare.startswith("dependencies:")
            continue
        match = re.match(r"\s*-\s", bare)
        # No pattern for the rest: one that may begin with spaces as well takes time with the square of their number.
        value = bare[match.end() :].strip() if match else ""
        value = value[value[:1] in ("'", '"') : len(value) - (value[-1:] in ("'", '"'))]
        if not inside or not value or '"' in value or "'" in value or value.endswith(":"):
            continue
        item = value.split("::")[-1]
        if item.startswith(("-", ".")) or re.match(r"(python|pip)([=<> ]|$)", item):
            continue
        # name=1.2=build of conda is name==1.2.*
        conda = re.fullmatch(r"([A-Za-z0-9._-]+)=([0-9][A-Za-z0-9._]*)(=.*)?", item)
        if conda:
            yield f"{conda[1]}=={conda[2]}.*" if not conda[3] else f"{conda[1]}=={conda[2]}"
        else:
            yield item
