"""What a trace records of one forward."""

from __future__ import annotations

import copy
import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastvideo_port.parity.sketch import Fingerprint, fingerprint, sketch_distance
from fastvideo_port.parity.trace import Trace
from fastvideo_port.parity.tracing import tracing
from torch import nn


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0, fail: bool = False) -> torch.Tensor:
        if fail:
            raise ValueError("asked to")
        return self.linear(x) * scale


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Inner()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor, fail: bool = False) -> dict[str, torch.Tensor]:
        y = self.first(x)
        y = self.first(y, scale=2.0)
        if fail:
            try:
                self.first(y, fail=True)
            except ValueError:
                y = self.norm(y)
        q = y[:, None]
        a = F.scaled_dot_product_attention(q, q, q)[:, 0]
        return {"a": self.norm(a.to(torch.bfloat16).float()), "p": torch.softmax(a.double(), -1)}


def _trace(fail: bool = False) -> tuple[Outer, Trace]:
    torch.manual_seed(0)
    model = Outer().eval()
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(2, 3, 4), fail=fail)
    return model, trace


def test_calls_are_nested_numbered_and_placed() -> None:
    _, trace = _trace()
    rows = [(call.module, call.occurrence, call.parent) for call in trace.calls]
    assert rows == [
        ("", 0, -1),
        ("first", 0, 0),
        ("first.linear", 0, 1),
        ("first", 1, 0),
        ("first.linear", 1, 3),
        ("::scaled_dot_product_attention", 0, 0),
        ("norm", 0, 0),
    ]
    assert sorted(call.ended for call in trace.calls) == list(range(7)) and trace.calls[0].ended == 6
    text = Path(__file__).read_text().splitlines()
    assert "self.first(y, scale=2.0)" in text[trace.calls[3].line - 1] and trace.calls[3].file == __file__
    info = trace.modules["first"]
    assert "def forward" in text[info.line - 1] and "* scale" in text[info.end_line - 1]


def test_an_input_is_known_as_the_output_it_came_from_unless_it_was_changed() -> None:
    _, trace = _trace()
    first, second = trace.calls[1], trace.calls[3]
    assert second.inputs[0][1] == first.outputs[0][1]

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y.mul_(2)
            return self.linear(y)

    model = Changing()
    with torch.no_grad(), tracing(model) as changed:
        model(torch.randn(2, 4))
    assert changed.calls[2].inputs[0][1] != changed.calls[1].outputs[0][1]


