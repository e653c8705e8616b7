"""Is the port wired into FastVideo? Read by parsing alone: model, configs, registration, pipeline, tests, docs."""

from __future__ import annotations

import ast
import re

from .integration_docs import docs_rows
from .integration_rest import example_row, hygiene_rows, test_rows
from .records import ComponentRecord, PortRecord
from .source_tree import SourceTree
from .wiring import REGISTRY, Row, State, Wiring, assigned, bases, classes, names_in, strings_in

_BUCKETS = {"dit": "dits", "vae": "vaes", "encoder": "encoders"}
_MAPPINGS = ("param_names_mapping", "stacked_params_mapping")

OPTIONAL = frozenset({"ssim-test"})
"""Rows that may be missing: FastVideo's own SSIM tests need its GPUs and references."""


def integration(port: PortRecord, tree: SourceTree) -> tuple[list[Row], set[str]]:
    """Everything that was looked for, in the order of the work, and the files that the answer rests on."""
    wiring = Wiring()
    rows: list[Row] = []
    for component in port.components:
        rows += _component_rows(component, tree, wiring)
    configs = _pipeline_configs(tree, wiring)
    registration = _registration_rows(port, tree, wiring, configs)
    rows += _pipeline_config_rows(configs, wiring) + registration
    rows += _preset_rows(tree, wiring)
    rows += _pipeline_rows(tree, wiring)
    rows += test_rows(port, tree, wiring)
    example, script = example_row(tree, wiring)
    rows += example
    rows += [Row(*found) for found in docs_rows(port, tree, wiring.ids, wiring.families, script)]
    rows += hygiene_rows(port, tree, wiring)
    rows += [Row("unreadable", _bad(path, wiring), path, why) for path, why in sorted(tree.problems.items())]
    files = {row.where.partition(":")[0] for row in rows if row.state in ("found", "wrong")} | set(wiring.production)
    return rows, files & set(tree.read)


def passes(rows: list[Row]) -> bool:
    """Whether nothing that is asked for is missing or wrong."""
    return bool(rows) and not any(
        row.state == "wrong" or (row.state == "missing" and row.id not in OPTIONAL) for row in rows
    )


def _bad(path: str, wiring: Wiring) -> State:
    return "wrong" if path in wiring.production or path == REGISTRY else "note"


def _module_file(tree: SourceTree, dotted: str) -> str:
    base = dotted.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if tree.exists(path)), f"{base}.py")


def _component_rows(component: ComponentRecord, tree: SourceTree, wiring: Wiring) -> list[Row]:
    if component.kind == "tokenizer" or not component.port.startswith("fastvideo."):
        return []
    module, _, name = component.port.rpartition(".")
    path = _module_file(tree, module)
    wiring.production[path] = component.kind
    wiring.model_classes.append(name)
    parsed = tree.tree(path) if tree.exists(path) else None
    found = classes(parsed).get(name) if parsed else None
    if parsed is None or found is None:
        what = f"Write class {name} of component {component.name} there, or correct its import path with write_plan."
        return [Row("model", "missing", path, what)]
    rows = [Row("model", "found", f"{path}:{found.lineno}", f"class {name}, component {component.name}")]
    entry = assigned(parsed.body, "EntryClass")
    if entry is None or name not in names_in(entry[1]):
        listed = f"models/registry.py names {name}" if _in_registry_table(tree, name) else ""
        state: State = "note" if listed else "missing"
        advice = f"Add `EntryClass = {name}` at the end of the module: without it FastVideo does not find the class."
        rows.append(Row("entry-class", state, f"{path}:{entry[0]}" if entry else path, listed or advice))
    else:
        rows.append(Row("entry-class", "found", f"{path}:{entry[0]}", f"EntryClass has {name}"))
    if component.kind in _BUCKETS:
        rows += _config_rows(component.kind, parsed, path, tree, wiring)
    return rows


def _in_registry_table(tree: SourceTree, name: str) -> bool:
    parsed = tree.tree("fastvideo/models/registry.py") if tree.exists("fastvideo/models/registry.py") else None
    return parsed is not None and name in strings_in(parsed)


