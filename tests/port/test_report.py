"""The report says what was measured and what was not, loads nothing, and cannot be written to lie."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastvideo_port.port.errors import PortError
from fastvideo_port.port.report import (
    ApprovalRow,
    Culprit,
    Fact,
    Gallery,
    GateRow,
    MappingRow,
    ParityRow,
    Picture,
    PipelineLine,
    PipelineRow,
    ReportData,
    RunRow,
    SsimRow,
    StepRow,
    write_report,
)
from fastvideo_port.port.report_words import moment, number
from markdown_it import MarkdownIt
from pydantic import ValidationError

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ITEMS = (
    "Mapping explicit and reviewed",
    "No missing or unexpected keys",
    "Component parity",
    "Pipeline parity",
    "SSIM",
    "The example's video",
    "Documentation",
)
STATES = ("needs_approval", "pass", "fail", "missing", "stale", "missing", "missing")


def report(**changes: object) -> ReportData:
    """A report of a port in the middle of its way; ``changes`` replace fields."""
    values: dict[str, object] = {
        "model_name": "Wan 2.2 / TI2V (5B)",
        "goal": "Port Wan 2.2 with numerical parity",
        "gate": "closed",
        "worktree": "/home/ada/dev/FastVideo-wan-2-2-ti2v-5b-20261123-151800",
        "branch": "codex/port-wan-2-2-ti2v-5b-20261123-151800",
        "base_commit": "2f3d407406c1",
        "head_commit": "91d74a7bb012",
        "plan_path": "PLAN.md",
        "written_at": "2026-11-23T15:40:00+00:00",
        "environment": [Fact(name="torch", value="2.13.0 (CPU)"), Fact(name="Device", value="AMD EPYC, 2 cores")],
        "environment_patches": ["cpu-attention", "cpu-device"],
        "items": [
            GateRow(
                number=index + 1,
                item=item,
                state=state,  # type: ignore[arg-type]
                why="no tool of this release measures it" if state == "missing" else f"why {index}",
                evidence=() if state == "missing" else (f"run-{index:016x}",),
            )
            for index, (item, state) in enumerate(zip(ITEMS, STATES, strict=True))
        ],
        "parity": [
            ParityRow(
                component="transformer",
                verdict="fail",
                logic_ratio=18423.7,
                boundary_ratio=2.1e6,
                precision_ratio=41.2,
                strict="fail",
                cases=("small", "odd"),
                run_id="run-00000000000000a1",
                culprit=Culprit(
                    module="blocks.0",
                    official_module="blocks.0",
                    kind="glue",
                    file="fastvideo/models/dits/wanvideo.py",
                    line=412,
                    why="the inputs of norm1 agree and its modulated output does not; scale and shift look swapped",
                ),
            ),
            ParityRow(
                component="vae",
                verdict="pass",
                logic_ratio=1.003,
                precision_ratio=0.998,
                strict="fail",
                cases=("frames1", "frames9"),
                run_id="run-00000000000000b2",
                fresh=False,
            ),
            ParityRow(component="text_encoder", verdict="missing"),
        ],
        "mapping": [
            MappingRow(
                component="transformer",
                verdict="pass",
                coverage=1,
                tensors=1095,
                missing=0,
                unexpected=0,
                run_id="run-1",
            ),
            MappingRow(component="text_encoder", verdict="fail", coverage=0.742, tensors=242, missing=3, unexpected=59),
        ],
        "ssim": [
            SsimRow(
                name="fox in snow",
                verdict="pass",
                metric="ms-ssim",
                mean=0.97231,
                minimum=0.9412,
                worst_frame=44,
                frames=81,
                threshold=0.93,
                run_id="run-00000000000000c3",
            )
        ],
        "steps": [
            StepRow(id="isolate-workspace", title="Isolate the work", state="done"),
            StepRow(id="parity-transformer", title="Parity of `transformer`", state="in_progress"),
            StepRow(id="docs", title="Documentation", state="claimed"),
        ],
        "runs": [
            RunRow(
                run_id="run-00000000000000a1",
                tool="run_component_parity",
                what="transformer",
                state="done",
                verdict="fail",
                started_at="2026-11-23 15:31",
                seconds=8.41,
            )
        ],
        "residual_risks": ["Only 480p was tried."],
        "not_measured": ["Sequence parallelism"],
    }
    return ReportData.model_validate({**values, **changes})


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_both_files_say_what_was_found(tmp_path: Path) -> None:
    html, markdown = write_report(tmp_path / "new folder", report())
    page, twin = Page(html.read_text(encoding="utf-8")).text, markdown.read_text(encoding="utf-8")
    for text in (page, re.sub(r"\\(.)", r"\1", twin)):
        for words in ("The alignment gate is closed.", "1 of 7 items pass", "fastvideo/models/dits/wanvideo.py:412"):
            assert words in text
        for words in ("18,424", "1.003", "0.9723", "frame 44", "74.2 %", "cpu-attention", "Only 480p was tried."):
            assert words in text
        for words in ("Pipeline parity (no tool of this release measures it)", "Sequence parallelism", "stale"):
            assert words in text


def test_what_was_not_measured_is_said_and_never_looks_green(tmp_path: Path) -> None:
    html, markdown = write_report(tmp_path, report(parity=[], mapping=[], ssim=[], runs=[], steps=[]))
    for text in (html.read_text(), markdown.read_text()):
        for words in (
            "No component was compared",
            "No mapping was checked",
            "No videos were compared",
            "Nothing was run",
        ):
            assert words in text
    row = ParityRow(component="vae", verdict="missing")
    _, markdown = write_report(tmp_path, report(parity=[row]))
    assert (
        "| vae | missing | not measured | not measured | not measured | not measured | none |" in markdown.read_text()
    )


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "worst.png").write_bytes(PNG)
    ssim = report().ssim[0].model_copy(update={"pictures": (Picture(path=tmp_path / "worst.png", caption="Worst"),)})
    html, _ = write_report(tmp_path, report(ssim=[ssim]))
    page = Page(html.read_text(encoding="utf-8"))
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert images == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    anchors = {str(attributes["id"]) for _, attributes in page.tags if "id" in attributes}
    links = [str(attributes["href"]) for _, attributes in page.tags if "href" in attributes]
    assert links and all(link.startswith("#") and link[1:] in anchors for link in links)
    assert "url(" not in html.read_text() and "@import" not in html.read_text()


def test_text_is_data_in_both_files(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script> | {{ 7*7 }} `x` <img src=x onerror=y>\u202e\x1b[31m\n## Gate: open"
    html, markdown = write_report(
        tmp_path, report(model_name=evil, goal=evil, residual_risks=[evil], branch=evil, not_measured=[evil])
    )
    page = Page(html.read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "img"} and "{{ 7*7 }}" in page.text
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown.read_text(encoding="utf-8"))
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 13 and not [token for token in tokens if token.type.startswith("html")]
    for text in (html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")):
        assert "\u202e" not in text and "\x1b" not in text


def test_markdown_tables_keep_their_columns(tmp_path: Path) -> None:
    row = ParityRow(component="a|b", verdict="fail", logic_ratio=3.0, cases=("x|y",))
    _, markdown = write_report(tmp_path, report(parity=[row]))
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown.read_text())
    widths: list[int] = []
    cells = 0
    for token in tokens:
        cells = 0 if token.type == "tr_open" else cells + (token.type in ("td_open", "th_open"))
        if token.type == "tr_close":
            widths.append(cells)
    assert widths == [4] * 4 + [5] * 8 + [9] * 2 + [10] * 3 + [9] * 2 + [6] * 2


def test_tokens_never_reach_a_report(tmp_path: Path) -> None:
    secret = "hf_" + "A" * 34
    facts = [Fact(name="source", value=f"https://user:{secret}@host/x {secret}")]
    files = write_report(tmp_path, report(environment=facts, residual_risks=[f"token {secret}"]))
    for path in files:
        assert secret not in path.read_text() and "(redacted)" in path.read_text()


def test_an_open_gate_with_an_item_that_does_not_pass_is_refused() -> None:
    with pytest.raises(ValidationError, match="said to be open"):
        report(gate="open")
    with pytest.raises(ValidationError, match="said to be open"):
        report(gate="open", items=[])
    green = [row.model_copy(update={"state": "pass"}) for row in report().items]
    assert report(gate="open", items=green).unmeasured == ("Sequence parallelism",)


@pytest.mark.parametrize("ratio", [None, math.nan, math.inf])
def test_a_pass_without_a_number_is_refused(ratio: float | None) -> None:
    with pytest.raises(ValidationError, match="finite logic_ratio"):
        ParityRow(component="vae", verdict="pass", logic_ratio=ratio)


def test_what_is_equal_or_not_passes_without_a_number_but_not_without_a_case() -> None:
    assert ParityRow(component="tokenizer", verdict="pass", reference="exact", cases=("16 inputs",)).logic_ratio is None
    with pytest.raises(ValidationError, match="finite logic_ratio"):
        ParityRow(component="tokenizer", verdict="pass", reference="exact")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
        (0.0, "0.000"),
        (1.0034, "1.003"),
        (0.9999999, "1.000"),
        (99.5, "99.500"),
        (18423.7, "18,424"),
        (3e-7, "3.00e-07"),
        (2.5e9, "2.50e+09"),
    ],
)
def test_numbers_are_readable_and_honest(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("content", [None, b"", b"GIF89a", PNG + b"x" * (4 * 1024 * 1024)])
def test_a_picture_that_cannot_be_embedded_is_named_and_nothing_is_written(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "p.png"
    if content is not None:
        path.write_bytes(content)
    ssim = report().ssim[0].model_copy(update={"pictures": (Picture(path=path, caption="c"),)})
    with pytest.raises(PortError, match=r"picture|cannot be read"):
        write_report(tmp_path / "out", report(ssim=[ssim]))
    assert not (tmp_path / "out").exists()


def test_times_are_short_and_in_utc_and_what_is_no_time_stays() -> None:
    """Project: microseconds and zones were most of the table of runs."""
    assert moment("2026-11-23T17:42:38.779040+01:00") == "2026-11-23 16:42:38 UTC"
    assert moment("2026-11-23 15:31") == "2026-11-23 15:31"
    assert moment("yesterday") == "yesterday"


EVIL = (
    "</td></pre><script>alert(1)</script>\"'> | {{ 7*7 }} ``` <img src=x onerror=y>"
    "\u202e\x1b[31m\n# Gate: open\n- [x] done"
)


def everywhere(evil: str, picture: Path) -> ReportData:
    """A report in which every text that may come from outside is ``evil``."""
    plain = report()
    one = Picture(path=picture, caption=evil)
    return report(
        **dict.fromkeys(("model_name", "goal", "worktree", "branch", "base_commit", "head_commit", "plan_path"), evil),
        problem=evil,
        environment=[Fact(name=evil, value=evil)],
        environment_patches=[evil],
        items=[
            GateRow(
                number=row.number, item=evil, state=row.state, why=evil, changed=(evil,), next=evil, evidence=(evil,)
            )
            for row in plain.items
        ],
        parity=[
            ParityRow.model_validate(
                {
                    **plain.parity[0].model_dump(),
                    "component": evil,
                    "reference": evil,
                    "dtypes": [evil],
                    "remarks": [evil],
                    "run_id": evil,
                    "culprit": {"module": evil, "official_module": evil, "kind": evil, "file": evil, "why": evil},
                    "cases": [evil],
                }
            )
        ],
        mapping=[MappingRow(component=evil, verdict="fail", run_id=evil, unused_names=(evil,))],
        pipeline=PipelineRow(verdict="fail", run_id=evil, guilty=(evil,), lines=(PipelineLine(name=evil),)),
        ssim=[
            SsimRow(
                name=evil,
                verdict="fail",
                metric=evil,
                run_id=evil,
                pictures=(one,),
                reference=evil,
                reference_sha256=evil,
                candidate_sha256=evil,
            )
        ],
        gallery=[Gallery(title=evil, pictures=(one,))],
        approvals=[ApprovalRow(step=evil, decision="approved", channel=evil, by=evil, when=evil, note=evil)],
        reproduce=[evil],
        steps=[StepRow(id=evil, title=evil, state=evil, acceptance=evil, asked=False)],
        runs=[RunRow(run_id=evil, tool=evil, what=evil, state=evil, started_at=evil)],
        residual_risks=[evil],
        not_measured=[evil],
    )


def test_hostile_text_in_every_field_stays_text(tmp_path: Path) -> None:
    """Issue D: names and notes come from repositories, files and processes that nobody vouches for."""
    (tmp_path / "p.png").write_bytes(PNG)
    html, markdown = write_report(tmp_path, everywhere(EVIL, tmp_path / "p.png"))
    text = html.read_text(encoding="utf-8")
    page = Page(text)
    plain = Page(write_report(tmp_path / "plain", everywhere("x/y", tmp_path / "p.png"))[0].read_text())
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags], "no text made or closed an element"
    allowed = {"class", "id", "href", "src", "alt", "lang", "charset", "name", "content", "scope", "colspan", "role"}
    assert {name for _, attributes in page.tags for name in attributes} <= {
        *allowed, "tabindex", "aria-label", "aria-labelledby", "http-equiv", "open",
    }  # fmt: skip
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown.read_text(encoding="utf-8"))
    kinds = [token.type for token in tokens]
    assert kinds.count("heading_open") == 13 and kinds.count("fence") == 1
    inline = [child.type for token in tokens for child in token.children or []]
    assert not {kind for kind in [*kinds, *inline] if kind.startswith("html") or kind in ("image", "link_open")}
    for content in (text, markdown.read_text(encoding="utf-8")):
        assert "\u202e" not in content and "\x1b" not in content and "49" not in re.findall(r"\{\{.*?\}\}", content)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(tmp_path / "a", report())]
    assert first == [path.read_bytes() for path in write_report(tmp_path / "b", report())]
    later = [path.read_text() for path in write_report(tmp_path / "c", report(written_at="2027-01-01T00:00:00+00:00"))]
    stamps = ("2026-11-23 15:40:00 UTC", "2027-01-01 00:00:00 UTC")
    assert [text.decode().replace(stamps[0], stamps[1]) for text in first] == later


def test_a_changed_ledger_is_said_before_everything_else(tmp_path: Path) -> None:
    html, markdown = write_report(tmp_path, report(problem="entry 3 was changed"))
    for text in (Page(html.read_text()).text, markdown.read_text()):
        assert text.index("entry 3 was changed") < text.index("The alignment gate is closed")
    green = [row.model_copy(update={"state": "pass"}) for row in report().items]
    with pytest.raises(ValidationError, match="said to be open"):
        report(gate="open", items=green, problem="entry 3 was changed")


def test_what_made_an_item_stale_and_what_to_do_stand_beside_it(tmp_path: Path) -> None:
    rows = list(report().items)
    rows[4] = rows[4].model_copy(update={"changed": ("fastvideo/a.py changed",), "next": "Call run_ssim again."})
    for path in write_report(tmp_path, report(items=rows)):
        text = re.sub(r"\\(.)", r"\1", path.read_text())
        assert "fastvideo/a.py changed" in text and "Call run_ssim again." in text


def test_a_page_can_be_read_with_the_keyboard_and_without_colours(tmp_path: Path) -> None:
    """Each wide table can be scrolled by keyboard and has a name; each column head says so; each picture has words."""
    (tmp_path / "p.png").write_bytes(PNG)
    gallery = [Gallery(title="run example", pictures=(Picture(path=tmp_path / "p.png", caption="contact sheet"),))]
    html, _ = write_report(tmp_path, report(gallery=gallery))
    page = Page(html.read_text())
    regions = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert len(regions) >= 6 and all(row["tabindex"] == "0" and row["aria-label"] for row in regions)
    assert all(attributes.get("scope") == "col" for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert "prefers-color-scheme" in html.read_text() or "light-dark(" in html.read_text()
    assert "@media print" in html.read_text()


PIPELINE = PipelineRow(
    verdict="pass",
    run_id="run-00000000000000d4",
    steps=30,
    self_test=True,
    perturbed=5,
    turned_red=5,
    lines=(
        PipelineLine(name="step 0", error=1.97e-6, reference_error=1.92e-6, logic_ratio=1.025, precision_ratio=1.06),
        PipelineLine(name="final latents", verdict="pass", error=2.5e-6, max_abs=3.1e-6, logic_ratio=1.03),
        PipelineLine(name="stage text, alone", verdict="pass", error=4.5e-7, logic_ratio=1.01),
    ),
)


def both(folder: Path, data: ReportData) -> list[str]:
    """The text of the page and of the Markdown, without the latter's escapes."""
    html, markdown = write_report(folder, data)
    return [Page(html.read_text()).text, re.sub(r"\\(.)", r"\1", markdown.read_text())]