def test_another_view_of_the_same_numbers_is_known_and_one_of_others_is_not() -> None:
    """Project: squeeze of nothing is the same tensor; a transposed view, or memory used again, is not."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three, self.four = (nn.Identity() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x + 1)
            self.two(y.squeeze(0))
            self.three(y.t())
            y.view(-1)[0] = 9
            return self.four(y.squeeze(0))

    model = Viewing()
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(4, 4))
    one, two, three, four = (call.inputs[0][1] for call in trace.calls[1:])
    assert one == two and len({one, three, four}) == 3


class Looked(nn.Module):
    """Calls `look` on its input; every value that this returns goes to an Identity."""

    def __init__(self, look: Callable[[nn.Module, torch.Tensor], None]) -> None:
        super().__init__()
        self.look, self.see = look, nn.Identity()

    def forward(self, x: torch.Tensor) -> None:
        self.look(self.see, x)


def _seen(look: Callable[[nn.Module, torch.Tensor], None], *, half: bool = False) -> list[Fingerprint]:
    """What the Identity was given, in a model that holds a half precision parameter if ``half``."""
    model = Looked(look)
    if half:
        model.weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(1, 6, 3000).bfloat16())
    return [trace.tensors[call.inputs[0][1]] for call in trace.calls[1:]]


def _same_as_alone(prints: list[Fingerprint], tensors: list[torch.Tensor], *, narrow: bool) -> None:
    for found, tensor in zip(prints, tensors, strict=True):
        alone = fingerprint(tensor, narrow=narrow)
        assert found.shape == alone.shape and found.dtype == alone.dtype and found.moments == alone.moments
        assert found.packed.dtype == alone.packed.dtype and np.array_equal(found.packed, alone.packed)


def test_another_shape_of_the_same_memory_is_not_read_again_and_has_the_values_that_it_has() -> None:
    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        y = x.float() * 3
        kept.append(y.clone())
        see(y)
        y = y.view(1, 6, 3, 1000)  # what was seen is gone, its memory is not
        kept.append(y)
        see(y)
        kept.append(y.transpose(1, 2))  # another order
        see(kept[-1])
        kept.append(y[:, :3])  # fewer
        see(kept[-1])

    prints = _seen(look)
    assert [one.packed is prints[0].packed for one in prints] == [True, True, False, False]
    _same_as_alone(prints, kept, narrow=False)


def test_a_wider_copy_of_what_was_seen_is_not_read_again_and_one_that_was_written_is() -> None:
    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        see(x)
        wide, written = x.float(), x.to(torch.float32)
        written[0, 0, 0] += 1
        kept.extend((x, wide, written.clone(), wide.bfloat16()))
        for tensor in (wide, written, kept[-1]):
            see(tensor)

    prints = _seen(look, half=True)
    assert [one.packed is prints[0].packed for one in prints] == [True, True, False, False]
    _same_as_alone(prints, kept, narrow=True)
    # Where float32 keeps more digits of a sketch than bfloat16, a copy is read like any other tensor.
    kept.clear()
    prints = _seen(look)
    assert prints[1].packed is not prints[0].packed
    _same_as_alone(prints[:2], kept[:2], narrow=False)


def test_a_copy_of_what_was_seen_is_not_read_again_unless_it_holds_something_else() -> None:
    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        heads = x.view(1, 6, 30, 100)
        see(heads.transpose(1, 2))
        same = [heads.transpose(1, 2).contiguous(), heads.transpose(1, 2).clone(), F.pad(heads.transpose(1, 2), (0, 0))]
        others = [heads.clone(), F.pad(heads, (1, 0)), F.pad(heads, (0, 0, 1, -1)), same[0].clone()]
        others[-1][..., 0] += 1
        kept.extend((heads.transpose(1, 2), *same, same[0].flatten(2), *others))
        for tensor in kept[1:]:
            see(tensor)

    prints = _seen(look)
    assert [one.packed is prints[0].packed for one in prints] == [True] * 5 + [False] * 4
    _same_as_alone(prints, kept, narrow=False)


@pytest.mark.parametrize("apart", [False, True], ids=["an alias that counts writes with it", "tensor.data"])
def test_memory_that_was_written_through_a_tensor_now_gone_is_read_again(apart: bool) -> None:
    """Project: ``y.data`` does not count the writes to y, and y itself is gone when it is asked."""
    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        y = x.float() * 3
        other = y.data if apart else y.detach()
        kept.append(y.clone())
        see(y)
        y.add_(1)
        del y
        kept.append(other)
        see(other)

    _same_as_alone(_seen(look), kept, narrow=False)


_OPERATORS = torch.library.Library("fastvideo_port_tests", "FRAGMENT")
_OPERATORS.define("add_one_(Tensor(a!) x) -> ()")
_OPERATORS.impl("add_one_", lambda x: x.numpy().__setitem__(..., x.numpy() + 1), "CPU")


@pytest.mark.parametrize("how", ["an operator of a library", "numpy", "an address"])
def test_memory_that_is_written_behind_torch_s_back_is_read_again(how: str) -> None:
    """Project: kernels that work in place without torch's count of writes, as fused norms of C++ libraries do."""
    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        y = x.float() * 2
        array = np.asarray(y) if how == "numpy" else None
        for _ in range(2):
            kept.append(y.clone())
            see(y)
            see(y.view(-1))
            version = y._version
            if array is not None:
                array += 1
            elif how == "an address":
                at = ctypes.cast(y.data_ptr(), ctypes.POINTER(ctypes.c_float))
                for index in range(y.numel()):
                    at[index] += 1
            else:
                torch.ops.fastvideo_port_tests.add_one_(y)
            assert y._version == version, "it is counted: nothing to show here"
        kept.append(y)
        see(y)

    prints = _seen(look)
    assert how == "numpy" or prints[1].packed is prints[0].packed, "what nobody wrote is read once"
    _same_as_alone(prints, [kept[0], kept[0].view(-1), kept[1], kept[1].view(-1), kept[2]], narrow=False)


