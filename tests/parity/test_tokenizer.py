"""Tokenizers compared exactly: a real byte-level BPE built here, and one mistake at a time around it."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastvideo_port.parity import children
from fastvideo_port.parity.errors import ParityError
from fastvideo_port.parity.job import Job
from fastvideo_port.parity.tokenizer_causes import form_cause, text_cause
from fastvideo_port.parity.tokenizer_job import first_difference, tokenizer_parity
from fastvideo_port.parity.tokenizer_prompts import PROMPTS, TRANSFORMS

sys.path.append(str(Path(__file__).parent))
import warm

BUILD = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
special = ["<pad>", "</s>", "<unk>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
tokenizer.train_from_iterator(["a cat walks over the grass while the camera moves"] * 20, trainer)
tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
).save_pretrained(sys.argv[1])
"""

TEXT = """
import html
import re


def clean(text):
    text = html.unescape(html.unescape(text))
    return re.sub(r"\\s+", " ", text).strip()


def encode(tokenizer, prompts):
    prompts = [clean(text) for text in prompts]
    answer = tokenizer(
        prompts, padding="max_length", max_length=64, truncation=True, add_special_tokens=True, return_tensors="pt"
    )
    return {"input_ids": answer["input_ids"], "attention_mask": answer["attention_mask"]}
"""

ADAPTER = """
def load_official(ctx):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(ctx.official_weights / "tokenizer")


load_port = load_official


def call_official(model, inputs, ctx):
    from official_text import encode

    return encode(model, inputs["prompts"])


def call_port(model, inputs, ctx):
    from fastvideo.text import encode

    return encode(model, inputs["prompts"])
"""

MISTAKES: dict[str, tuple[str, str, str]] = {
    "padding-side": ("    answer", '    tokenizer.padding_side = "left"\n    answer', "pads on the left"),
    "padded-length": ('padding="max_length"', 'padding="longest"', "pads to"),
    "max-length": ("max_length=64, truncation", "max_length=48, truncation", "cut at 48 tokens in place of 64"),
    "missing-eos": ("add_special_tokens=True", "add_special_tokens=False", "the last token, id 1 (end of text)"),
    "mask-all-ones": ('answer["attention_mask"]}', 'answer["attention_mask"] * 0 + 1}', "all ones"),
    "mask-inverted": ('answer["attention_mask"]}', '1 - answer["attention_mask"]}', "inverted"),
    "template": ("[clean(text) for", '["Describe: " + clean(text) for', "adds a template"),
    "text-lower": ("[clean(text) for", "[clean(text).lower() for", "the port lower-cases the prompt"),
    "text-html": (
        "    text = html.unescape(html.unescape(text))\n",
        "",
        "the official code turns HTML entities into characters",
    ),
    "text-whitespace": ('return re.sub(r"\\s+", " ", text).strip()', "return text", "makes one space"),
    "text-nfkc": (
        "    text = html",
        '    import unicodedata\n    text = unicodedata.normalize("NFKC", text)\n    text = html',
        "normalises Unicode (NFKC)",
    ),
    "text-dot": ("[clean(text) for", '[clean(text) or "." for', "makes a dot of the empty prompt"),
}

REWRITES = {
    "split and join": ('re.sub(r"\\s+", " ", text).strip()', '" ".join(re.split(r"\\s+", text.strip()))', ""),
    "padded by hand": (
        '    return {"input_ids"',
        '    answer = {name: value.clone() for name, value in answer.items()}\n    return {"input_ids"',
        "",
    ),
    "a list of lists": ('answer["attention_mask"]}', 'answer["attention_mask"].tolist()}', ""),
}
Compare = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def compare(fastvideo_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compare]:
    """``compare(port text, official text, adapter)`` through the real job; imports are paid once."""
    root = tmp_path_factory.mktemp("tokenizer")
    python, weights = str(fastvideo_python), root / "weights" / "tokenizer"
    subprocess.run([python, "-c", BUILD, str(weights)], check=True, capture_output=True)
    process = warm.Warm(root, python, ("torch", "safetensors.torch", "transformers.tokenization_utils_base"))
    patch = pytest.MonkeyPatch()
    patch.setattr(children, "subprocess", types.SimpleNamespace(Popen=process.popen, PIPE=subprocess.PIPE))
    count = iter(range(1000))

    def run(
        port: str = TEXT, official: str = TEXT, adapter: str = ADAPTER, cases: list[str] | None = None
    ) -> dict[str, Any]:
        folder = root / f"{next(count)}"
        for path, text in {
            folder / "worktree/fastvideo/__init__.py": "",
            folder / "worktree/fastvideo/text.py": port,
            folder / "worktree/tests/parity_tokenizer.py": adapter,
            folder / "official/official_text.py": official,
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "run").mkdir()
        spec = {
            "adapter": str(folder / "worktree/tests/parity_tokenizer.py"),
            "worktree": str(folder / "worktree"),
            "official_repo": str(folder / "official"),
            "official_weights": str(root / "weights"),
            "converted_weights": None,
            "component": "tokenizer",
            "python": python,
            "official_python": None,
            "cases": cases,
            "patches": [],
        }
        return tokenizer_parity(spec, Job(folder / "run"))

    yield run
    patch.undo()
    process.close()


def edited(old: str, new: str) -> str:
    """The port with one mistake."""
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