def test_the_pipelines_numbers_stand_in_both_files(tmp_path: Path) -> None:
    for text in both(tmp_path, report(pipeline=PIPELINE)):
        for words in ("step 0", "1.97e-06", "1.92e-06", "1.025", "1.060", "final latents", "3.10e-06", "4.50e-07"):
            assert words in text, words
        for words in ("stage text, alone", "5 of 5 perturbations", "No stage differs on its own", "Of 30 steps, 1"):
            assert words in text, words
    for text in both(tmp_path, report()):
        assert "The pipelines were not compared." in text
    red = PIPELINE.model_copy(update={"verdict": "fail", "guilty": ("denoising",), "self_test": False, "fresh": False})
    for text in both(tmp_path, report(pipeline=red)):
        assert "Stages that differ on their own: denoising." in text and "Self-test not passed" in text
        assert "was fail" in text


@pytest.mark.parametrize(
    ("changed", "new", "words"),
    [
        (2, 17, "19 changes not committed (2 in known files, 17 new files)"),
        (1, 0, "1 change not committed"),
        (0, 0, "everything is committed"),
        (None, None, "whether everything is committed is not known"),
    ],
)
def test_it_says_what_no_commit_holds(tmp_path: Path, changed: int | None, new: int | None, words: str) -> None:
    for text in both(tmp_path, report(changed_files=changed, new_files=new)):
        assert words in text


