"""Speed and memory of the proof of weights: `python bench/mapping.py [--gib 3] [--worktree FASTVIDEO]`.

First a checkpoint of a few GiB in bfloat16, compared value by value with a port that holds renamed and merged copies,
with the peak of anonymous memory beyond the port's own; and the digests that stand in for values where the official
side lives in another process. Then, with ``--worktree`` and in FastVideo's interpreter, the headers of a 14B Wan
checkpoint, judged by running FastVideo's own loader on tensors without values; those files are sparse.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
Shapes = dict[str, list[int]]


def wan_14b() -> Shapes:
    """Names and shapes of Wan 2.1 14B text-to-video in Diffusers' layout."""
    width, inner = 5120, 13824
    embedder = "condition_embedder."
    linears = {
        f"{embedder}time_embedder.linear_1": (width, 256),
        f"{embedder}time_embedder.linear_2": (width, width),
        f"{embedder}time_proj": (6 * width, width),
        f"{embedder}text_embedder.linear_1": (width, 4096),
        f"{embedder}text_embedder.linear_2": (width, width),
        "proj_out": (64, width),
    }
    shapes: Shapes = {"patch_embedding.weight": [width, 16, 1, 2, 2], "patch_embedding.bias": [width]}
    shapes["scale_shift_table"] = [1, 2, width]
    for block in range(40):
        name = f"blocks.{block}."
        for part in ("attn1", "attn2"):
            linears |= {f"{name}{part}.{to}": (width, width) for to in ("to_q", "to_k", "to_v", "to_out.0")}
            shapes |= {f"{name}{part}.{norm}.weight": [width] for norm in ("norm_q", "norm_k")}
        linears |= {f"{name}ffn.net.0.proj": (inner, width), f"{name}ffn.net.2": (width, inner)}
        shapes |= {
            f"{name}norm2.weight": [width],
            f"{name}norm2.bias": [width],
            f"{name}scale_shift_table": [1, 6, width],
        }
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}
    return shapes


def write_sparse(folder: Path, shapes: Shapes, shards: int = 6) -> None:
    """Shards with valid headers and no bytes behind them, and their index."""
    folder.mkdir(parents=True)
    names, table = list(shapes), {}
    for number in range(shards):
        end, header = 0, {}
        file = f"diffusion_pytorch_model-{number + 1:05}-of-{shards:05}.safetensors"
        for name in names[number::shards]:
            begin, end = end, end + 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [begin, end]}
            table[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


WAN_CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}