def _config_rows(kind: str, parsed: ast.Module, path: str, tree: SourceTree, wiring: Wiring) -> list[Row]:
    """The model's config class, its mapping, and its export."""
    bucket = f"fastvideo/configs/models/{_BUCKETS[kind]}"
    asked = [
        alias.name
        for node in ast.walk(parsed)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(bucket.replace("/", "."))
        for alias in node.names
    ]
    defined = {}
    for file in tree.files(bucket, ".py"):
        body = tree.tree(file)
        for name, node in (classes(body) if body else {}).items():
            defined[name] = (file, node)
    there = [name for name in asked if name in defined and name.endswith("Config")]
    used = [name for name in there if not name.endswith("ArchConfig")] or there
    if not used:
        what = f"{path} imports no config class from {bucket.replace('/', '.')}: write one and take it there."
        return [Row("model-config", "missing", bucket, what)]
    rows = []
    exported = tree.tree(f"{bucket}/__init__.py") if tree.exists(f"{bucket}/__init__.py") else None
    known = names_in(exported) | strings_in(exported) if exported else set()
    imported = (
        {a.name for n in ast.walk(exported) if isinstance(n, ast.ImportFrom) for a in n.names} if exported else ()
    )
    for name in dict.fromkeys(used):
        file, node = defined[name]
        wiring.configs.append(name)
        wiring.production.setdefault(file, "config")
        rows.append(Row("model-config", "found", f"{file}:{node.lineno}", f"class {name}"))
        mapping = _mapping(node, defined)
        if mapping:
            rows.append(Row("mapping", "found", f"{mapping[0]}:{mapping[1]}", mapping[2]))
        elif kind == "dit":
            what = f"Give {name}'s arch config a param_names_mapping, an empty one if all names agree."
            rows.append(Row("mapping", "missing", f"{file}:{node.lineno}", what))
        if name in imported or name in known:
            rows.append(Row("config-export", "found", f"{bucket}/__init__.py", f"{name} is exported"))
        else:
            rows.append(Row("config-export", "missing", f"{bucket}/__init__.py", f"Import {name} there."))
    return rows


def _mapping(node: ast.ClassDef, defined: dict[str, tuple[str, ast.ClassDef]]) -> tuple[str, int, str] | None:
    """File, line and name of the mapping: in the class, in what it refers to, or in a base."""
    todo, seen = [node.name], set[str]()
    while todo:
        name = todo.pop(0)
        if name in seen or name not in defined:
            continue
        seen.add(name)
        file, current = defined[name]
        for mapping in _MAPPINGS:
            # FastVideo's base.py gives every config an empty mapping, which is nobody's decision.
            if (found := assigned(current.body, mapping)) and not file.endswith("/base.py"):
                return file, found[0], f"{mapping} in {name}"
        inherited = bases(current)
        todo += sorted((names_in(current) & set(defined)) - inherited) + sorted(inherited)
    return None


def _pipeline_files(tree: SourceTree) -> list[str]:
    inside = [p for p in tree.files("fastvideo/pipelines/basic", ".py") if p.endswith("pipeline_configs.py")]
    return tree.files("fastvideo/configs/pipelines", ".py") + inside


_Defined = dict[str, tuple[str, ast.ClassDef]]


def _pipeline_configs(tree: SourceTree, wiring: Wiring) -> _Defined:
    """The pipeline config classes that use a config of the port, and those derived from them."""
    defined: _Defined = {}
    for path in _pipeline_files(tree):
        body = tree.tree(path)
        for name, node in (classes(body) if body else {}).items():
            defined[name] = (path, node)
    # The DiT's config says whose pipeline it is; a VAE or text encoder is shared by many.
    dits = set(wiring.configs) & _dit_configs(tree) or set(wiring.configs)
    found = {name for name, (_, node) in defined.items() if names_in(node) & dits}
    grown = True
    while grown:
        more = {name for name, (_, node) in defined.items() if bases(node) & found} - found
        found, grown = found | more, bool(more)
    return {name: defined[name] for name in sorted(found)}


def _pipeline_config_rows(found: _Defined, wiring: Wiring) -> list[Row]:
    """Those that the port's registrations name, else all."""
    if not found:
        what = f"Write a PipelineConfig with dit_config={', '.join(wiring.configs[:1]) or 'the config of the DiT'}."
        return [Row("pipeline-config", "missing", "fastvideo/configs/pipelines/", what)]
    own = [name for name in wiring.pipeline_configs if name in found] or list(found)
    for name in own:
        wiring.production.setdefault(found[name][0], "config")
    path, node = found[own[0]]
    more = f" and {len(own) - 1} more" if len(own) > 1 else ""
    return [Row("pipeline-config", "found", f"{path}:{node.lineno}", f"class {own[0]}{more}")]


