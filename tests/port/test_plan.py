"""A plan can be written again and again, and nothing that a person put into it is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.plan import MAX_PLAN_BYTES, read_plan, render_plan, step_states, ticked_steps, write_plan_file
from fastvideo_port.port.plan_markdown import Unit, find_anchors, split_lines, split_units
from fastvideo_port.port.plan_merge import merge_lines, merge_plan
from fastvideo_port.port.plan_steps import PlanDraft, check_components, default_adapter, steps_of
from fastvideo_port.port.records import ComponentRecord
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def component(name: str = "transformer", kind: str = "dit", **changes: str) -> ComponentRecord:
    values = {
        "name": name,
        "kind": kind,
        "official": f"diffusers.Official_{name}",
        "port": f"fastvideo.models.Port_{name}",
        "adapter": default_adapter("wan", name),
        **changes,
    }
    return ComponentRecord.model_validate(values)


def draft(*components: ComponentRecord, scope: str = "T2V at 480p", risks: tuple[str, ...] = ("RoPE",)) -> PlanDraft:
    checked = check_components(list(components or (component(),)))
    return PlanDraft("Wan", "codex/port-wan", "abc123", "", scope, checked, ("bf16",), risks)


DIT = draft()
BOTH = draft(component("vae", "vae"), component(), scope="T2V and I2V", risks=("RoPE", "VAE cache"))


class TestGenerated:
    def test_seven_sections_in_order_and_every_step_with_its_criterion(self) -> None:
        text = render_plan(BOTH)
        keys = [anchor.key for anchor in find_anchors(split_lines(text))]
        assert [key for key in keys if key.startswith("section")] == [f"section:{n}" for n in range(1, 8)]
        steps = steps_of(BOTH)
        assert {f"step:{step.id}" for step in steps} == {key for key in keys if key.startswith("step")}
        assert text.count("Accepted when: ") == len(steps)

    def test_it_says_first_that_no_measurement_ticks_a_box(self) -> None:
        """Read alone, a plan without ticks would say that nothing is done."""
        beginning = render_plan(BOTH).partition("\n## ")[0]
        assert "An empty box does not mean an open step." in beginning and "`final_report`" in beginning

    def test_the_dit_comes_first_however_it_was_given(self) -> None:
        text = render_plan(BOTH)
        assert text.index("`parity-transformer`") < text.index("`parity-vae`")

    def test_ids_follow_from_component_and_milestone(self) -> None:
        ids = {step.id for step in steps_of(DIT)}
        assert {"mapping-transformer", "adapter-transformer", "parity-transformer", "test-transformer"} <= ids

    def test_a_scheduler_has_no_weights_to_map(self) -> None:
        ids = {step.id for step in steps_of(draft(component("scheduler", "scheduler")))}
        assert "parity-scheduler" in ids and "mapping-scheduler" not in ids

    def test_a_mapping_needs_a_person(self) -> None:
        assert [step.id for step in steps_of(BOTH) if step.needs_approval] == ["mapping-transformer", "mapping-vae"]

    def test_every_tool_that_the_plan_names_exists(self) -> None:
        tools = {path.stem for path in (ROOT / "tools").glob("*.py") if "\nSPEC = " in path.read_text(encoding="utf-8")}
        names = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", render_plan(BOTH)))
        assert names and names <= tools

    @pytest.mark.parametrize(
        "text",
        [
            "{{ 7 * 7 }}",
            "```\nfence",
            "## 2. Mine",
            "- [x] `parity-transformer` done",
            "<!-- open",
            "<div>",
            "    code",
        ],
    )
    def test_text_of_an_agent_cannot_pose_as_structure(self, text: str) -> None:
        plain = [anchor.key for anchor in find_anchors(split_lines(render_plan(DIT)))]
        hostile = PlanDraft("W", text, text, text, text, DIT.components, (text, f"[x] `ssim` {text}"), (text,))
        rendered = render_plan(hostile)
        assert [anchor.key for anchor in find_anchors(split_lines(rendered))] == plain
        assert ticked_steps(rendered) == set()


class TestReading:
    def test_ticks_of_any_style_are_seen(self) -> None:
        text = "* [X] `a-b` x\n\n1. [x] `c` y\n- [ ] `d` z\n- [x] no id\n- [x]`e` tight"
        assert ticked_steps(text) == {"a-b", "c", "e"}

    def test_what_only_looks_like_a_step_is_none(self) -> None:
        fence = "```\n- [x] `a` x\n```\n"
        assert ticked_steps(f"{fence}> - [x] `b` quoted\n\n    - [x] `c` code\n\nText [x] `d`\n- `e` [x]\n") == set()

    @given(st.text(alphabet=st.characters(), max_size=300))
    @example("- [x] ")
    @example("-\n" * 200)
    @example(">" * 5000)
    @example("\x00\r\udc80`\u2028- [x] `a`")
    def test_the_parser_takes_any_text(self, text: str) -> None:
        units = split_units(split_lines(text))
        assert sum(bool(unit.head) + len(unit.body) for unit in units) == len(split_lines(text))
        ticked_steps(text)

    @given(st.text(alphabet="-*[]x` #1.\n>~<!\r\t", max_size=120))
    def test_the_parser_takes_any_markdown(self, text: str) -> None:
        find_anchors(split_lines(text), [Unit("section:1", "## 1. Scope", []), Unit("step:a", "- [ ] `a` b", [])])


class TestMerge:
    def test_nothing_edited_takes_the_new_text(self) -> None:
        old, new = split_lines(render_plan(DIT)), split_lines(render_plan(BOTH))
        assert merge_plan(old, old, new).lines == new
        assert merge_plan(new, new, old).lines == old
        assert merge_plan(new, new, old).kept == []

    def test_a_lost_base_loses_nothing(self) -> None:
        old, new = split_lines(render_plan(DIT)), split_lines(render_plan(BOTH))
        merged = merge_plan([], [*old, "My note."], new).lines
        assert set(old) | set(new) | {"My note."} <= set(merged)

    def test_an_edited_line_stands_when_the_generated_one_did_not_change(self) -> None:
        assert merge_lines(["a", "b", "c"], ["a", "B!", "c"], ["a", "b", "c", "d"]) == ["a", "B!", "c", "d"]

    def test_both_stand_when_both_changed(self) -> None:
        assert merge_lines(["a", "b"], ["a", "mine"], ["a", "new"]) == ["a", "new", "mine"]

    lines = st.lists(st.sampled_from(["a", "b", "c", "", "d"]), max_size=8)

    @given(lines, lines)
    def test_one_side_alone_decides(self, base: list[str], other: list[str]) -> None:
        assert merge_lines(base, other, base) == other
        assert merge_lines(base, base, other) == other
        assert merge_lines(base, other, other) == other

    @given(lines, lines, lines)
    def test_what_a_person_added_is_there(self, base: list[str], mine: list[str], new: list[str]) -> None:
        own = [f"own {number}" for number, _ in enumerate(mine)]
        mixed = [line for pair in zip(mine, own, strict=True) for line in pair]
        merged = merge_lines(base, mixed, new)
        assert [line for line in merged if line.startswith("own")] == own


def boundaries(lines: list[str]) -> list[int]:
    """Where the generated blocks begin, and the end."""
    return [anchor.line for anchor in find_anchors(lines)] + [len(lines)]


TRAPS = (
    """```|~~~~|<!--|<div>|<pre>|<?|<![CDATA[|<script>|<!A|> q|===|---|    x|- x|-|1.|\\|&|`|[a]:|  ```|- ```|# T
