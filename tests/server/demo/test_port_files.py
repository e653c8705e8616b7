"""What the demo's agent writes is what FastVideo's tree and check_integration ask for."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastvideo_port.server.demo import acts, papers, port_files
from fastvideo_port.server.demo.person import NOTE, Person
from fastvideo_port.server.demo.show import Show
from rich.console import Console

WRITTEN = Path(port_files.__file__).with_name("written")


def test_the_registration_stands_among_the_others_and_is_python(fastvideo_repo: Path) -> None:
    port_files.register(fastvideo_repo)
    tree = ast.parse((fastvideo_repo / "fastvideo" / "registry.py").read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if getattr(node, "name", "") == "_register_configs"]
    assert port_files.MODEL_ID in ast.unparse(function)


@pytest.mark.parametrize("name", [*(item["name"] for item in acts.COMPONENTS), "pipeline"])
def test_every_component_gets_its_adapter_where_the_plan_looks(name: str, tmp_path: Path) -> None:
    outline = port_files.write_adapter(tmp_path, name)
    assert "def load_port(ctx)" in outline and "def call_official(" in outline
    assert (tmp_path / port_files.TESTS / f"parity_{name}.py").is_file()


def test_the_example_names_the_registered_model_and_both_videos_ask_for_the_same() -> None:
    example = (WRITTEN / "basic_wan_tiny.py").read_text(encoding="utf-8")
    official = (WRITTEN / "official_video.py").read_text(encoding="utf-8")
    assert f'MODEL = "{port_files.MODEL_ID}"' in example
    for same in ("height=96", "width=160", "num_frames=9", "num_inference_steps=6", "guidance_scale=4.0", "1024"):
        assert same in example and same in official, same
    for words in ("a red fox runs over the snow", "blurred low quality"):
        assert words in example and words in official


def test_the_documents_hold_what_the_example_measured(tmp_path: Path) -> None:
    cost = (tmp_path / port_files.VIDEO).with_suffix(".json")
    cost.parent.mkdir(parents=True)
    for seconds in (12.34, 56.78):
        cost.write_text(json.dumps({"seconds": seconds, "memory_gib": 1.25, "device": "cpu"}))
        papers.write(tmp_path, "port-1")
        page = (tmp_path / papers.PAGE).read_text(encoding="utf-8")
        assert f"{seconds} s" in page and "1.25 GiB" in page
    assert port_files.MODEL_ID in (tmp_path / papers.MATRIX).read_text(encoding="utf-8")


def test_without_a_measurement_there_are_no_documents(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        papers.write(tmp_path, "port-1")


def test_the_person_sees_the_dialogue_and_the_answer_says_who_gave_it(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as out:
        person = Person(Show(Console(file=out, width=120)))
        answer = asyncio.run(person(None, SimpleNamespace(message="Please review\n\n" + "a line\n" * 40)))
    assert answer.action == "accept" and answer.content == {"decision": "approve", "note": NOTE}
    shown = (tmp_path / "out.txt").read_text()
    assert "Please review" in shown and "more lines" in shown and "script" in shown


def test_a_test_written_after_another_names_its_own_classes(tmp_path: Path) -> None:
    """check_integration looks for both classes in the test of each component."""
    from fastvideo_port.port.templates import render

    first, _, encoder = acts.COMPONENTS[:3]
    sides = {}
    for side in ("official", "port"):
        module, _, name = first[side].rpartition(".")
        sides[side] = {"path": first[side], "module": module, "name": name}
    common = {"component": "transformer", "kind": "dit", "weights": "w", "patches": True}
    text = render("scaffold/test.py.j2", **common, **sides, adapter_stem="parity_transformer")
    folder = tmp_path / port_files.TESTS
    folder.mkdir(parents=True)
    (folder / "test_transformer_parity.py").write_text(text, encoding="utf-8")
    found = (tmp_path / port_files.copy_test(tmp_path, first, encoder)).read_text(encoding="utf-8")
    assert encoder["official"] in found and encoder["port"] in found and 'HERE / "parity_text_encoder.py"' in found
    assert "diffusers" not in found and "WanTransformer3DModel" not in found and "FastVideo and transformers." in found
    ast.parse(found)
