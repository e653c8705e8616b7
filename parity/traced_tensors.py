"""Which tensors were fingerprinted already: a module's input is mostly an output of another, under some other shape."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .sketch import HALVES, Fingerprint, Sketcher
from .strides import merged


class _Seen:
    """A tensor that was recorded: its memory, how often that had been written then (`_version`), and its index."""

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
        self.written: dict[int, int] = {}
        self.shared: set[int] = set()
        self.known: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.copies: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
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
            version = self._version(tensor)
        except RuntimeError:  # inference tensors do not count their changes
            return self._new(tensor)
        index = self._seen_as(self.known, tensor, version)
        if index is not None:
            return index
        place = _place(tensor)
        if place is None:
            return self._new(tensor)
        storage, itself = tensor.untyped_storage(), weakref.ref(tensor)
        index = self._seen_at(self.places, place, storage, version)
        if index is None:
            layout = _layout(tensor, place)
            other = self._seen_at(self.layouts, layout, storage, version)
            if other is None:
                other = self._seen_as(self.copies, tensor, version)
            index = self._new(tensor) if other is None else self._again(other, tensor)
            self.places[place] = self.layouts[layout] = _Seen(itself, storage, version, index)
        self.known[id(tensor)] = (itself, version, index)
        return index

    def copied(self, source: Any, output: Any) -> None:
        """Note that ``output`` has the values of ``source``, if that was seen and only has got room for more digits."""
        if self.sketcher is None or type(output) is not torch.Tensor or not isinstance(source, torch.Tensor):
            return
        wider = self.sketcher.narrow and output.dtype == torch.float32 and source.dtype in HALVES
        if not (wider or source.dtype == output.dtype) or source.shape != output.shape or output is source:
            return
        if source.device == output.device and not output.is_inference() and not source.is_inference():
            index = self._known(source, self._version(source))
            if index is not None:
                self.copies[id(output)] = (weakref.ref(output), self._version(output), index)

    def handed_out(self, tensor: torch.Tensor, *, for_good: bool) -> None:
        """Note that the memory of a tensor may be written by what torch does not see: it will be read again.

        Args:
            tensor: Any; others of the same memory are meant too.
            for_good: It may be written at any time from now on; otherwise before the tensor is seen again.
        """
        try:
            memory = tensor.untyped_storage()._cdata
        except (RuntimeError, NotImplementedError):  # no storage of its own
            return
        if for_good:
            self.shared.add(memory)
        self.written[memory] = self.written.get(memory, 0) + 1

    def _version(self, tensor: torch.Tensor) -> int:
        """How often the memory was written, as far as torch counts that, and how often it may have been besides."""
        version = tensor._version
        if self.written and (memory := tensor.untyped_storage()._cdata) in self.written:
            if memory in self.shared:
                self.written[memory] += 1
            version += self.written[memory] << 32
        return version

    def _known(self, tensor: torch.Tensor, version: int) -> int | None:
        """Index of a tensor, or of its memory, if that was seen."""
        index = self._seen_as(self.known, tensor, version)
        if index is not None or (place := _place(tensor)) is None:
            return index
        return self._seen_at(self.layouts, _layout(tensor, place), tensor.untyped_storage(), version)

    @staticmethod
    def _seen_as(
        table: dict[int, tuple[weakref.ref[torch.Tensor], int, int]], tensor: torch.Tensor, version: int
    ) -> int | None:
        seen = table.get(id(tensor))
        return seen[2] if seen is not None and seen[1] == version and seen[0]() is tensor else None

    def _seen_at(self, places: dict[tuple[Any, ...], _Seen], place: Any, storage: Any, version: int) -> int | None:
        """Index of the tensor that was seen in this place, if its memory still lives and holds what it held."""
        seen = places.get(place)
        if seen is None or seen.version != version or seen.storage.cdata != storage._cdata:
            return None
        original = seen.tensor()
        if original is None:
            return None if self.apart else seen.index
        return seen.index if self._version(original) == version else None

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


def _place(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What two views of one memory share if they are alike; none without memory or elements."""
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # no storage of its own
        return None
    if not tensor.numel():
        return None
    return start, tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg(), tensor.shape, tensor.stride()


def _layout(tensor: torch.Tensor, place: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells tensors of one memory apart in the order of their elements: equal for two shapes with one order."""
    if tensor.is_contiguous():
        return (*place[:5], tensor.numel())
    sizes, strides = merged(tensor.shape, tensor.stride())
    return (*place[:5], *sizes, *strides)