def _dit_configs(tree: SourceTree) -> set[str]:
    found: set[str] = set()
    for path in tree.files("fastvideo/configs/models/dits", ".py"):
        body = tree.tree(path)
        found |= set(classes(body)) if body else set()
    return found


_Call = tuple[ast.Call, dict[str, ast.expr]]


def _own(port: PortRecord, calls: list[_Call], tree: SourceTree) -> list[_Call]:
    """Those of this port, among all that use its configs: the branch's, else those of its weights, else of its name."""

    def strings(call: _Call, name: str) -> set[str]:
        return strings_in(call[1][name]) if name in call[1] else set()

    new = [call for call in calls if tree.added and tree.is_new(REGISTRY, call[0].lineno)]
    source = port.weights.source if port.weights else ""
    weights = [call for call in calls if source and source in strings(call, "hf_model_paths")]
    name = re.sub(r"[^a-z0-9]", "", port.slug)
    plain = [(call, {re.sub(r"[^a-z0-9]", "", item) for item in strings(call, "model_family")}) for call in calls]
    exact = [call for call, families in plain if name in families]
    near = [call for call, families in plain if any(item and (item in name or name in item) for item in families)]
    return new or weights or exact or near or calls


def _registration_rows(port: PortRecord, tree: SourceTree, wiring: Wiring, configs: _Defined) -> list[Row]:
    wiring.production.setdefault(REGISTRY, "registry")
    parsed = tree.tree(REGISTRY) if tree.exists(REGISTRY) else None
    if parsed is None:
        return [Row("registration", "missing", REGISTRY, "The registry cannot be read: repair it first.")]
    calls = [
        node
        for node in ast.walk(parsed)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "register_configs"
    ]
    mine: list[_Call] = []
    for call in calls:
        given = {word.arg: word.value for word in call.keywords if word.arg}
        config = given.get("pipeline_config_cls")
        if config is not None and names_in(config) & set(configs):
            mine.append((call, given))
    if not mine:
        what = (
            f"None of its {len(calls)} register_configs calls takes a pipeline config of this port: add one with "
            "pipeline_config_cls, hf_model_paths, model_family, default_preset and workload_types."
        )
        return [Row("registration", "missing", REGISTRY, what)]
    mine = _own(port, mine, tree)
    rows = []
    for _, given in mine:
        wiring.pipeline_configs += sorted(names_in(given["pipeline_config_cls"]))
        wiring.ids += sorted(strings_in(given["hf_model_paths"])) if "hf_model_paths" in given else []
        wiring.families += sorted(strings_in(given["model_family"])) if "model_family" in given else []
        wiring.presets += sorted(strings_in(given["default_preset"])) if "default_preset" in given else []
        wiring.pipelines += sorted(strings_in(given["pipeline_cls_name"])) if "pipeline_cls_name" in given else []
    wiring.families = list(dict.fromkeys(wiring.families))
    line = mine[0][0].lineno
    shown = ", ".join(wiring.ids[:3]) + (f" and {len(wiring.ids) - 3} more" if len(wiring.ids) > 3 else "")
    rows.append(Row("registration", "found", f"{REGISTRY}:{line}", f"{len(mine)} register_configs call(s): {shown}"))
    for call, given in mine:
        lacking = [name for name in ("hf_model_paths", "model_family", "default_preset") if name not in given]
        if lacking:
            rows.append(
                Row("registration", "missing", f"{REGISTRY}:{call.lineno}", f"This call lacks {', '.join(lacking)}.")
            )
    return rows


