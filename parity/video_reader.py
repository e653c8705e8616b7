"""Frames of a video file, decoded by PyAV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from .errors import ParityError
from .frame_file import changed, open_regular, sha256_of
from .frame_reader import BATCH_BYTES, MOST_PIXELS, FileIdentity, FrameFacts, FrameReader, Frames

# Demuxers that read one file and nothing else: a playlist named .mp4 must not make FFmpeg open other files or URLs.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif,apng,ivf,yuv4mpegpipe,h264,hevc,flv,ogg,nut,asf"


class VideoReader(FrameReader):
    """A video file through PyAV."""

    def __init__(self, path: Path, root: Path | None) -> None:
        super().__init__(path)
        self._file = open_regular(path, root)
        try:
            self._stat = os.fstat(self._file.fileno())
            self._sha256 = sha256_of(self._file)
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
        if self.width < 1 or self.height < 1 or self.width * self.height > MOST_PIXELS:
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
            raise changed(self.path)

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