@pytest.mark.fastvideo
def test_the_same_tokenizer_passes_on_every_awkward_prompt(compare: Compare) -> None:
    value = compare()
    assert value["verdict"] == "pass", value["findings"]
    assert value["pairing"] == {
        "paired": len(PROMPTS) + 1,
        "modules": len(PROMPTS) + 1,
        "what": "prompts answered alike",
    }
    assert value["self_test"]["passed"]
    assert {"worktree:fastvideo/text.py", "official:official_text.py", "adapter:parity_tokenizer.py"} <= set(
        value["depends_on"]
    )
    assert any(key.startswith("path:") and key.endswith("tokenizer.json") for key in value["depends_on"])


@pytest.mark.fastvideo
@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_is_named_with_prompt_index_and_cause(code: str, compare: Compare) -> None:
    old, new, words = MISTAKES[code]
    value = compare(edited(old, new))
    assert value["verdict"] == "fail"
    found = next(row for row in value["findings"] if row["verdict"] == "fail")
    assert (found["code"], words in found["message"]) == (f"tokens-{code}", True), found
    assert "in place of" in found["message"] and "prompts differ" in found["message"]
    assert value["cases"][0]["verdict"] == "fail"


@pytest.mark.fastvideo
@pytest.mark.parametrize("name", REWRITES)
def test_a_correct_rewrite_is_not_accused(name: str, compare: Compare) -> None:
    old, new, _ = REWRITES[name]
    value = compare(edited(old, new))
    assert value["verdict"] == "pass", value["findings"]


@pytest.mark.fastvideo
def test_an_unfinished_adapter_a_blind_port_and_official_code_in_the_port_never_pass(compare: Compare) -> None:
    with pytest.raises(ParityError, match="NotImplementedError"):
        compare(edited("    prompts = [clean", "    raise NotImplementedError('fill in')\n    prompts = [clean"))
    blind = compare(edited("[clean(text) for text in prompts]", '["A cat." for text in prompts]'))
    assert blind["verdict"] == "fail"
    assert "port-ignores-input" in {row["code"] for row in blind["findings"]}
    foreign = compare(
        "from official_text import encode\n",
        adapter=ADAPTER.replace(
            "from fastvideo.text", "import sys\n\n    sys.path.append(str(ctx.official_repo))\n    from fastvideo.text"
        ),
    )
    assert "official-code-in-port" in {row["code"] for row in foreign["findings"]}
    assert foreign["verdict"] == "fail"
    both_blind = TEXT.replace("[clean(text) for text in prompts]", '["A cat." for text in prompts]')
    assert compare(both_blind, both_blind)["verdict"] in ("inconclusive", "fail")


@pytest.mark.fastvideo
def test_prompts_of_the_adapter_are_added_and_cases_reach_it(compare: Compare) -> None:
    more = 'CASES = {"a": {}, "b": {}}\n\n\ndef make_inputs(ctx):\n    return {"prompts": ["Hello &amp; ++"]}\n\n'
    value = compare(adapter=more + ADAPTER, cases=["b"])
    assert value["verdict"] == "pass"
    assert "b/own_0" in {row["case"] for row in value["cases"]}
    with pytest.raises(ParityError, match="no such case"):
        compare(adapter=more + ADAPTER, cases=["c"])
    with pytest.raises(ParityError, match="does not return prompts"):
        compare(adapter=more.replace('{"prompts": ["Hello &amp; ++"]}', "[1]") + ADAPTER)


def answer(ids: list[int], mask: list[int]) -> dict[str, Any]:
    return {"input_ids": [ids], "attention_mask": [mask]}


def test_the_first_difference_is_field_index_and_both_values() -> None:
    good = answer([5, 6, 1], [1, 1, 1])
    assert first_difference(good, good) is None
    assert first_difference(answer([5, 7, 1], [1, 1, 1]), good) == ("input_ids", 1, 7, 6)
    assert first_difference(answer([5, 6, 1], [1, 1, 0]), good) == ("attention_mask", 2, 0, 1)
    assert first_difference({"input_ids": [[5, 6, 1]]}, good) == ("attention_mask", 0, "nothing", "a field")
    assert first_difference({"error": "ValueError"}, {"error": "ValueError"}) is None
    assert first_difference({"error": "ValueError"}, good) == ("error", 0, "ValueError", "an answer")
    assert first_difference({"input_ids": [5, 6, 1], "attention_mask": [[1, 1, 1]]}, good) == (
        "input_ids", 0, "shape [3]", "shape [1, 3]",
    )  # fmt: skip


def test_a_beginning_token_is_told_from_an_end_and_no_cause_is_invented() -> None:
    pads = (0, 0)
    official = answer([2, 5, 6, 1, 0], [1, 1, 1, 1, 0])
    missing = form_cause(answer([5, 6, 1, 0, 0], [1, 1, 1, 0, 0]), official, pads)
    assert missing is not None and missing.code == "missing-bos"
    extra = form_cause(answer([2, 5, 6, 1, 1], [1, 1, 1, 1, 1]), official, pads)
    assert extra is not None and extra.code == "extra-eos"
    assert form_cause(answer([9, 8, 7, 3, 0], [1, 1, 1, 1, 0]), official, pads) is None
    assert form_cause({"error": "ValueError"}, official, pads) is None
    none = {"answers": {"plain": official}, "changed": {name: {} for name in TRANSFORMS}}
    assert text_cause(["plain"], none, none) is None
