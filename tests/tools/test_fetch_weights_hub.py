"""fetch_weights from a hub on loopback, through the hub's own client."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastvideo_port.port import hub as hub_module
from fastvideo_port.port.errors import PortError
from fastvideo_port.tools.base import ToolContext
from fastvideo_port.tools.create_worktree import create_worktree
from fastvideo_port.tools.fetch_weights import fetch_weights
from safetensors.numpy import save

_spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
assert _spec is not None
assert _spec.loader is not None
hub_server = importlib.util.module_from_spec(_spec)
sys.modules["hub_server"] = hub_server
_spec.loader.exec_module(hub_server)

TOKEN = "a-secret-of-any-form-1234"
OTHER_TOKEN = "hf_SecretSecretSecret"
MODEL = "Wan-AI/Wan2.1-T2V"


def model(fill: float = 1.0) -> dict[str, bytes]:
    """A small pipeline: a DiT of 400 kB, a pickle, code."""
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    return {
        "model_index.json": json.dumps(index).encode(),
        "transformer/config.json": json.dumps({"_class_name": "WanTransformer3DModel"}).encode(),
        "transformer/diffusion_pytorch_model.safetensors": save({"a.weight": np.full((100_000,), fill, np.float32)}),
        "old.pth": pickle.dumps({"a": 1}),
        "README.md": b"# Wan\n",
    }


DIT = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub with one model, as HF_ENDPOINT."""
    with hub_server.serving() as hub:
        hub.add(MODEL, model())
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(proxy, raising=False)
        yield hub


@pytest.fixture
def port_id(context: ToolContext) -> str:
    """A port whose worktree waits for weights."""
    return create_worktree(context, "Wan 2.1", python=sys.executable).port_id


def root_of(context: ToolContext, port_id: str) -> Path:
    return Path(context.ports.get(port_id).worktree) / "official_weights"


def untouched(context: ToolContext, port_id: str) -> bool:
    """No link and no record: what a failed fetch leaves."""
    return context.ports.get(port_id).weights is None and not (root_of(context, port_id) / "wan-2-1").exists()


def test_a_model_is_fetched_at_its_commit_and_described(context: ToolContext, port_id: str, hub: Any) -> None:
    result = fetch_weights(context, port_id, MODEL)
    commit = hub.branches[MODEL, "main"]
    assert (result.source, result.revision, result.layout) == (MODEL, commit, "diffusers")
    assert (Path(result.path) / DIT).read_bytes() == model()[DIT]
    assert (result.counts["tensors"], result.counts["parameters"]) == (1, 100_000)
    assert result.unsafe_files == ["old.pth"]
    assert any("stayed on the hub" in note for note in result.notes)
    assert not (Path(result.path) / "old.pth").exists()
    assert hub.downloads("old.pth") == []
    known = context.ports.get(port_id).weights
    assert known is not None
    assert (known.revision, known.digest) == (commit, result.digest)


def test_progress_is_told_in_bytes_with_the_files_name(context: ToolContext, port_id: str, hub: Any) -> None:
    steps: list[tuple[float, float | None, str]] = []
    snapshot = hub_module.resolve(MODEL, None)
    chosen = hub_module.select(snapshot, None, None)
    root = root_of(context, port_id)
    for _ in range(2):  # the second time everything is there
        steps.clear()
        hub_module.download(snapshot, chosen, root / "x", context.home, lambda *step: steps.append(step))
        total = 2 * sum(file.size for file in chosen)
        assert [step[0] for step in steps] == sorted(step[0] for step in steps)
        assert steps[-1][:2] == (total, total)
        assert any(f"fetching {DIT}" in step[2] for step in steps)
        assert any(f"comparing {DIT}" in step[2] for step in steps)
    watched = ToolContext(context.home, context.cwd, lambda *step: steps.append(step))
    fetch_weights(watched, port_id, MODEL)
    assert steps[-1][:2] == (total, total)