def test_the_reference_video_is_named_with_its_hash(tmp_path: Path) -> None:
    known = {"reference": "/v/official fox.mp4", "reference_sha256": "ab" * 32, "candidate_sha256": "cd" * 32}
    for text in both(tmp_path, report(ssim=[report().ssim[0].model_copy(update=known)])):
        assert all(value in text for value in known.values())
    for text in both(tmp_path, report()):
        assert "not recorded" in text


def test_open_steps_that_the_gate_does_not_ask_for_are_named_even_beside_an_open_gate(tmp_path: Path) -> None:
    """Seven of seven and steps that are open: a reviewer has to see that both are true."""
    steps = [
        StepRow(id="fetch-official", title="Official", state="todo", asked=False),
        StepRow(id="settle-risks", title="Risks", state="claimed", asked=False),
        StepRow(id="docs", title="Documentation", state="done"),
    ]
    green = [row.model_copy(update={"state": "pass"}) for row in report().items]
    data = report(gate="open", items=green, steps=steps, not_measured=[])
    assert data.unmeasured == ("Open steps of the plan that the gate does not ask for: fetch-official",)
    for text in both(tmp_path, data):
        assert "Not done, and not asked for by the gate: fetch-official (todo), settle-risks (claimed)." in text
    for text in both(tmp_path, report(gate="open", items=green, steps=steps[2:], not_measured=[])):
        assert "Not done, and" not in text and "Every item of the gate was measured." in text


def test_what_does_not_apply_is_no_hole(tmp_path: Path) -> None:
    """A scheduler has no modules and no second precision: nobody forgot to measure them."""
    row = ParityRow(component="scheduler", verdict="pass", logic_ratio=1.0, whole=True, cases=("11 inputs",))
    _, markdown = write_report(tmp_path, report(parity=[row]))
    assert "| scheduler | pass | 1.000 | n/a | n/a | n/a | 11 inputs |" in markdown.read_text()