- [x] `ssim` mine|- [ ] `own` mine|## 3. Mine|## 4. Pipeline wiring|- [ ] `parity-transformer` Parity of `transformer`
""".strip()
    .replace("\n", "|")
    .split("|")
)

human_text = st.one_of(
    st.text(alphabet=st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(TRAPS),
)


class TestHumanText:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(0, 60), st.lists(human_text, min_size=1, max_size=3)), max_size=4))
    @example([(3, ["```"]), (20, ["```"])])
    @example([(2, ["<!--"])])
    def test_any_text_between_blocks_survives(self, inserts: list[tuple[int, list[str]]]) -> None:
        old, new = split_lines(render_plan(DIT)), split_lines(render_plan(BOTH))
        places = boundaries(old)
        current = list(old)
        for place, text in sorted(inserts, key=lambda pair: -(pair[0] % len(places))):
            at = places[place % len(places)]
            current[at:at] = text
        first = merge_plan(old, current, new).lines
        for _, text in inserts:
            for line in text:
                assert line in first or re.sub(r"\[[xX]\]", "[ ]", line) in [
                    re.sub(r"\[[xX]\]", "[ ]", x) for x in first
                ]
        wanted = {anchor.key for anchor in find_anchors(new)}
        assert wanted <= {anchor.key for anchor in find_anchors(first)}
        second = merge_plan(new, first, new).lines
        assert second == first

    @pytest.mark.parametrize("opener", ["```", "~~~~", "<!--", "<pre>", "<div>"])
    def test_what_a_person_left_open_does_not_double_the_plan(self, opener: str) -> None:
        old, new = split_lines(render_plan(DIT)), split_lines(render_plan(BOTH))
        place = next(number for number, line in enumerate(old) if "`parity-transformer`" in line)
        merged = merge_plan(old, [*old[:place], opener, *old[place:]], new).lines
        extra = list(merged)
        for line in new:
            extra.remove(line)
        assert extra[0] == opener and len(extra) <= 2


class TestFile:
    def write(self, tmp_path: Path, plan: PlanDraft = DIT, **evidence: str):  # type: ignore[no-untyped-def]
        worktree, home = tmp_path / "tree", tmp_path / "home"
        worktree.mkdir(exist_ok=True)
        home.mkdir(exist_ok=True)
        return write_plan_file(worktree, home, "port-1", plan, evidence)  # type: ignore[arg-type]

    def test_ticks_items_and_prose_of_a_person_stay(self, tmp_path: Path) -> None:
        path = self.write(tmp_path).path
        text = path.read_text().replace("- [ ] `adapter-transformer`", "- [x] `adapter-transformer`")
        text = text.replace("## 4. Pipe", "- [x] my own item\n- [ ] `ask-ada` ask Ada\n\nSee notes.\n\n## 4. Pipe")
        text = text.replace("Parity of `transformer`", "Parity of the big `transformer`")
        path.write_text(text)
        again = self.write(tmp_path, BOTH)
        text = path.read_text()
        for line in ("- [x] `adapter-transformer`", "- [x] my own item", "- [ ] `ask-ada` ask Ada", "See notes."):
            assert line in text
        assert "Parity of the big `transformer`" in text and "`parity-vae`" in text and "T2V and I2V" in text
        assert next(step.state for step in again.steps if step.id == "adapter-transformer") == "claimed"
        assert {"tick of adapter-transformer", "wording of parity-transformer"} <= set(again.kept)
        assert any("ask Ada" in kept or "my own item" in kept for kept in again.kept)

    def test_writing_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        path = self.write(tmp_path).path
        stamp = path.stat().st_mtime_ns
        again = self.write(tmp_path)
        assert (again.changed, path.stat().st_mtime_ns, again.kept) == (False, stamp, [])

    def test_a_component_that_goes_takes_its_steps_and_leaves_the_notes(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, BOTH).path
        text = path.read_text().replace("- [ ] `adapter-vae`", "Note on the VAE.\n\n- [ ] `adapter-vae`", 1)
        path.write_text(re.sub(r"(`parity-vae`.*\n.*\n)", r"\1  - cache is odd\n", text))
        again = self.write(tmp_path, DIT)
        text = path.read_text()
        assert "-vae`" not in text and "Note on the VAE." in text and "  - cache is odd" in text
        assert again.removed == ["mapping-vae", "adapter-vae", "parity-vae", "test-vae"]

    def test_a_deleted_step_comes_back(self, tmp_path: Path) -> None:
        path = self.write(tmp_path).path
        path.write_text(re.sub(r"- \[ \] `parity-transformer`.*\n.*\n", "", path.read_text()))
        self.write(tmp_path)
        assert [line for line in split_lines(path.read_text()) if line] == [
            x for x in split_lines(render_plan(DIT)) if x
        ]

    def test_a_tick_is_a_claim_and_evidence_a_fact(self) -> None:
        steps = steps_of(DIT)
        states = step_states(steps, {"ssim", "parity-transformer"}, {"ssim": "in_progress", "fetch-weights": "done"})
        found = {step.id: step.state for step in states}
        assert found["parity-transformer"] == found["ssim"] == "claimed"
        assert found["fetch-weights"] == "done" and found["docs"] == "todo"

    def test_line_ends_permissions_and_foreign_bytes_stay(self, tmp_path: Path) -> None:
        path = self.write(tmp_path).path
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\xff\xfe note\r\n")
        path.chmod(0o600)
        self.write(tmp_path, BOTH)
        content = path.read_bytes()
        assert content.count(b"\n") == content.count(b"\r\n") and b"\xff\xfe note" in content
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_foreign_plan_is_kept_whole(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "PLAN.md").write_text("# Somebody's plan\n\n- [x] thing\n")
        text = self.write(tmp_path).path.read_text()
        assert "# Somebody's plan\n" in text and "- [x] thing" in text and "`parity-transformer`" in text

    @pytest.mark.parametrize("kind", ["out", "folder", "fifo", "git", "dangling", "loop"])
    def test_a_plan_that_is_no_file_of_the_worktree_is_refused(self, tmp_path: Path, kind: str) -> None:
        tree = tmp_path / "tree"
        (tree / ".git").mkdir(parents=True)
        (tree / ".git" / "config").write_text("secret")
        (tmp_path / "outside.md").write_text("secret")
        path = tree / "PLAN.md"
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            targets = {"out": "../outside.md", "git": ".git/config", "dangling": "nothing.md", "loop": "PLAN.md"}
            path.symlink_to(targets[kind])
        with pytest.raises(PortError, match=r"PLAN\.md is not a file of the worktree"):
            self.write(tmp_path)
        with pytest.raises(PortError):
            read_plan(tree)
        assert (tmp_path / "outside.md").read_text() == (tree / ".git" / "config").read_text() == "secret"

    def test_a_link_inside_the_worktree_is_followed_and_stays(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        (tree / "docs").mkdir(parents=True)
        (tree / "docs" / "p.md").touch()
        (tree / "PLAN.md").symlink_to("docs/p.md")
        self.write(tmp_path)
        assert (tree / "PLAN.md").is_symlink() and "`ssim`" in (tree / "docs" / "p.md").read_text()

    def test_a_huge_plan_and_a_lost_worktree_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(PortError, match="worktree is gone"):
            write_plan_file(tmp_path / "none", tmp_path, "port-1", DIT, {})
        path = self.write(tmp_path).path
        path.write_bytes(b"x" * (MAX_PLAN_BYTES + 1))
        with pytest.raises(PortError, match="too large"):
            self.write(tmp_path)

    def test_a_failed_write_leaves_the_old_file_and_no_other(self, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        path = self.write(tmp_path).path
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(PortError, match="cannot be written") as caught:
            self.write(tmp_path, BOTH)
        assert "No space left" in str(caught.value)
        assert path.read_bytes() == before and [item.name for item in path.parent.iterdir()] == ["PLAN.md"]

    def test_reading_gives_the_text_or_nothing(self, tmp_path: Path) -> None:
        assert read_plan(tmp_path) is None
        path = self.write(tmp_path).path
        assert read_plan(path.parent) == render_plan(DIT)


class TestComponents:
    @pytest.mark.parametrize("name", ["", "A", "a b", "../x", "a-b", "a__b", "é", "x" * 41, "1a", "a\n"])
    def test_an_illegal_name_is_refused_with_a_legal_one(self, name: str) -> None:
        with pytest.raises(PortError, match="name is not legal"):
            check_components([component().model_copy(update={"name": name})])

    def test_a_name_or_adapter_taken_twice_is_refused(self) -> None:
        with pytest.raises(PortError, match="same name"):
            check_components([component(), component()])
        with pytest.raises(PortError, match="same adapter"):
            check_components([component(), component("vae", "vae", adapter=component().adapter)])

    @pytest.mark.parametrize(
        "path", ["", "Wan", "a..b", "a.b()", "a.class", "a b.c", "__import__('os').x", "a." + "b" * 300]
    )
    @pytest.mark.parametrize("side", ["official", "port"])
    def test_what_is_no_import_path_is_refused(self, path: str, side: str) -> None:
        with pytest.raises(PortError, match=f"The {side} class of component transformer is not an import path"):
            check_components([component(**{side: path})])

    def test_a_port_that_is_the_official_class_is_refused(self) -> None:
        with pytest.raises(PortError, match="same class"):
            check_components([component(official="fastvideo.a.B", port="fastvideo.a.B")])
        with pytest.raises(PortError, match="not FastVideo's"):
            check_components([component(port="diffusers.Other")])

    @pytest.mark.parametrize(
        "adapter",
        ["", "/etc/x.py", "../x.py", "a/../../x.py", ".git/hooks/x.py", ".GIT/x.py", "x.txt", "a\0.py", "`.py"],
    )
    def test_an_adapter_outside_the_worktree_is_refused(self, adapter: str) -> None:
        with pytest.raises(PortError, match="adapter of component transformer"):
            check_components([component(adapter=adapter)])

    def test_none_and_too_many_are_refused(self) -> None:
        for count in (0, 25):
            with pytest.raises(PortError, match="needs components"):
                check_components([component(f"c{number}") for number in range(count)])
