"""Tests and example of a port, and what its production code must not hold."""

from __future__ import annotations

import re
from pathlib import Path

from .foreign import Spot, attention_spots, foreign_models, imports_of, official_packages, remnants
from .plan_steps import tested
from .records import ComponentRecord, PortRecord
from .source_tree import SourceTree
from .wiring import Row, Wiring, strings_in

_TESTS = ("fastvideo/tests/", "fastvideo/third_party/", "fastvideo/train/", "fastvideo/training/")

_UNIT_TESTS = ("fastvideo/tests/transformers", "fastvideo/tests/vaes", "fastvideo/tests/encoders")
_COMPARES = re.compile(r"assert_close|allclose|torch\.equal|\.abs\(\)\.(max|mean)|cosine_similarity|max_diff")


def test_rows(port: PortRecord, tree: SourceTree, wiring: Wiring) -> list[Row]:
    """Tests that compare numbers with the official class, and FastVideo's own quality test."""
    rows = []
    paths = [
        path
        for folder in (f"tests/local_tests/{port.slug}", "tests/local_tests", *_UNIT_TESTS)
        for path in tree.files(folder, ".py")
        if Path(path).name.startswith("test_")
    ]
    for component in port.components:
        if tested(component):
            rows.append(_parity_test(component, list(dict.fromkeys(paths)), port.slug, tree))
    names = {part for item in wiring.ids for part in (item, item.rpartition("/")[2])}
    for path in tree.files("fastvideo/tests/ssim", "_similarity.py"):
        body = tree.tree(path)
        if body is not None and strings_in(body) & names:
            rows.append(Row("ssim-test", "found", path, "names a registered id"))
            break
        tree.forget(path)
    else:
        what = "FastVideo's quality test of this model is missing: test_<family>_similarity.py with a registered id."
        rows.append(Row("ssim-test", "missing", "fastvideo/tests/ssim/", what))
    return rows


def _parity_test(component: ComponentRecord, paths: list[str], slug: str, tree: SourceTree) -> Row:
    """A test file that names both sides and compares numbers."""
    name, official = component.port.rpartition(".")[2], component.official.split(".")[0]
    for path in paths:
        text = tree.text(path)
        both = re.search(rf"\b{re.escape(name)}\b", text) and re.search(rf"\b{re.escape(official)}\b", text)
        if both and "fastvideo" in text and _COMPARES.search(text):
            return Row(
                "parity-test",
                "found",
                path,
                f"{component.name}: names {name} and {official}, compares numbers",
                component.name,
            )
        tree.forget(path)
    what = (
        f"Write test_{component.name}_parity.py there: {name} against {component.official}, on torch and pytest alone."
    )
    return Row("parity-test", "missing", f"tests/local_tests/{slug}/", what)


def example_row(tree: SourceTree, wiring: Wiring) -> tuple[list[Row], str]:
    """The first example with a registered id, and its path."""
    for path in tree.files("examples/inference/basic", ".py"):
        body = tree.tree(path)
        hit = strings_in(body) & set(wiring.ids) if body else set()
        if hit:
            return [Row("example", "found", path, f"uses {sorted(hit)[0]}")], path
        tree.forget(path)
    what = "Write basic_<family>.py there: VideoGenerator.from_pretrained with a registered id, and a video."
    return [Row("example", "missing", "examples/inference/basic/", what)], ""


def hygiene_rows(port: PortRecord, tree: SourceTree, wiring: Wiring) -> list[Row]:
    """Foreign models, official code, remnants and attention, in the port's files and all that the branch changed."""
    changed = [path for path in tree.added or {} if path.startswith("fastvideo/") and path.endswith(".py")]
    production = [*wiring.production, *(path for path in changed if not path.startswith(_TESTS))]
    official = _official(port)
    rows: list[Row] = []
    for path in dict.fromkeys(production):
        parsed = tree.tree(path) if tree.exists(path) else None
        if parsed is None:
            continue
        for spot in foreign_models(parsed):
            rows.append(_spot("foreign-model", path, spot, tree, "port the class instead; FastVideo may not import it"))
        for spot in imports_of(parsed, official):
            rows.append(_spot("official-code", path, spot, tree, "the port must not call the official code"))
        for spot in remnants(parsed):
            if tree.is_new(path, spot.line) and path in changed:
                rows.append(
                    Row("remnant", "wrong", f"{path}:{spot.line}", f"{spot.what}: take it out, or use the logger.")
                )
        kind = wiring.production.get(path, "")
        if kind in ("dit", "vae", "encoder"):
            spots, distributed = attention_spots(parsed, kind == "dit")
            rows += [Row("attention", "wrong", f"{path}:{spot.line}", f"{spot.what}.") for spot in spots]
            if kind == "dit" and not distributed:
                what = "No DistributedAttention: without it sequence parallelism computes each part of the video alone."
                rows.append(Row("attention", "note", path, what))
            elif kind == "dit" and not spots:
                rows.append(Row("attention", "found", path, "DistributedAttention for self-attention only"))
    return rows


def _spot(id_: str, path: str, spot: Spot, tree: SourceTree, advice: str) -> Row:
    new = tree.is_new(path, spot.line)
    before = "" if new else " (there before this branch)"
    return Row(id_, "wrong" if new else "note", f"{path}:{spot.line}", f"{spot.what}{before}: {advice}.")


def _official(port: PortRecord) -> frozenset[str]:
    names: list[str] = []
    if port.official_repo:
        try:
            root = Path(port.official_repo)
            names = [p.name for p in root.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
        except OSError:
            names = []
    return official_packages(names)
