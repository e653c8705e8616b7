"""One side of the Wan DiT pair, built and traced alone: `python wan_side.py SPEC_JSON`, run by `bench/scale.py`.

Runs in FastVideo's interpreter with FastVideo on the path. Every weight is seeded by its official name, so both sides
hold the same values although neither writes nor reads a file and neither process ever sees the other's model.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import resource
import sys
import time
import zlib
from pathlib import Path
from trace import prepare
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def build(side: str, geometry: dict[str, Any]) -> torch.nn.Module:
    """The model in float32, on meta or on fake tensors."""
    if side == "official":
        from diffusers import WanTransformer3DModel

        return WanTransformer3DModel(**geometry)
    from fastvideo.configs.models.dits.wanvideo import WanVideoConfig
    from fastvideo.models.dits.wanvideo import WanTransformer3DModel as Port

    config = WanVideoConfig()
    config.update_model_arch(geometry)
    return Port(config, hf_config=geometry)


def dtype_of(model: torch.nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """As the loaders do: diffusers keeps what its class names in float32, FastVideo keeps nothing."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if set(kept) & set(name.split(".")) else dtype


def fill(model: torch.nn.Module, official_names: dict[str, str], device: torch.device, dtype: torch.dtype) -> None:
    """Put seeded values into every parameter, one at a time: besides the model there is one tensor in float32.

    Args:
        model: With its parameters on meta and its buffers filled.
        official_names: This side's name -> the official one, which is the seed.
        device: Where the model is to lie and the values are drawn.
        dtype: Of the model; see `dtype_of`.
    """
    for prefix, module in model.named_modules():
        for key, buffer in module._buffers.items():
            module._buffers[key] = buffer.to(device) if buffer is not None else None
        for key, value in module._parameters.items():
            if value is None:
                continue
            name = f"{prefix}.{key}".lstrip(".")
            official = official_names[name]
            generator = torch.Generator(device=device).manual_seed(zlib.crc32(official.encode()))
            size = 1.0 / math.sqrt(math.prod(value.shape[1:])) if value.ndim > 1 else 0.1
            drawn = torch.empty(value.shape, dtype=torch.float32, device=device)
            drawn.normal_(0.0, 0.5 if "scale_shift_table" in official else size, generator=generator)
            if value.ndim == 1 and "norm" in official and official.endswith("weight"):
                drawn.add_(1.0)
            filled = drawn.to(dtype_of(model, name, dtype))
            module._parameters[key] = torch.nn.Parameter(filled, requires_grad=False)


def names_of(side: str, model: torch.nn.Module, official: list[str]) -> dict[str, str]:
    """This side's parameter names -> official names."""
    if side == "official":
        return {name: name for name in official}
    found = {}
    for name in official:
        rule = next((rule for rule in model.param_names_mapping.items() if re.match(rule[0], name)), None)
        found[re.sub(*rule, name) if rule else name] = name
    return found


def call(
    side: str, model: torch.nn.Module, shape: list[int], text: list[int], device: torch.device, dtype: Any
) -> None:
    """One forward on seeded latents ``shape``, text embeddings ``text`` and timestep 500."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(shape, generator=generator).to(device, dtype)
    words = torch.randn(text, generator=generator).to(device, dtype)
    timestep = torch.tensor([500], device=device)
    if side == "official":
        model(hidden_states=latents, timestep=timestep, encoder_hidden_states=words, return_dict=False)
        return
    from fastvideo.forward_context import set_forward_context

    with set_forward_context(current_timestep=0, attn_metadata=None):
        model(latents, words, timestep)


def _without_values(side: str) -> contextlib.AbstractContextManager[Any]:
    """Parameters on meta. Diffusers' class fills buffers when it is made; FastVideo's is made on meta as a whole."""
    if side == "port":
        return torch.device("meta")
    from accelerate import init_empty_weights

    context: contextlib.AbstractContextManager[Any] = init_empty_weights(include_buffers=False)
    return context


def main() -> None:
    """Build, trace, save the trace, and print names, shapes and cost as JSON."""
    spec = json.loads(sys.argv[1])
    sys.path.insert(0, spec["fastvideo"])
    from fastvideo_port.parity.tracing import tracing

    side, device, dtype = spec["side"], torch.device(spec["device"]), getattr(torch, spec["dtype"])
    if side == "port":
        prepare(None, device)
    began = time.perf_counter()
    # The values of a fake tensor are nowhere; its shape, dtype and device are those of a real one.
    with FakeTensorMode(allow_non_fake_inputs=True) if spec["fake"] else contextlib.nullcontext():
        with _without_values(side) if not spec["fake"] else contextlib.nullcontext():
            model = build(side, spec["geometry"]).requires_grad_(False).eval()
        if not spec["fake"]:
            fill(model, names_of(side, model, spec["official_names"]), device, dtype)
        built = time.perf_counter()
        with torch.no_grad(), tracing(model, sketches=not spec["fake"]) as trace:
            call(side, model, spec["shape"], spec["text"], device, dtype)
    trace.save(Path(spec["trace"]))
    values = dict(model.state_dict())
    facts = {
        "tensors": {name: list(value.shape) for name, value in values.items()},
        "bytes": sum(value.numel() * value.element_size() for value in values.values()),
        "rules": getattr(model, "param_names_mapping", None),
        "build_s": built - began,
        "trace_s": time.perf_counter() - built,
        "host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0,
    }
    sys.stdout.write(f"\n{json.dumps(facts)}\n")


if __name__ == "__main__":
    main()
