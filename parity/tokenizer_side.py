"""One side of a tokenizer comparison: ids, masks and whatever else it answers, for every prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .adapter import Adapter, load_adapter
from .audit import data_read, environment, imported_files
from .context import Context
from .errors import ParityError
from .job import Job
from .patches import apply_patches
from .side_process import single_process_environment
from .tokenizer_prompts import BATCH, PROMPTS, TRANSFORMS

Answer = dict[str, Any]
"""Field -> rows of numbers (one for each prompt), or ``error`` -> what it raised."""


def tokenizer_side(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Tokenise every prompt of every case.

    Args:
        spec: As for component parity, with ``side`` and ``out``.
        job: Not used; progress is the coordinator's.
    """
    torch.set_num_threads(1)
    side = spec["side"]
    repo = Path(spec["official_repo"]) if spec.get("official_repo") else None
    patches: list[str] = []
    if side == "official" and repo:
        sys.path.insert(0, str(repo))
    if side == "port":
        single_process_environment()
        patches = apply_patches(spec["patches"])
    adapter = load_adapter(Path(spec["adapter"]), optional=("make_inputs",))
    chosen = spec.get("cases") or list(adapter.cases)
    unknown = [name for name in chosen if name not in adapter.cases]
    if unknown:
        raise ParityError(
            "The adapter has no such case.",
            seen=f"asked for {unknown}; CASES has {', '.join(adapter.cases)}",
            fix="Name cases of the adapter, or leave 'cases' out to run all of them.",
        )
    cases: dict[str, Any] = {}
    tokenizer: Any = None
    for name in chosen:
        ctx = _context(spec, adapter.cases[name])
        tokenizer = adapter.call(f"load_{side}", ctx)
        prompts = {**PROMPTS, **_more(adapter, ctx)}
        answers = {key: _answer(adapter, side, tokenizer, [text], ctx) for key, text in prompts.items()}
        answers["batch"] = _answer(adapter, side, tokenizer, [prompts[key] for key in BATCH], ctx)
        changed: dict[str, dict[str, Answer]] = {}
        for key, (_, function) in TRANSFORMS.items():
            changed[key] = {}
            for prompt, text in prompts.items():
                try:
                    other = function(text)
                except ImportError:
                    break
                if other != text:
                    changed[key][prompt] = _answer(adapter, side, tokenizer, [other], ctx)
        longer = _answer(adapter, side, tokenizer, [f"{prompts['plain']} Night."], ctx)
        cases[name] = {"answers": answers, "changed": changed, "longer": longer, "prompts": prompts}
    Path(spec["out"]).write_text(json.dumps(cases))
    root = Path(spec["worktree"]) if side == "port" else repo
    return {
        "cases": list(cases),
        "names": _names(tokenizer, cases),
        "pad": _pad(tokenizer),
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "official_files": list(imported_files(repo)) if repo and side == "port" else [],
        "files": imported_files(root) if root else {},
        "data": data_read(spec, side),
        "environment": environment(torch.device("cpu")),
        "patches": patches,
    }


def _context(spec: dict[str, Any], case: dict[str, Any]) -> Context:
    def path(name: str) -> Path | None:
        return Path(spec[name]) if spec.get(name) else None

    return Context(
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
        case=case,
        worktree=Path(spec["worktree"]),
        official_repo=path("official_repo"),
        official_weights=path("official_weights"),
        converted_weights=path("converted_weights"),
    )


def _more(adapter: Adapter, ctx: Context) -> dict[str, str]:
    """The adapter's own prompts, beside those that are always asked."""
    if not adapter.has("make_inputs"):
        return {}
    value = adapter.call("make_inputs", ctx)
    prompts = value.get("prompts", []) if isinstance(value, dict) else None
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(text, str) for text in prompts):
        raise ParityError(
            "make_inputs of a tokenizer's adapter does not return prompts.",
            seen=f"{type(value).__name__}: {value!r:.200}",
            fix='Return {"prompts": ["...", ...]}: they are asked beside the built-in ones; or leave make_inputs out.',
        )
    return {f"own_{number}": text for number, text in enumerate(prompts)}


def _answer(adapter: Adapter, side: str, tokenizer: Any, prompts: list[str], ctx: Context) -> Answer:
    """What the side answers, as rows; what it raises is an answer too, except that the adapter itself is unfinished."""
    try:
        value = adapter.call(f"call_{side}", tokenizer, {"prompts": list(prompts)}, ctx)
    except ParityError as error:
        if isinstance(error.__cause__, (NotImplementedError, NameError, ImportError, AttributeError)):
            raise
        return {"error": type(error.__cause__ or error).__name__, "said": error.seen[:300]}
    if hasattr(value, "data") and isinstance(value.data, Mapping):  # transformers' BatchEncoding
        value = value.data
    if not isinstance(value, Mapping):
        parts = value if isinstance(value, (tuple, list)) and not _is_row(value) else [value]
        value = {("input_ids", "attention_mask")[n] if n < 2 else f"[{n}]": part for n, part in enumerate(parts)}
    found = {str(name): _rows(item) for name, item in value.items() if item is not None}
    if not found:
        raise ParityError(
            f"call_{side} returned nothing that can be compared.",
            seen=f"{value!r:.200}",
            fix='Return {"input_ids": ids, "attention_mask": mask} for inputs["prompts"].',
        )
    return found


def _is_row(value: Any) -> bool:
    return bool(value) and isinstance(value[0], (int, list))


def _rows(value: Any) -> Any:
    """Tensors and arrays as lists, one row for each prompt."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, (tuple, list)):
        plain = [_rows(item) for item in plain]
        return plain
    if isinstance(plain, bool):
        return int(plain)
    return plain if isinstance(plain, (int, float, str)) else str(plain)


def _holder(tokenizer: Any) -> Any:
    for candidate in (tokenizer, getattr(tokenizer, "tokenizer", None)):
        if callable(getattr(candidate, "convert_ids_to_tokens", None)):
            return candidate
    return None


def _pad(tokenizer: Any) -> int | None:
    value = getattr(_holder(tokenizer), "pad_token_id", None)
    return int(value) if isinstance(value, int) else None


def _names(tokenizer: Any, cases: dict[str, Any]) -> dict[str, str]:
    """The token of every id that was answered, where the tokenizer can tell."""
    holder = _holder(tokenizer)
    seen: set[int] = set()

    def collect(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, int):
            seen.add(value)

    for case in cases.values():
        for answer in case["answers"].values():
            collect(list(answer.values()))
    found = {}
    for number in sorted(seen)[:20000] if holder is not None else ():
        try:
            found[str(number)] = str(holder.convert_ids_to_tokens(number))
        except (ValueError, IndexError, KeyError, OverflowError, TypeError):
            continue
    return found
