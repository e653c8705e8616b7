"""What every reader of frames gives: bounded batches of 8-bit RGB, and facts on what was decoded."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .errors import ParityError

if TYPE_CHECKING:
    from typing_extensions import Self

Frames: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

BATCH_BYTES = 48 << 20
MOST_PIXELS = 1 << 26
"""Pixels of a frame; what claims to have more is refused before it is decoded."""


@dataclass(frozen=True)
class FrameFacts:
    """What is known of one side once it has been decoded to its end.

    Attributes:
        path: As given.
        kind: "video", "folder" or "image".
        frames: Frames decoded.
        width, height: Pixels.
        fps: Mean frames a second as the container says, if it does.
        duration_s: Seconds from the first frame to the end of the last, if there are time stamps.
        codec: Name of the codec or picture format.
        pixel_format: FFmpeg's or PIL's name of the stored format.
        bit_depth: Bits a channel as stored.
        variable_frame_rate: Whether the time stamps are unevenly spaced.
        sha256: Of the file, or of the names' order and contents of a folder's pictures.
        size_bytes: Of the file or of all pictures.
        modified_at: Seconds since 1970, of the file or of the oldest picture.
        notes: Conversions made and oddities seen, one sentence each.
    """

    path: str
    kind: str
    frames: int
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    codec: str | None
    pixel_format: str | None
    bit_depth: int | None
    variable_frame_rate: bool
    sha256: str
    size_bytes: int
    modified_at: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileIdentity:
    """Which file was read, whatever its names: content, device and inode."""

    sha256: str
    device: int
    inode: int


@dataclass
class FrameReader(abc.ABC):
    """Decodes one side; a context manager. ``facts`` is complete once ``batches`` has been read to its end."""

    path: Path
    width: int = 0
    height: int = 0
    decoded: int = 0
    notes: list[str] = field(default_factory=list)

    @abc.abstractmethod
    def batches(self, size_bytes: int = BATCH_BYTES) -> Iterator[Frames]:
        """Yield uint8 ``[frames, height, width, 3]``, each batch at most ``size_bytes`` or one frame.

        Raises:
            ParityError: A frame cannot be decoded, changes size, or is missing.
        """

    @abc.abstractmethod
    def facts(self) -> FrameFacts:
        """The facts; call it after the last batch."""

    @abc.abstractmethod
    def files(self) -> dict[Path, FileIdentity]:
        """The files that were read."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batched(self, frames: Iterator[Frames], size_bytes: int) -> Iterator[Frames]:
        """Check sizes, count, and stack."""
        pending: list[Frames] = []
        for frame in frames:
            height, width = int(frame.shape[0]), int(frame.shape[1])
            if (width, height) != (self.width, self.height):
                raise ParityError(
                    "The frames of one side have different sizes.",
                    seen=f"{self.path}: frame {self.decoded} is {width}x{height}, others {self.width}x{self.height}",
                    fix="Write all frames in one size.",
                )
            self.decoded += 1
            pending.append(frame)
            if (len(pending) + 1) * frame.nbytes > size_bytes:
                yield np.stack(pending)
                pending = []
        if pending:
            yield np.stack(pending)
