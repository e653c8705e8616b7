"""Frames of a video, of a folder of pictures or of one picture, as bounded batches of 8-bit RGB.

What is decoded is what FastVideo's own tests see: each frame converted to RGB24 by the library that decodes it. More
than 8 bits a channel is reduced to 8, alpha is dropped (the colours below it stay), rotation tags are not applied; the
facts say when one of these happened.
"""

from __future__ import annotations

import abc
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .errors import ParityError

if TYPE_CHECKING:
    from typing_extensions import Self

Frames: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
BATCH_BYTES = 48 << 20
_MOST_PIXELS = 1 << 26
# Demuxers that read one file and nothing else: a playlist named .mp4 must not make FFmpeg open other files or URLs.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif,apng,ivf,yuv4mpegpipe,h264,hevc,flv,ogg,nut,asf"


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


def open_frames(path: Path, *, root: Path | None = None) -> FrameReader:
    """Open a video, a folder of pictures (.png, .jpg, .webp; natural order of names) or one picture.

    Args:
        path: What to decode.
        root: If given, everything read must lie below it, links resolved.

    Raises:
        ParityError: It does not exist, leaves ``root``, is neither a regular file nor a folder, or is no picture or
            video that can be decoded.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ParityError(
            "The video or folder of frames cannot be opened.",
            seen=f"{str(path)[:300]!r}: {getattr(error, 'strerror', None) or error}",
            fix="Give the path of a video file, of a picture, or of a folder of pictures.",
        ) from error
    if stat.S_ISDIR(mode):
        return FolderReader(path, root)
    if path.suffix.lower() in PICTURES:
        return FolderReader(path, root)
    return VideoReader(path, root)


def _open_regular(path: Path, root: Path | None) -> IO[bytes]:
    """Open a regular file for reading without ever waiting on a FIFO or device; check what was opened, not the name."""
    try:
        # Non-blocking: opening a FIFO to read would otherwise wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ParityError(
            "A file of frames cannot be opened.",
            seen=f"{str(path)[:300]!r}: {getattr(error, 'strerror', None) or error}",
            fix="Give a regular file that this user can read.",
        ) from error
    found = os.fstat(handle)
    inside = True
    if root is not None:
        where = path.resolve()
        inside = where.is_relative_to(root.resolve()) and os.path.samestat(found, where.stat())
    if not stat.S_ISREG(found.st_mode) or not inside:
        os.close(handle)
        raise ParityError(
            "A file of frames is not a regular file." if inside else "A file of frames lies outside the worktree.",
            seen=f"{path}" if inside else f"{path} leads to {path.resolve()}",
            fix="Give a regular file, no pipe or device." if inside else "Put the frames into the worktree.",
        )
    return os.fdopen(handle, "rb")


def _changed(path: Path) -> ParityError:
    return ParityError(
        "A file of frames changed while it was read.",
        seen=f"{path} is not what was hashed before decoding",
        fix="Wait until whatever writes it has ended, then run the tool again.",
    )


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``frame_10`` follows ``frame_9``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part.casefold()) for part in parts)


class VideoReader(FrameReader):
    """A video file through PyAV."""

    def __init__(self, path: Path, root: Path | None) -> None:
        super().__init__(path)
        self._file = _open_regular(path, root)
        try:
            self._stat = os.fstat(self._file.fileno())
            self._sha256 = _sha256(self._file)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        import av

        # Any level installs a callback that takes the GIL in decoder threads, which freeing a decoder waits for.
        av.logging.set_level(None)
        try:
            self._container = av.open(
                self._file, mode="r", options={"format_whitelist": _DEMUXERS}, metadata_errors="replace"
            )
        except (av.FFmpegError, ValueError) as error:
            raise self._undecodable(getattr(error, "strerror", None) or str(error)) from error
        if not self._container.streams.video:
            raise self._undecodable("it holds no video stream")
        self._stream = self._container.streams.video[0]
        if len(self._container.streams.video) > 1:
            self.notes.append(f"{len(self._container.streams.video)} video streams: the first was read")
        codec = self._stream.codec_context
        self.width, self.height = codec.width, codec.height
        if self.width < 1 or self.height < 1 or self.width * self.height > _MOST_PIXELS:
            raise self._undecodable(f"its frames would be {self.width}x{self.height}")
        self._stream.thread_type = "AUTO"
        self._first: int | None = None
        self._last: int | None = None
        self._shortest = self._longest = 0
        pixels = codec.format
        self._pixel_format = pixels.name if pixels else None
        self._bit_depth = max((int(part.bits) for part in pixels.components), default=8) if pixels else None
        if self._bit_depth is not None and self._bit_depth > 8:
            self.notes.append(f"{self._bit_depth} bits a channel were reduced to 8")
        if pixels and self._pixel_format and re.match(r"yuva|rgba|bgra|argb|abgr|gbrap|ya\d", self._pixel_format):
            self.notes.append("the alpha channel was dropped")

    def batches(self, size_bytes: int = BATCH_BYTES) -> Iterator[Frames]:
        """See `FrameReader.batches`."""
        yield from self._batched(self._decode(), size_bytes)
        self._check_end()
        self._check_unchanged()

    def _decode(self) -> Iterator[Frames]:
        import av

        self._packets = 0
        try:
            for packet in self._container.demux(self._stream):
                self._packets += bool(packet.size)
                if packet.is_corrupt:
                    raise self._cut(f"packet {self._packets - 1} is damaged or incomplete")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise self._cut(f"frame {self.decoded} is damaged")
                    self._time(frame.pts)
                    yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        except (av.FFmpegError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise self._cut(f"after {self.decoded} frames: {why}") from error

    def _time(self, pts: int | None) -> None:
        """Keep the extremes of the gaps between time stamps."""
        if pts is None:
            return
        if self._first is None or self._last is None:
            self._first = pts
        else:
            gap = pts - self._last
            self._shortest = min(self._shortest or gap, gap)
            self._longest = max(self._longest, gap)
        self._last = pts

    def _check_end(self) -> None:
        """Refuse a file that ends before its own header says."""
        if self.decoded == 0:
            raise self._undecodable("no frame could be decoded")
        promised = self._stream.frames
        if promised > self.decoded:
            raise self._cut(f"the header promises {promised} frames, {self.decoded} could be decoded")
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", str(self._stream.metadata.get("DURATION", "")))
        end = self._duration()
        if tag and end is not None and not promised:
            seconds = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
            if end < seconds - 2.5 * end / self.decoded:
                raise self._cut(f"the header promises {seconds:.3f} s, {end:.3f} s could be decoded")

    def _duration(self) -> float | None:
        base = self._stream.time_base
        if base is None or self._first is None or self._last is None:
            return None
        rate = self._stream.average_rate
        step = 1 / Fraction(rate) if rate else Fraction(0)
        return float((self._last - self._first) * Fraction(base) + step)

    def _uneven(self) -> bool:
        # Containers that count in milliseconds round 1/24 s to 41 or 42: a tick or two is no variation.
        return self._longest - self._shortest > max(2, self._longest * 0.05)

    def _check_unchanged(self) -> None:
        """The hash was taken before decoding; both are of this open file, and it must not be written to meanwhile."""
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
            self._stat.st_size,
            self._stat.st_mtime_ns,
            self._stat.st_ctime_ns,
        ):
            raise _changed(self.path)

    def facts(self) -> FrameFacts:
        """See `FrameReader.facts`."""
        rate = self._stream.average_rate
        return FrameFacts(
            path=str(self.path),
            kind="video",
            frames=self.decoded,
            width=self.width,
            height=self.height,
            fps=float(rate) if rate else None,
            duration_s=self._duration(),
            codec=self._stream.codec_context.name,
            pixel_format=self._pixel_format,
            bit_depth=self._bit_depth,
            variable_frame_rate=self._uneven(),
            sha256=self._sha256,
            size_bytes=self._stat.st_size,
            modified_at=self._stat.st_mtime,
            notes=tuple(self.notes),
        )

    def files(self) -> dict[Path, FileIdentity]:
        """See `FrameReader.files`."""
        return {self.path: FileIdentity(self._sha256, self._stat.st_dev, self._stat.st_ino)}

    def close(self) -> None:
        """See `FrameReader.close`."""
        container = getattr(self, "_container", None)
        if container is not None:
            container.close()
        self._file.close()

    def _undecodable(self, why: str) -> ParityError:
        return ParityError(
            "This is not a video that can be decoded.",
            seen=f"{self.path} ({self._stat.st_size} bytes): {why}",
            fix="Give a complete video file (mp4, mkv, webm, avi, mov, gif), a picture, or a folder of pictures.",
        )

    def _cut(self, why: str) -> ParityError:
        return ParityError(
            "The video is damaged or incomplete.",
            seen=f"{self.path}: {why}",
            fix="Write the video again to its end; if it plays well, re-encode it (ffmpeg -i IN OUT.mp4).",
        )


class FolderReader(FrameReader):
    """Pictures through PIL: all of a folder, or one file."""

    def __init__(self, path: Path, root: Path | None) -> None:
        super().__init__(path)
        self._root = root
        self._single = not path.is_dir()
        self._files = [path] if self._single else self._list()
        self._formats: set[str] = set()
        self._modes: set[str] = set()
        self._depth = 8
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._oldest = float("inf")
        self._identities: dict[Path, FileIdentity] = {}
        for file in self._files:
            with _open_regular(file, root) as handle:
                found = os.fstat(handle.fileno())
                content = _sha256(handle)
            self._digest.update(bytes.fromhex(content))
            self._bytes += found.st_size
            self._oldest = min(self._oldest, found.st_mtime)
            self._identities[file] = FileIdentity(content, found.st_dev, found.st_ino)
            self._sha256 = content if self._single else self._digest.hexdigest()
        first = self._read(self._files[0])
        self.height, self.width = int(first.shape[0]), int(first.shape[1])

    def _list(self) -> list[Path]:
        if self._root is not None and not self.path.resolve().is_relative_to(self._root.resolve()):
            raise ParityError(
                "The folder of frames lies outside the worktree.",
                seen=f"{self.path} leads to {self.path.resolve()}",
                fix="Put the frames into the worktree.",
            )
        try:
            names = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        except OSError as error:
            raise ParityError(
                "The folder of frames cannot be listed.",
                seen=f"{self.path}: {error.strerror}",
                fix="Give a folder that this user can read.",
            ) from error
        pictures = sorted((n for n in names if Path(n).suffix.lower() in PICTURES), key=lambda n: (natural_key(n), n))
        if not pictures:
            raise ParityError(
                "The folder holds no frames.",
                seen=f"{self.path}: {len(names)} entries, none of them .png, .jpg, .jpeg or .webp",
                fix="Give a folder of pictures, one a frame, or a video file.",
            )
        stems = [Path(name).stem for name in pictures]
        if len(set(stems)) != len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise ParityError(
                "The folder holds two pictures for one frame.",
                seen=f"{self.path}: {', '.join(n for n in pictures if Path(n).stem == twice)}",
                fix="Keep one picture a frame.",
            )
        if len(pictures) < len(names):
            self.notes.append(f"{len(names) - len(pictures)} other entries of the folder were left out")
        numbers = [int(found[-1]) for stem in stems if (found := re.findall(r"[0-9]+", stem))]
        if len(numbers) == len(stems) and numbers[-1] - numbers[0] + 1 > len(numbers):
            self.notes.append(f"the numbering {numbers[0]}..{numbers[-1]} has gaps: {len(numbers)} pictures")
        return [self.path / name for name in pictures]

    def batches(self, size_bytes: int = BATCH_BYTES) -> Iterator[Frames]:
        """See `FrameReader.batches`."""
        yield from self._batched((self._read(file) for file in self._files), size_bytes)

    def _read(self, file: Path) -> Frames:
        """One picture as uint8 ``[height, width, 3]``."""
        from PIL import Image

        with _open_regular(file, self._root) as handle:
            if _sha256(handle) != self._identities[file].sha256:
                raise _changed(file)
            try:
                picture = Image.open(handle, formats=("PNG", "JPEG", "WEBP"))
                width, height = picture.size
                if width * height > _MOST_PIXELS:
                    raise ValueError(f"it would be {width}x{height}")
                if getattr(picture, "n_frames", 1) > 1:
                    raise ValueError("it is an animation")
                self._formats.add(str(picture.format).lower())
                self._modes.add(picture.mode)
                return self._rgb(picture)
            # PIL's decoders raise OSError, SyntaxError, ValueError and their own bomb error for broken files.
            except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
                raise ParityError(
                    "A picture cannot be decoded.",
                    seen=f"{file}: {str(error)[:200]}",
                    fix="Write this frame again as an 8-bit RGB PNG.",
                ) from error

    def _rgb(self, picture: Any) -> Frames:
        if picture.mode.startswith("I"):
            # 16-bit grey: PIL's own conversion would clip at 255.
            self._depth = 16
            self._note("16 bits a channel were reduced to 8")
            grey = (np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            self._note("the alpha channel was dropped")
        if picture.mode == "P":
            picture = picture.convert("RGBA")
        if picture.mode == "RGBA":
            return np.ascontiguousarray(np.asarray(picture)[:, :, :3])
        return np.asarray(picture.convert("RGB"))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def facts(self) -> FrameFacts:
        """See `FrameReader.facts`."""
        return FrameFacts(
            path=str(self.path),
            kind="image" if self._single else "folder",
            frames=self.decoded,
            width=self.width,
            height=self.height,
            fps=None,
            duration_s=None,
            codec="+".join(sorted(self._formats)),
            pixel_format="+".join(sorted(self._modes)),
            bit_depth=self._depth,
            variable_frame_rate=False,
            sha256=self._sha256,
            size_bytes=self._bytes,
            modified_at=self._oldest,
            notes=tuple(self.notes),
        )

    def files(self) -> dict[Path, FileIdentity]:
        """See `FrameReader.files`."""
        return self._identities

    def close(self) -> None:
        """See `FrameReader.close`; each picture is closed as soon as it is read."""