def _preset_rows(tree: SourceTree, wiring: Wiring) -> list[Row]:
    if not wiring.presets:
        what = "Name a default_preset in register_configs, and write it as InferencePreset(...) in presets.py."
        return [Row("presets", "missing", "fastvideo/pipelines/basic/", what)]
    wanted = dict.fromkeys(wiring.presets)
    found: dict[str, str] = {}
    for path in tree.files("fastvideo/pipelines/basic", "presets.py"):
        body = tree.tree(path)
        if body is None:
            continue
        for node in ast.walk(body):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InferencePreset":
                given = {word.arg: word.value for word in node.keywords}
                name = next(iter(strings_in(given["name"])), "") if "name" in given else ""
                if name in wanted:
                    found[name] = f"{path}:{node.lineno}"
                    wiring.production.setdefault(path, "presets")
                    wiring.folders.append(path.rpartition("/")[0])
    wiring.folders = list(dict.fromkeys(wiring.folders))
    rows = [
        Row("presets", "missing", REGISTRY, f"The registry names the preset {name!r}, and no presets.py defines it.")
        for name in wanted
        if name not in found
    ]
    if not rows:
        first = next(iter(wanted))
        rows.append(Row("presets", "found", found[first], f"default presets: {', '.join(list(wanted)[:4])}"))
    registry = tree.tree(REGISTRY)
    imported = {n.module for n in ast.walk(registry) if isinstance(n, ast.ImportFrom)} if registry else set()
    for folder in wiring.folders:
        if f"{folder.replace('/', '.')}.presets" not in imported:
            what = f"Import ALL_PRESETS of {folder}/presets.py in _register_presets: its presets are never registered."
            rows.append(Row("presets", "missing", REGISTRY, what))
    return rows


def _pipeline_rows(tree: SourceTree, wiring: Wiring) -> list[Row]:
    folders = wiring.folders or [f"fastvideo/pipelines/basic/{name}" for name in wiring.families]
    rows: list[Row] = []
    entries: list[tuple[int, str, str, ast.ClassDef]] = []
    for folder in folders:
        for path in tree.files(folder, ".py"):
            body = tree.tree(path)
            wiring.production.setdefault(path, "pipeline")
            entry = assigned(body.body, "EntryClass") if body else None
            for name, node in (classes(body) if body and entry else {}).items():
                if entry and name in names_in(entry[1]) and (not wiring.pipelines or name in wiring.pipelines):
                    entries.append((len(name), name, path, node))
    # A family has many; the plainest name is its base, and the others are asked only for what they lack.
    for number, (_, name, path, node) in enumerate(sorted(entries, key=lambda item: item[:3])):
        found = _one_pipeline(path, name, node, tree, folders)
        rows += found if number == 0 else [row for row in found if row.state == "missing"]
    if not entries:
        place = folders[0] if folders else "fastvideo/pipelines/basic/<family>/"
        what = "Write the pipeline class there, with EntryClass, _required_config_modules and create_pipeline_stages."
        rows.append(Row("pipeline", "missing", place, what))
    return rows


def _one_pipeline(path: str, name: str, node: ast.ClassDef, tree: SourceTree, folders: list[str]) -> list[Row]:
    rows = [Row("pipeline", "found", f"{path}:{node.lineno}", f"class {name}")]
    chain = _with_bases(name, tree, folders)
    modules = next((item for part in chain if (item := assigned(part[1].body, "_required_config_modules"))), None)
    if modules is None or not strings_in(modules[1]):
        what = f"Give {name} a literal list _required_config_modules with the keys of model_index.json."
        rows.append(Row("required-modules", "missing", f"{path}:{node.lineno}", what))
    else:
        rows.append(Row("required-modules", "found", path, ", ".join(sorted(strings_in(modules[1])))))
    stages = [
        item
        for _, part in chain
        for item in ast.walk(part)
        if isinstance(item, ast.Call) and getattr(item.func, "attr", "").startswith("add_")
    ]
    names = sorted({n for item in stages for n in names_in(item) if n.endswith("Stage")})
    if names:
        rows.append(Row("stages", "found", f"{path}:{stages[0].lineno}", ", ".join(names)[:300]))
    else:
        what = f"Add stages in create_pipeline_stages of {name} (self.add_stage(...))."
        rows.append(Row("stages", "missing", f"{path}:{node.lineno}", what))
    return rows


def _with_bases(name: str, tree: SourceTree, folders: list[str]) -> list[tuple[str, ast.ClassDef]]:
    """The class and those of its bases that stand in the same folders, nearest first."""
    defined = {}
    for folder in folders:
        for path in tree.files(folder, ".py"):
            body = tree.tree(path)
            for key, node in (classes(body) if body else {}).items():
                defined[key] = (path, node)
    found, todo = [], [name]
    while todo:
        current = todo.pop(0)
        if current in defined and defined[current] not in found:
            found.append(defined[current])
            todo += sorted(bases(defined[current][1]))
    return found