def anonymous() -> int:
    """Bytes of this process's memory that no file backs."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


class Peak:
    """Highest anonymous memory above the beginning, sampled every 10 ms."""

    def __enter__(self) -> Peak:
        self.start, self.highest, self._stop = anonymous(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.highest = max(self.highest, anonymous() - self.start)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def checkpoint(folder: Path, gib: float) -> tuple[Any, dict[str, torch.Tensor]]:
    """A few GiB of bfloat16 in shards of one block each, and where its tensors are in the port."""
    from safetensors.torch import save_file

    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    block = 4 * 4096 * 4096 + 2 * 4096 * 11008
    port: dict[str, torch.Tensor] = {}
    for number in range(max(1, round(gib * 2**30 / 2 / block))):
        shapes = {f"to_{part}": (4096, 4096) for part in "qkvo"} | {"up": (11008, 4096), "down": (4096, 11008)}
        made = {
            f"blocks.{number}.{name}.weight": torch.randint(-(2**15), 2**15, shape, generator=random, dtype=torch.int16)
            .bitwise_and(~0x4000)
            .view(torch.bfloat16)
            for name, shape in shapes.items()
        }
        save_file(made, folder / f"model-{number:02}.safetensors")
        one = {name.split(".")[2]: tensor for name, tensor in made.items()}
        port[f"layers.{number}.qkv.weight"] = torch.cat([one["to_q"], one["to_k"], one["to_v"]])
        port |= {f"layers.{number}.{name}.weight": one[old] for old, name in (("to_o", "o"), ("up", "up"))}
        port[f"layers.{number}.down.weight"] = one["down"]
    return folder, port


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=3)
    parser.add_argument("--worktree", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = _load(ROOT / "tests" / "pairs" / "check_mappings.py")
    pairs.load(ROOT / "parity" / "__init__.py", "_pairs_parity")
    with tempfile.TemporaryDirectory() as folder:
        _values(Path(folder) / "values", options.gib)
        if options.worktree:
            _headers(pairs, options.worktree.resolve(), Path(folder))


def _values(folder: Path, gib: float) -> None:
    from _pairs_parity import headers, mapping, prove, weights  # type: ignore[import-not-found]

    _, port = checkpoint(folder, gib)
    official = headers.read_headers(folder)
    rules = {rf"^blocks\.(\d+)\.to_{p}\.(.*)$": (r"layers.\1.qkv.\2", i, 3) for i, p in enumerate("qkv")}
    rules |= {r"^blocks\.(\d+)\.to_o\.(.*)$": r"layers.\1.o.\2", r"^blocks\.(\d+)\.(.*)$": r"layers.\1.\2"}
    size = sum(item.elements for item in official.entries.values()) * 2 / 2**30
    values = weights.FileTensors(official.homes)
    planned = mapping.plan(rules, official.entries)
    for title, wrong in (("all arrive", False), ("one block's q and k swapped, one square transposed", True)):
        if wrong:
            rows = port["layers.0.qkv.weight"]
            port["layers.0.qkv.weight"] = torch.cat([rows[4096:8192], rows[:4096], rows[8192:]])
            last = list(port)[-1].replace("down", "o")
            port[last] = port[last].t().contiguous()
        started = time.perf_counter()
        with Peak() as peak:
            found = prove.prove(official.entries, port, planned, values, asked=torch.bfloat16)
        seconds = time.perf_counter() - started
        codes = sorted({item.code for item in found.findings}) or "no finding"
        print(  # noqa: T201
            f"values, {title}: {size:.1f} GiB in {seconds:.1f} s ({size / seconds:.2f} GiB/s), anonymous memory "
            f"+{peak.highest / 2**20:.0f} MiB, {found.tensors[0]} of {found.tensors[1]} tensors, {codes}"
        )
    started = time.perf_counter()
    with Peak() as peak:
        for name, tensor in port.items():
            weights.entry(name, tensor)
    seconds = time.perf_counter() - started
    print(  # noqa: T201
        f"digests: {size:.1f} GiB in {seconds:.1f} s ({size / seconds:.2f} GiB/s), anonymous memory "
        f"+{peak.highest / 2**20:.0f} MiB"
    )


def _headers(pairs: Any, worktree: Path, folder: Path) -> None:
    from _pairs_parity import header_job, job

    shapes = wan_14b()
    write_sparse(folder / "wan" / "transformer", shapes)
    (folder / "wan" / "transformer" / "config.json").write_text(json.dumps(WAN_CONFIG))
    pairs.prepare()
    sys.path.insert(0, str(worktree))
    wan = pairs.load(ROOT / "tests" / "pairs" / "table.py", "_pairs_table").PAIRS["wan_dit"]
    for title, extra in (("fits", {}), ("one tensor too many", {"blocks.0.attn1.to_q.extra": [8]})):
        if extra:
            write_sparse(folder / "more" / "transformer", shapes | extra)
            (folder / "more" / "transformer" / "config.json").write_text(json.dumps(WAN_CONFIG))
        source, run = folder / ("more" if extra else "wan"), folder / f"run-{title}"
        run.mkdir()
        value = header_job.header_side(pairs.spec_of(wan, worktree, source, run), job.Job(run))
        total = sum(math.prod(shape) for shape in (shapes | extra).values())
        print(  # noqa: T201
            f"headers, {title}: {total / 1e9:.1f}B parameters in {value['headers_s']:.2f} s without imports (reading "
            f"them: {value['headers_read_s']:.3f} s): {value['headers']}; {value.get('unexpected', [])}"
        )


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
