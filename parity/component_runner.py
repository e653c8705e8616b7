"""The runs of a component comparison: plain, traced, observed, repeated, and in the production dtypes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .adapter import Side
from .attention_rows import attention_in_rows
from .errors import ParityError
from .healing import Excuse
from .items import Item
from .job import Job
from .observe import observing
from .runner import Runner
from .tracing import tracing


class ComponentRunner(Runner):
    """Runs one side's component on the shared inputs.

    Attributes:
        excuses: Places to look past: official tensors stand there in what is run.
    """

    def __init__(self, spec: dict[str, Any], side: Side, job: Job, patches: list[str]) -> None:
        super().__init__(spec, side, job, patches)
        self.excuses = [Excuse(**row) for row in spec.get("excuses", [])]

    def run(self, model: torch.nn.Module, item: Item, dtype: torch.dtype, tag: str, inputs: Any = None) -> None:
        """One forward whose outputs are kept as ``<key>.<tag>.safetensors``."""
        with torch.no_grad(), self._attention(dtype):
            self.keep(self.call(model, item, dtype, inputs), item, tag)

    def run_traced(
        self,
        model: torch.nn.Module,
        item: Item,
        dtype: torch.dtype,
        tag: str,
        sketches: bool = True,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        inputs: Any = None,
    ) -> int:
        """The same, with a trace beside it and the call inside ``around()``. Returns the number of module calls."""
        inputs = self.inputs(item) if inputs is None else inputs
        self.around = around
        try:
            with torch.no_grad(), self._attention(dtype), tracing(model, sketches=sketches) as trace:
                output = self.call(model, item, dtype, inputs)
        finally:
            self.around = nullcontext
        path = self.out / f"{item.key}.{tag}.trace"
        trace.save(path)
        self._wrote(path.with_suffix(".json"), path.with_suffix(".npy"))
        self.keep(output, item, tag)
        return sum("::" not in call.module for call in trace.calls)

    def observe(self, model: torch.nn.Module, dtype: torch.dtype, tag: str) -> Any:
        """One more forward on the first input, to see in which dtypes and with which attention kernels it computes.

        Returns:
            Its output; none when it could not be observed.
        """
        path = self.out / f"{tag}.observed.json"
        try:
            with torch.no_grad(), self._attention(dtype), observing(model, self.device.type) as seen:
                output = self.call(model, self.items[0], dtype)
        except (ParityError, RuntimeError) as error:
            reason = (error.seen if isinstance(error, ParityError) else str(error)).strip().splitlines()
            self.remark("not-observed", f"No dtype audit in {tag}: {reason[0][:200] if reason else error!r}")
            return None
        seen.flags["load"] = self.switches
        seen.save(path)
        self._wrote(path)
        return output

    def _control(self, model: torch.nn.Module, item: Item, observed: Any = None) -> None:
        """A second float32 run of ``item`` with its seed; ``observed`` is one if it has the bits of the first."""
        if observed is not None:
            self.keep(observed, item, "control")
        first, second = (self.written.get(f"{item.key}.{tag}.safetensors") for tag in ("float32", "control"))
        if first != second:
            self.run(model, item, torch.float32, "control")

    def controls(self, model: torch.nn.Module, observed: Any) -> None:
        """Every input once more with its seed, the observed output counting as the first input's."""
        for item in self.items:
            self._control(model, item, observed if item is self.items[0] else None)

    def run_production(self) -> None:
        """Load the model anew in every production dtype and run it on every input."""
        for name in self.spec["dtypes"]:
            if name != "float32":
                dtype = getattr(torch, name)
                model = self.load(dtype)
                for item in self.items:
                    self.run_traced(model, item, dtype, name, sketches=False)
                self.observe(model, dtype, name)
                self.conduct.look_at(model, dtype)
                del model

    def _attention(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Around a forward: in float64 a GPU has the math kernel alone, and aligned sides ask for it."""
        wide = self.device.type == "cuda" and dtype == torch.float64
        return attention_in_rows(wide or bool(self.spec.get("align_backends")))
