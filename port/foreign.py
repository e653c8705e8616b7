"""What production code must not hold: model classes of diffusers and transformers, official code, remnants."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FOREIGN = ("diffusers", "transformers")
Note = Callable[[int, str], None]

_NO_MODEL = re.compile(
    r"(Tokenizer|TokenizerFast|Processor|FeatureExtractor|Config|Output|OutputWith\w+|Mixin|Cache|Scheduler|Schedulers"
    r"|Converter|Mask\w*|Criteria|List)$"
)
_MODEL = {
    "diffusers": re.compile(
        r"(Model|Pipeline|Transformer\w*|Autoencoder\w*|UNet\w*|VAE\w*|Encoder\d*|Decoder\d*|ControlNet\w*|Attention"
        r"|Block\w*|Adapter|Embedding\w*|FeedForward|Norm\w*)$"
    ),
    "transformers": re.compile(
        r"(Model|PreTrainedModel|LMHeadModel|Encoder|EncoderModel|Decoder|Attention|MLP|Layer|Embeddings"
        r"|For[A-Z]\w*|WithProjection|AutoModel\w*|RMSNorm|RotaryEmbedding)$"
    ),
}
_REMNANTS = ("print", "breakpoint", "torch.save", "np.save", "torchvision.utils.save_image")
_MODEL_MODULES = re.compile(r"diffusers\.(models|pipelines)|transformers\.models\.\w+\.(modeling|modular)_")


@dataclass(frozen=True)
class Spot:
    """Something seen at a line."""

    line: int
    what: str


def is_model_class(package: str, name: str) -> bool:
    """Whether a name of diffusers or transformers is, by its name, a model class or a part of one."""
    return name[:1].isupper() and _MODEL[package].search(name) is not None and _NO_MODEL.search(name) is None


def foreign_models(tree: ast.Module) -> list[Spot]:
    """Model classes of diffusers and transformers that a module imports or reaches, wherever in it; not type hints'."""
    hints = _type_checking(tree)
    aliases: dict[str, str] = {}
    found: dict[tuple[int, str], Spot] = {}

    def note(line: int, what: str) -> None:
        if line not in hints:
            found.setdefault((line, what), Spot(line, what))

    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and _package(node.module):
            for alias in node.names:
                _from(node, alias, aliases, note)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _package(alias.name):
                    bound = alias.name if alias.asname else _package(alias.name)
                    aliases[alias.asname or bound] = bound
                    if _MODEL_MODULES.match(alias.name):
                        note(node.lineno, f"import {alias.name}")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and (module := _dynamic(node.value)):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    aliases[target.id] = module
    for node in nodes:
        if isinstance(node, ast.Call):
            _called(node, aliases, note)
        elif isinstance(node, ast.Attribute):
            module = _root(node, aliases)
            if module and is_model_class(_package(module), node.attr):
                note(node.lineno, f"{module}.{node.attr}")
    return sorted(found.values(), key=lambda spot: spot.line)


def _from(node: ast.ImportFrom, alias: ast.alias, aliases: dict[str, str], note: Note) -> None:
    assert node.module is not None
    package = _package(node.module)
    if alias.name == "*" and (node.module == package or _MODEL_MODULES.match(node.module + ".")):
        note(node.lineno, f"{node.module}.*")
    elif is_model_class(package, alias.name):
        renamed = f" as {alias.asname}" if alias.asname else ""
        note(node.lineno, f"{node.module}.{alias.name}{renamed}")
    elif alias.name[:1].islower():
        aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"


def _called(node: ast.Call, aliases: dict[str, str], note: Note) -> None:
    """``import_module("diffusers.models.x")`` and ``getattr(diffusers, "WanTransformer3DModel")``."""
    module = _dynamic(node)
    if module and _MODEL_MODULES.match(module):
        note(node.lineno, f"import_module({module!r})")
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name == "getattr" and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
        source = node.args[0]
        owner = _dynamic(source) if isinstance(source, ast.Call) else _dotted(source, aliases)
        attribute = node.args[1].value
        if owner and isinstance(attribute, str) and is_model_class(_package(owner), attribute):
            note(node.lineno, f"getattr({owner}, {attribute!r})")