def test_the_worktree_stays_clean(context: ToolContext, port_id: str, hub: Any) -> None:
    result = fetch_weights(context, port_id, MODEL)
    worktree = Path(result.path).parents[1]
    done = subprocess.run(["git", "status", "--porcelain"], cwd=worktree, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_a_second_call_downloads_nothing(context: ToolContext, port_id: str, hub: Any) -> None:
    first = fetch_weights(context, port_id, MODEL)
    before = len(hub.downloads(DIT))
    again = fetch_weights(context, port_id, MODEL)
    own = {"run_id", "details"}
    assert again.model_dump(exclude=own) == first.model_dump(exclude=own)
    assert again.run_id != first.run_id
    assert len(hub.downloads(DIT)) == before == 1


def test_a_branch_that_moves_gives_another_commit_and_keeps_the_old_files_apart(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    first = fetch_weights(context, port_id, MODEL)
    hub.add(MODEL, model(2.0))
    second = fetch_weights(context, port_id, MODEL)
    assert second.revision == hub.branches[MODEL, "main"] != first.revision
    assert second.digest != first.digest
    pinned = fetch_weights(context, port_id, MODEL, revision=first.revision)
    assert pinned.digest == first.digest
    assert (Path(pinned.path) / DIT).read_bytes() == model()[DIT]


def test_every_file_is_asked_for_by_commit(context: ToolContext, port_id: str, hub: Any) -> None:
    fetch_weights(context, port_id, MODEL, revision="main")
    commit = hub.branches[MODEL, "main"]
    asked = [path for _, path, _, _ in hub.requests if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{commit}/" in path for path in asked)


def test_patterns_choose_files_and_the_rest_is_named(context: ToolContext, port_id: str, hub: Any) -> None:
    result = fetch_weights(
        context, port_id, MODEL, allow_patterns=["transformer/*", "*.json"], ignore_patterns=["*.md"]
    )
    assert not (Path(result.path) / "README.md").exists()
    assert any("because of the patterns" in note for note in result.notes)
    with pytest.raises(PortError, match="No file of the repository") as caught:
        fetch_weights(context, port_id, MODEL, allow_patterns=["nothing/*"])
    assert "model_index.json" in caught.value.seen


def test_a_pickle_comes_only_when_named_and_is_not_opened(context: ToolContext, port_id: str, hub: Any) -> None:
    result = fetch_weights(context, port_id, MODEL, allow_patterns=["*"])
    assert result.unsafe_files == ["old.pth"]
    assert (Path(result.path) / "old.pth").is_file()


def test_a_connection_cut_in_the_middle_is_resumed_where_it_broke(context: ToolContext, port_id: str, hub: Any) -> None:
    large = {DIT: save({"a.weight": np.ones((8_000_000,), np.float32)})}  # several of the client's chunks of 10 MB
    hub.add(MODEL, large)
    hub.cut[DIT] = 1
    result = fetch_weights(context, port_id, MODEL)
    assert (Path(result.path) / DIT).read_bytes() == large[DIT]
    first, second = hub.downloads(DIT)
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) < len(large[DIT])


def test_a_connection_that_stays_cut_ends_in_an_error_and_the_next_call_goes_on(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    hub.cut[DIT] = -20
    with pytest.raises(PortError, match="broke off") as caught:
        fetch_weights(context, port_id, MODEL)
    assert "call fetch_weights again" in caught.value.fix
    assert "one that was cut begins anew" in caught.value.fix
    assert untouched(context, port_id)
    hub.cut.clear()
    before = len(hub.downloads("model_index.json"))
    result = fetch_weights(context, port_id, MODEL)
    assert (Path(result.path) / DIT).read_bytes() == model()[DIT]
    assert len(hub.downloads("model_index.json")) == before == 1  # what had arrived was kept


@pytest.mark.parametrize("name", [DIT, "transformer/config.json"])
def test_content_that_is_not_what_the_hub_lists_is_refused_and_removed(
    context: ToolContext, port_id: str, hub: Any, name: str
) -> None:
    hub.swapped[name] = model()[name][:-1] + b"!"
    with pytest.raises(PortError, match="not what the hub lists") as caught:
        fetch_weights(context, port_id, MODEL)
    assert name in caught.value.seen
    assert untouched(context, port_id)
    hub.swapped.clear()
    assert fetch_weights(context, port_id, MODEL).counts["tensors"] == 1


def test_a_file_damaged_on_the_disk_is_found_and_fetched_anew(context: ToolContext, port_id: str, hub: Any) -> None:
    first = fetch_weights(context, port_id, MODEL)
    (Path(first.path) / DIT).write_bytes(b"\0" * len(model()[DIT]))
    for _ in range(2):
        try:
            again = fetch_weights(context, port_id, MODEL)
            break
        except PortError as error:
            assert "not what the hub lists" in error.what
    assert again.digest == first.digest


@pytest.mark.parametrize(("token", "status"), [(None, "401"), (TOKEN, "403")])
def test_a_gated_model_says_how_to_get_in(
    context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch, token: str | None, status: str
) -> None:
    hub.gated.add(MODEL)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    with pytest.raises(PortError, match="gated") as caught:
        fetch_weights(context, port_id, MODEL)
    assert "Accept its terms" in caught.value.fix
    assert "request-7" in caught.value.seen
    assert untouched(context, port_id)


@pytest.mark.parametrize("name", ["Wan-AI/None", "wan-ai/wan2.1-t2v"])
def test_a_missing_model_or_another_letter_case_is_named(
    context: ToolContext, port_id: str, hub: Any, name: str
) -> None:
    with pytest.raises(PortError, match="shows no such model") as caught:
        fetch_weights(context, port_id, name)
    assert name in caught.value.seen
    assert "request-7" in caught.value.seen
    assert "letter case" in caught.value.fix


def test_a_missing_revision_is_named(context: ToolContext, port_id: str, hub: Any) -> None:
    with pytest.raises(PortError, match="no such revision"):
        fetch_weights(context, port_id, MODEL, revision="v9")


@pytest.mark.parametrize("revision", ["--upload-pack=x", "-h", "@{-1}", "a\nb", "../x"])
def test_a_revision_that_is_no_name_never_reaches_the_hub(
    context: ToolContext, port_id: str, hub: Any, revision: str
) -> None:
    with pytest.raises(PortError, match="not the name of a branch"):
        fetch_weights(context, port_id, MODEL, revision=revision)
    assert hub.requests == []


@pytest.mark.parametrize("source", ["../../x", "a/b/c", "Wan-AI/..", "name", "a b/c", "x--y/z", "https://hub/a/b"])
def test_an_id_that_is_none_never_reaches_the_hub(context: ToolContext, port_id: str, hub: Any, source: str) -> None:
    with pytest.raises(PortError):
        fetch_weights(context, port_id, source)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../evil.json", "/etc/x.json", "a/../../x.json", ".git/config.json", "a\\..\\x.json"])
def test_a_hub_that_names_a_file_outside_is_refused(context: ToolContext, port_id: str, hub: Any, name: str) -> None:
    hub.add(MODEL, model() | {name: b"{}"})
    with pytest.raises(PortError, match="leave its folder"):
        fetch_weights(context, port_id, MODEL)
    assert untouched(context, port_id)


@pytest.mark.parametrize("answer", [[], None, {}, {"sha": 5}, {"id": MODEL, "sha": "0" * 40, "siblings": 5}, "x", 0.5])
def test_a_hub_whose_answer_makes_no_sense_is_said(
    context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    send = hub_server._Handler._json
    monkeypatch.setattr(hub_server._Handler, "_json", lambda self, value: send(self, answer))
    with pytest.raises(PortError, match="not one of a hub") as caught:
        fetch_weights(context, port_id, MODEL)
    assert "HF_ENDPOINT" in caught.value.fix and "File " not in caught.value.seen
    assert untouched(context, port_id)


@pytest.mark.parametrize(("status", "what"), [(403, "refuses access"), (410, "answered with status 410")])
def test_a_hub_that_refuses_a_single_file_is_not_taken_for_a_broken_line(
    context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch, status: int, what: str
) -> None:
    monkeypatch.setattr(hub_server._Handler, "_file", lambda self, *file: self._fail(status, "Other", "not yours"))
    with pytest.raises(PortError, match=what):
        fetch_weights(context, port_id, MODEL)


@pytest.mark.parametrize("source", ["org/name/vae", "org/name@main", " org/name"])
def test_what_is_neither_path_nor_id_is_told_both_forms(
    context: ToolContext, port_id: str, hub: Any, source: str
) -> None:
    with pytest.raises(PortError, match="neither a path here nor the id") as caught:
        fetch_weights(context, port_id, source)
    assert "org/name" in caught.value.fix


def test_a_class_name_that_would_turn_the_text_round_is_shown_without_that(
    context: ToolContext, port_id: str, hub: Any
) -> None:
    config = json.dumps({"_class_name": "\x1b[31mWanTransformer3DModel\u202e"}).encode()
    hub.add(MODEL, {"config.json": config, "model.safetensors": model()[DIT]})
    result = fetch_weights(context, port_id, MODEL)
    assert "\u202e" not in result.model_dump_json() and "\x1b" not in str(result)


def test_a_hub_that_is_not_there_is_said(context: ToolContext, port_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PortError, match="cannot be reached") as caught:
        fetch_weights(context, port_id, MODEL)
    assert "HF_ENDPOINT" in caught.value.fix


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 10))
    snapshot = hub_module.resolve(MODEL, None)
    with pytest.raises(PortError, match="disk is too small"):
        hub_module.download(snapshot, snapshot.files, root_of(context, port_id) / "x", context.home, lambda *step: None)
    assert hub.downloads(DIT) == []


def test_the_token_goes_to_the_hub_and_nowhere_else(
    context: ToolContext, port_id: str, hub: Any, tmp_path: Path
) -> None:
    result = fetch_weights(context, port_id, MODEL)
    assert any(authorization == f"Bearer {TOKEN}" for _, _, _, authorization in hub.requests)
    assert TOKEN not in result.model_dump_json()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_hub_that_echoes_the_token_is_not_repeated(
    context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler_fail = hub_server._Handler._fail
    monkeypatch.setattr(
        hub_server._Handler,
        "_fail",
        lambda self, status, code, text: handler_fail(self, status, code, f"{text} {TOKEN} {OTHER_TOKEN}"),
    )
    with pytest.raises(PortError) as caught:
        fetch_weights(context, port_id, "Wan-AI/None")
    assert "(redacted)" in caught.value.seen
    assert TOKEN not in str(caught.value)
    assert OTHER_TOKEN not in str(caught.value)


def test_a_local_folder_of_the_same_name_is_taken_instead(context: ToolContext, port_id: str, hub: Any) -> None:
    local = context.cwd / MODEL
    for name, data in model(3.0).items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(data)
    result = fetch_weights(context, port_id, MODEL)
    assert (result.source, result.revision) == (str(local), None)
    assert hub.requests == []


def test_offline_mode_is_said(context: ToolContext, port_id: str, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PortError, match="HF_HUB_OFFLINE is set"):
        fetch_weights(context, port_id, MODEL)


@pytest.mark.parametrize("page", ["https://huggingface.co/{}", "https://huggingface.co/{}/", "http://www.hf.co/{}"])
def test_the_url_of_a_model_s_page_is_its_id(context: ToolContext, port_id: str, hub: Any, page: str) -> None:
    result = fetch_weights(context, port_id, page.format(MODEL))
    assert (result.state, result.source) == ("done", MODEL)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"https://huggingface.co/{MODEL}/tree/main", f"(here '{MODEL}')"),
        (f"https://huggingface.co/{MODEL}?x=1", f"(here '{MODEL}')"),
        ("https://huggingface.co/datasets/a/b", "org/name, with"),
        ("https://someone:secret@example.org/a/b", "org/name, with"),
        ("file:///etc/passwd", "or a local folder"),
        ("https://huggingface.co/gpt2", "org/name, with"),
    ],
)
def test_another_url_is_refused_with_what_to_give(context: ToolContext, port_id: str, url: str, said: str) -> None:
    with pytest.raises(PortError, match="not the page of a model") as caught:
        fetch_weights(context, port_id, url)
    assert said in caught.value.fix and "secret" not in caught.value.seen
    assert context.runs.list() == []
