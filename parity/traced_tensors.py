"""Which tensors were fingerprinted already: a module's input is mostly an output of another, under some other shape."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .sketch import HALVES, Fingerprint, Sketcher
from .strides import merged


class _Seen:
    """A tensor that was recorded: its memory, how often that had been written then, and its index."""

    __slots__ = ("index", "storage", "tensor", "version")

    def __init__(self, tensor: weakref.ref[torch.Tensor], storage: Any, version: int, index: int) -> None:
        self.tensor, self.version, self.index = tensor, version, index
        self.storage = StorageWeakRef(storage)  # type: ignore[no-untyped-call]


class Tensors:
    """Fingerprints of the tensors of a forward, each read once as long as it is not written.

    Attributes:
        apart: A tensor exists that counts its changes apart from the one whose memory it shares (``tensor.data``).
    """

    def __init__(self, *, narrow: bool, sketches: bool) -> None:
        """Prepare.

        Args:
            narrow: As in `sketch.fingerprint`.
            sketches: Fingerprint the values; otherwise only shapes and dtypes are kept.
        """
        self.sketcher = Sketcher(narrow=narrow) if sketches else None
        self.shapes: list[Fingerprint] = []
        self.apart = False
        self.known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.casts: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.places: dict[tuple[Any, ...], _Seen] = {}
        self.layouts: dict[tuple[Any, ...], _Seen] = {}

    def add_number(self, value: float) -> int:
        """Add a Python number. Returns its index."""
        if self.sketcher is not None:
            return self.sketcher.add_number(value)
        return self._shape_only((), "float64", "cpu")

    def add(self, tensor: torch.Tensor) -> int:
        """Fingerprint a tensor once: a module's input is recognised as the output that it came from.

        So is another view of the same memory with the same elements in the same order: the memory still lives, so it
        was not given to something else, and has not been written since.
        """
        try:
            version = tensor._version
        except RuntimeError:  # inference tensors do not count their changes
            return self._new(tensor)
        seen = self.known.get(id(tensor))
        if seen is not None and seen[1] == version and seen[0]() is tensor:
            return seen[2]
        seen = self.casts.get(id(tensor))
        if seen is not None and seen[1] == version and seen[0]() is tensor:
            wider = self._again(seen[2], tensor)
            self.known[id(tensor)] = (seen[0], version, wider)
            return wider
        try:
            start = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg())
        except RuntimeError:  # no storage of its own
            return self._new(tensor)
        if not tensor.numel():
            return self._new(tensor)
        storage, itself = tensor.untyped_storage(), weakref.ref(tensor)
        place = (*start, tensor.shape, tensor.stride())
        index = self._seen_at(self.places, place, storage, version)
        if index is None:
            layout = (*start, _layout(tensor))
            other = self._seen_at(self.layouts, layout, storage, version)
            index = self._new(tensor) if other is None else self._again(other, tensor)
            self.places[place] = self.layouts[layout] = _Seen(itself, storage, version, index)
        self.known[id(tensor)] = (itself, version, index)
        return index

    def cast(self, source: torch.Tensor, output: Any) -> None:
        """Note that ``output`` has the values of ``source``, if that was seen and only has got room for more digits."""
        if self.sketcher is None or not self.sketcher.narrow or not isinstance(output, torch.Tensor):
            return
        seen = self.known.get(id(source))
        if seen is None or output.dtype != torch.float32 or source.dtype not in HALVES or output.is_inference():
            return
        if seen[1] == source._version and seen[0]() is source and output.device == source.device:
            self.casts[id(output)] = (weakref.ref(output), output._version, seen[2])

    def _seen_at(self, places: dict[tuple[Any, ...], _Seen], place: Any, storage: Any, version: int) -> int | None:
        """Index of the tensor that was seen in this place, if its memory still lives and holds what it held."""
        seen = places.get(place)
        if seen is None or seen.version != version or seen.storage.cdata != storage._cdata:
            return None
        original = seen.tensor()
        if original is None:
            return None if self.apart else seen.index
        return seen.index if original._version == version else None

    def _new(self, tensor: torch.Tensor) -> int:
        if self.sketcher is not None:
            return self.sketcher.add(tensor)
        return self._shape_only(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.device.type)

    def _again(self, index: int, tensor: torch.Tensor) -> int:
        """The values of a tensor that was seen, in another shape or a wider dtype."""
        return (
            self._new(tensor) if self.sketcher is None else self.sketcher.add_again(index, tensor.shape, tensor.dtype)
        )

    def _shape_only(self, shape: tuple[int, ...], dtype: str, device_type: str) -> int:
        self.shapes.append(Fingerprint(shape, dtype, device_type))
        return len(self.shapes) - 1

    def finish(self) -> list[Fingerprint]:
        """All fingerprints, in the order of their indices; waits for the devices."""
        return self.sketcher.finish() if self.sketcher is not None else self.shapes


def _layout(tensor: torch.Tensor) -> tuple[int, ...]:
    """What tells tensors of one memory apart in the order of their elements: equal for two shapes with one order."""
    if tensor.is_contiguous():
        return (tensor.numel(),)
    sizes, strides = merged(tensor.shape, tensor.stride())
    return (*sizes, *strides)
