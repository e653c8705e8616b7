"""Frames that are pictures: all of a folder, or one file, decoded by PIL."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ParityError
from .frame_file import changed, open_regular, sha256_of
from .frame_reader import BATCH_BYTES, MOST_PIXELS, FileIdentity, FrameFacts, FrameReader, Frames

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``frame_10`` follows ``frame_9``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part.casefold()) for part in parts)


class PictureReader(FrameReader):
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
            with open_regular(file, root) as handle:
                found = os.fstat(handle.fileno())
                content = sha256_of(handle)
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

        with open_regular(file, self._root) as handle:
            if sha256_of(handle) != self._identities[file].sha256:
                raise changed(file)
            try:
                picture = Image.open(handle, formats=("PNG", "JPEG", "WEBP"))
                width, height = picture.size
                if width * height > MOST_PIXELS:
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