def test_attention_is_seen_by_token_so_that_its_heads_are_the_projection_s_memory() -> None:
    def look(see: nn.Module, x: torch.Tensor) -> None:
        see(x)
        heads = x.view(1, 6, 3, 1000).transpose(1, 2)
        out = F.scaled_dot_product_attention(heads, key=heads, value=heads + 0)
        see(out.transpose(1, 2).flatten(2))

    model = Looked(look)
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(1, 6, 3000))
    first, attention, last = trace.calls[1:]
    query, key, value = (trace.tensors[dict(attention.inputs)[name]] for name in ("[0][0]", "[1].key", "[1].value"))
    seen, out = trace.tensors[first.inputs[0][1]], trace.tensors[attention.outputs[0][1]]
    assert query.shape == out.shape == (1, 6, 3, 1000)
    assert query.packed is key.packed is seen.packed and value.packed is not seen.packed
    assert np.array_equal(value.packed, seen.packed)
    assert trace.tensors[last.inputs[0][1]].packed.tobytes() == out.packed.tobytes()


def test_the_garbage_collector_is_left_as_it_was() -> None:
    before = gc.get_freeze_count(), gc.isenabled()
    with torch.no_grad(), tracing(Outer()):
        assert gc.get_freeze_count() > 1000
    assert (gc.get_freeze_count(), gc.isenabled()) == before == (0, True)
    gc.freeze()
    try:
        with torch.no_grad(), tracing(Outer()):
            pass
        assert gc.get_freeze_count() > 1000, "what somebody else froze stays frozen"
    finally:
        gc.unfreeze()


def test_a_norm_is_a_boundary_only_where_no_norm_module_is() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(self.norm(x), (4,))

    model = Bare()
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(2, 4))
    assert [call.module for call in trace.calls] == ["", "norm", "::layer_norm"]


def test_half_precision_takes_half_the_space(tmp_path: Path) -> None:
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Linear(64, 64).to(dtype)
        with torch.no_grad(), tracing(model) as trace:
            model(torch.randn(1000, 64, dtype=dtype))
        trace.save(tmp_path / "x.trace")
        sizes[dtype] = (tmp_path / "x.npy").stat().st_size
        for a, b in zip(Trace.load(tmp_path / "x.trace").tensors, trace.tensors, strict=True):
            assert torch.equal(a.sketch, b.sketch)
    assert sizes[torch.bfloat16] < 0.52 * sizes[torch.float32]


def test_a_call_that_raises_leaves_the_rest_in_order() -> None:
    """Project: an exception that the model swallows is seen, and does not move the calls after it to a wrong parent."""
    _, trace = _trace(fail=True)
    broken = [call for call in trace.calls if call.ended < 0]
    assert [(call.module, call.occurrence) for call in broken] == [("first", 2)]
    after = trace.calls[trace.calls.index(broken[0]) + 1 :]
    assert [(call.module, call.parent) for call in after] == [
        ("norm", 0),
        ("::scaled_dot_product_attention", 0),
        ("norm", 0),
    ]
    assert all(call.ended >= 0 for call in after) and trace.calls[0].ended == len(trace.calls) - 2


