"""What a side looks like as a whole: black, constant, static, noise, shifted in time. Streams; keeps little."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

# Levels of 255. An encoded black frame comes back with a level or two of noise.
_FLAT_RANGE = 8
_BLACK_LEVEL = 16
_STATIC_CHANGE = 0.5
# Neighbouring pixels of filmed or generated pictures correlate above 0.9; independent noise at 0.
_NOISE_CORRELATION = 0.3
_NOISE_SPREAD = 10.0
# Two frames in a row: an encoder that skips a block repeats it to the last bit; even slow scenes move more than this.
_REPEATED_CHANGE = 0.02
_CLIPPED_LEVELS, _CLIPPED_SHARE = 3, 0.6
_THUMBNAIL = 16
_MOST_THUMBNAILS = 2000


@dataclass
class SideStatistics:
    """Running statistics of one side, from every fourth row of each frame.

    Attributes:
        first_flat: Index of the first frame of one colour, as a NaN becomes when it is stored in 8 bits.
        repeated: Frames that show what the one before shows.
        clipped: Sum over the frames of the share of channel values at the ends of the range.
        thumbnails: 16x16 grey pictures of the first 2000 frames, float32 ``[n, 256]`` parts on the CPU.
    """

    frames: int = 0
    flat: int = 0
    black: int = 0
    noisy: int = 0
    changed: int = 0
    first_flat: int | None = None
    repeated: int = 0
    clipped: float = 0.0
    thumbnails: list[torch.Tensor] = field(default_factory=list)
    _first: torch.Tensor | None = None
    _last: torch.Tensor | None = None

    def add(self, batch: torch.Tensor) -> None:
        """Take in uint8 ``[frames, height, width, 3]``."""
        rows = batch[:, ::4]
        flat = rows.flatten(1)
        highest, lowest = flat.amax(1).int(), flat.amin(1).int()
        one_colour = highest - lowest <= _FLAT_RANGE
        if self.first_flat is None and bool(one_colour.any()):
            self.first_flat = self.frames + int(one_colour.int().argmax())
        self.flat += int(one_colour.sum())
        self.clipped += float(((flat <= _CLIPPED_LEVELS) | (flat >= 255 - _CLIPPED_LEVELS)).float().mean(1).sum())
        self.black += int((highest <= _BLACK_LEVEL).sum())
        colours = rows.float()
        green = colours[..., 1]
        left, right = green[:, :, :-1].flatten(1), green[:, :, 1:].flatten(1)
        left, right = left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True)
        spread = left.square().mean(1).sqrt() * right.square().mean(1).sqrt()
        correlation = (left * right).mean(1) / spread.clamp_min(1e-12)
        self.noisy += int(((correlation.abs() < _NOISE_CORRELATION) & (spread.sqrt() > _NOISE_SPREAD)).sum())
        if self._first is None:
            self._first = colours[0].clone()
        self.changed += int((_moved(colours - self._first) > _STATIC_CHANGE).sum())
        before = colours[:1] if self._last is None else self._last[None]
        steps = _moved(colours - torch.cat([before, colours[:-1]]))
        self.repeated += int((steps[0 if self._last is not None else 1 :] < _REPEATED_CHANGE).sum())
        self._last = colours[-1].clone()
        if self.frames < _MOST_THUMBNAILS:
            small = F.adaptive_avg_pool2d(green[:, None], _THUMBNAIL).flatten(1)
            self.thumbnails.append(small.cpu())
        self.frames += batch.shape[0]

    def kinds(self) -> list[str]:
        """What the side is as a whole: some of "black", "constant", "static", "noise"."""
        if self.frames == 0:
            return []
        if self.black == self.frames:
            return ["black"]
        if self.flat == self.frames:
            return ["constant"]
        found = []
        if self.frames > 1 and self.changed == 0:
            found.append("static")
        if self.noisy > self.frames / 2:
            found.append("noise")
        return found

    def flaws(self) -> list[tuple[str, str]]:
        """Code and sentence of what is wrong with a part of the frames; `kinds` tells what holds for all of them."""
        found = []
        if 0 < self.flat < self.frames:
            message = f"{self.flat} of {self.frames} frames are of one colour, the first is frame {self.first_flat}"
            found.append(("constant-frames", f"{message}: NaN looks like this in 8 bits."))
        if 0 < self.noisy <= self.frames / 2:
            found.append(("noise-frames", f"{self.noisy} of {self.frames} frames are pure noise."))
        if self.changed and self.repeated > 0.5 * (self.frames - 1):
            found.append(("frozen-frames", f"{self.repeated} of {self.frames} frames only repeat the one before."))
        if self.flat < self.frames and self.clipped > _CLIPPED_SHARE * self.frames:
            share = 100 * self.clipped / self.frames
            message = f"{share:.0f} % of all values are at 0 or 255: the range before encoding is wrong."
            found.append(("clipped", message))
        return found


def _moved(change: torch.Tensor) -> torch.Tensor:
    """Mean change of each frame, in the channel that changes most; ``[frames, rows, columns, 3]``."""
    return change.abs().mean((1, 2)).amax(1)


def time_shift(reference: SideStatistics, candidate: SideStatistics) -> str | None:
    """Whether the candidate's frames are the reference's at another time, judged on thumbnails.

    Returns:
        "shifted by N" (candidate frame i shows reference frame i + N), "reversed", "in another order", or none when
        frames match best where they stand or match nothing well.
    """
    if min(reference.frames, candidate.frames) < 3 or "static" in reference.kinds() + candidate.kinds():
        return None
    theirs, ours = torch.cat(reference.thumbnails), torch.cat(candidate.thumbnails)
    distance = torch.cdist(ours, theirs) / _THUMBNAIL
    nearest, best = distance.min(1)
    place = torch.arange(ours.shape[0])
    diagonal = distance[place, place.clamp_max(theirs.shape[0] - 1)]
    # A frame counts as moved only if another one fits much better than its own.
    moved = nearest < 0.5 * diagonal - 0.25
    if int(moved.sum()) < max(2, ours.shape[0] // 10):
        return None
    offsets = (best - place)[moved]
    shift = int(offsets.mode().values)
    if int((offsets == shift).sum()) >= 0.8 * int(moved.sum()):
        return f"shifted by {shift}"
    mirrored = best == theirs.shape[0] - 1 - place
    if int(mirrored.sum()) >= 0.8 * ours.shape[0]:
        return "reversed"
    return "in another order"