def _dynamic(node: ast.Call) -> str:
    """The literal module of ``importlib.import_module(...)`` or ``__import__(...)`` if it is a foreign one."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in ("import_module", "__import__") or not node.args or not isinstance(node.args[0], ast.Constant):
        return ""
    value = node.args[0].value
    return value if isinstance(value, str) and _package(value) else ""


def _package(module: str | None) -> str:
    top = (module or "").split(".")[0]
    return top if top in FOREIGN else ""


def _root(node: ast.Attribute, aliases: dict[str, str]) -> str:
    """The foreign module that ``node``'s value is, by its name: ``diffusers.models`` of ``diffusers.models.X``."""
    if isinstance(node.value, ast.Call):
        return _dynamic(node.value)
    return _dotted(node.value, aliases)


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return ""
    return ".".join([aliases[node.id], *reversed(parts)])


def _type_checking(tree: ast.Module) -> set[int]:
    """Lines below ``if TYPE_CHECKING:``."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and _name(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            for part in node.body:
                lines |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    return lines


def imports_of(tree: ast.Module, packages: frozenset[str]) -> list[Spot]:
    """Imports of any of these top-level packages, also lazy and literal dynamic ones."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in packages:
            found.append(Spot(node.lineno, f"from {node.module} import ..."))
        elif isinstance(node, ast.Import):
            found += [Spot(node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in packages]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            value = node.args[0].value
            if name in ("import_module", "__import__") and isinstance(value, str) and value.split(".")[0] in packages:
                found.append(Spot(node.lineno, f"import_module({value!r})"))
    return found


def official_packages(names: list[str]) -> frozenset[str]:
    """Which entries of an official repository's root would be importable, without those that are everyone's."""
    everyones = {"tests", "test", "examples", "docs", "scripts", "tools", "assets", "setup", "fastvideo", "utils"}
    stems = {name.removesuffix(".py") for name in names}
    return frozenset(s for s in stems if s.isidentifier() and s not in everyones and s not in sys.stdlib_module_names)


def remnants(tree: ast.Module) -> list[Spot]:
    """Prints, breakpoints, debuggers and saved tensors."""
    return sorted(_remnants(tree), key=lambda spot: spot.line)


def _remnants(tree: ast.Module) -> Iterator[Spot]:
    main = [n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.dump(n.test)]
    exempt = {line for n in main for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if line in exempt:
            continue
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name in _REMNANTS or name.endswith(".set_trace"):
                yield Spot(line, f"{name}(...)")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if {"pdb", "ipdb", "pudb"} & {name.split(".")[0] for name in names}:
                yield Spot(line, "a debugger is imported")


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}".lstrip(".")
    return ""


def attention_spots(tree: ast.Module, in_dit: bool) -> tuple[list[Spot], bool]:
    """Where the attention convention is broken, and whether the module builds a distributed self-attention at all.

    ``DistributedAttention`` (and its variants) exchanges heads over sequence-parallel ranks, which only the full
    self-attention of a DiT may do; cross-attention, encoders and VAEs use ``LocalAttention``.
    """
    spots, distributed = [], False
    for owner, node in _calls(tree):
        name = _name(node.func).rpartition(".")[2]
        if not name.startswith("DistributedAttention"):
            continue
        target = _assigned(tree, node)
        if not in_dit:
            spots.append(Spot(node.lineno, f"{name} outside a DiT: use LocalAttention"))
        elif re.search(r"cross|attn2|attn_2", f"{owner}.{target}", re.IGNORECASE):
            spots.append(Spot(node.lineno, f"{name} for cross-attention ({owner}.{target}): use LocalAttention"))
        else:
            distributed = True
    return spots, distributed


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for item in tree.body:
        owner = item.name if isinstance(item, ast.ClassDef) else ""
        for node in ast.walk(item):
            if isinstance(node, ast.Call):
                yield owner, node


def _assigned(tree: ast.Module, call: ast.Call) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.value is call:
            return _name(node.targets[0]).rpartition(".")[2]
    return ""