def test_hooks_are_gone_afterwards_even_if_the_forward_raised() -> None:
    model = Inner()
    with pytest.raises(ValueError), tracing(model):
        model(torch.zeros(1, 4), fail=True)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_it_survives_the_disk(tmp_path: Path) -> None:
    _, trace = _trace()
    trace.save(tmp_path / "0-0.float32.trace")
    again = Trace.load(tmp_path / "0-0.float32.trace")
    assert again.calls == trace.calls and again.modules == trace.modules
    assert len(again.tensors) == len(trace.tensors)
    for a, b in zip(again.tensors, trace.tensors, strict=True):
        assert torch.equal(a.sketch, b.sketch) and (a.shape, a.dtype, a.moments) == (b.shape, b.dtype, b.moments)


class _Cache(nn.Module):
    """Writes into what it is handed: a list of tensors, as a causal convolution does, and a dataclass."""

    def forward(self, x: torch.Tensor, cache: list[torch.Tensor], metadata: _Metadata) -> torch.Tensor:
        cache[1] = x[-2:].clone()
        metadata.bias = x.sum(0)
        return x + 1


@dataclass
class _Metadata:
    bias: torch.Tensor | None = None


class _Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _Cache()
        self.plain = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        metadata = _Metadata()
        cache = [torch.ones(3), torch.ones(3)]
        x = self.inner(x, cache, metadata=metadata)
        result: torch.Tensor = self.plain(x + cache[1].sum() + metadata.bias)
        return result


def test_what_a_call_leaves_in_its_arguments_is_noted_and_nothing_else(tmp_path: Path) -> None:
    model = _Caching()
    with torch.no_grad(), tracing(model) as trace:
        model(torch.randn(4, 5))
    by_name = {call.module: call for call in trace.calls}
    inner = by_name["inner"]
    assert [name for name, _ in inner.writes] == ["[1][1]", "[2].metadata.bias"]
    shapes = [trace.tensors[index].shape for _, index in inner.writes]
    assert shapes == [(2, 5), (5,)] and by_name["plain"].writes == by_name[""].writes == []
    trace.save(tmp_path / "x.trace")
    assert Trace.load(tmp_path / "x.trace").calls == trace.calls


def test_a_copy_of_a_module_that_the_forward_makes_is_left_out() -> None:
    class Copying(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return copy.deepcopy(self.inner)(self.inner(x))

    model = Copying()
    with tracing(model) as trace:
        model(torch.randn(2, 4))
    assert [call.module for call in trace.calls] == ["", "inner"]


class Numbers(nn.Module):
    """Makes a tensor of Python numbers behind queued work, as FastVideo's blocks do, and notes whether it waited."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Identity()
        self.waited = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.cuda._sleep(200_000_000)
        queued = torch.cuda.Event()
        queued.record()
        numbers = torch.tensor([3, 4], device=x.device)
        self.waited = queued.query()
        return self.see(numbers) * x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numbers_that_the_forward_sends_to_the_device_are_the_same_and_wait_for_nothing() -> None:
    model, x = Numbers(), torch.ones(2, device="cuda")
    plain = model(x)
    assert model.waited, "without a trace torch.tensor waits: nothing to show here any more"
    with tracing(model) as trace:
        traced = model(x)
    assert not model.waited and torch.equal(plain, traced) and traced.tolist() == [3, 4]
    seen = trace.tensors[trace.calls[1].inputs[0][1]]
    assert seen.dtype == "int64" and seen.packed.tolist() == [3, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_a_triton_kernel_wrote_in_place_is_read_again() -> None:
    from .in_place_kernel import add_one

    kept: list[torch.Tensor] = []

    def look(see: nn.Module, x: torch.Tensor) -> None:
        y = x.cuda().float() * 2
        for _ in range(3):
            kept.append(y.cpu())
            see(y)
            add_one(y)

    for found, tensor in zip(_seen(look), kept, strict=True):
        alone = fingerprint(tensor)
        assert sketch_distance(found, alone) < 1e-12 and found.moments[2:] == alone.moments[2:]
