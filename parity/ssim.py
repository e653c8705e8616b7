"""Per-frame structural similarity of two batches of 8-bit RGB frames.

Three metrics, each returning one float64 per frame:

* ``ssim``: scikit-image's ``structural_similarity(a, b, channel_axis=-1, data_range=255)`` with its defaults
  (uniform 7x7 window, sample covariance, window wholly inside the frame), equal within 1e-6;
* ``ssim_gaussian``: the same with ``gaussian_weights=True`` (sigma 1.5, 11x11 window);
* ``ms_ssim``: what FastVideo's own quality tests compute, ``pytorch_msssim.ms_ssim`` on frames divided by 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from .errors import ParityError

Metric = Literal["ssim", "ssim_gaussian", "ms_ssim"]
METRICS: tuple[str, ...] = get_args(Metric)

WINDOW = 7
_AREA = WINDOW * WINDOW
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
# The constants in units of window sums: means carry 1/49 each, sample (co)variances 1/(49*48).
SCALED_C1 = _C1 * _AREA * _AREA
SCALED_C2 = _C2 * _AREA * (_AREA - 1)

_GAUSSIAN_SIGMA = 1.5
_GAUSSIAN_RADIUS = 5

# The shorter side must exceed this: four halvings under a window of 11.
MS_SSIM_SHORT_SIDE = 160
# Elements of one map of the eager path, and bytes of frames a pass; float64 maps take about 60 times the frames' bytes.
_STRIPE_ELEMENTS = {"cpu": 1 << 17, "cuda": 16 << 20}
_EAGER_BYTES = {"cpu": 1 << 20, "cuda": 64 << 20}
_MS_SSIM_BYTES = {"cpu": 1 << 20, "cuda": 64 << 20}


@dataclass
class Scorer:
    """Scores batches with one metric on one device.

    Attributes:
        metric: One of `METRICS`.
        device: Where the arithmetic is done; batches are moved there.
        backend: What computed the last batch: "triton", "torch" or "pytorch_msssim"; empty before the first.
        fallback: Why the Triton kernel was not used although the device is a GPU; empty if it was.
    """

    metric: Metric
    device: torch.device
    backend: str = ""
    fallback: str = ""

    def __call__(self, reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """Score ``reference`` against ``candidate``, both uint8 ``[frames, height, width, 3]``.

        Returns:
            float64 ``[frames]`` on the device; no host synchronisation is made here.

        Raises:
            ParityError: Wrong dtype or shape, frames too small for the metric, or pytorch_msssim is missing.
        """
        check_frames(reference, candidate, self.metric)
        reference = reference.to(self.device, non_blocking=True)
        candidate = candidate.to(self.device, non_blocking=True)
        if self.metric == "ms_ssim":
            self.backend = "pytorch_msssim"
            return _in_chunks(ms_ssim, reference, candidate, _MS_SSIM_BYTES)
        if self.metric == "ssim_gaussian":
            self.backend = "torch"
            return _in_chunks(_gaussian, reference, candidate, _EAGER_BYTES)
        if self.device.type == "cuda" and not self.fallback:
            try:
                from .ssim_triton import uniform_dissimilarity

                self.backend = "triton"
                return 1 - uniform_dissimilarity(reference, candidate)
            except torch.cuda.OutOfMemoryError:
                raise
            # Triton needs a C compiler and a supported card; without either the eager path is right, only slower.
            except Exception as error:
                self.fallback = f"{type(error).__name__}: {error}"[:300]
        self.backend = "torch"
        return _in_chunks(_uniform, reference, candidate, _EAGER_BYTES)


def check_frames(reference: torch.Tensor, candidate: torch.Tensor, metric: Metric) -> None:
    """Refuse what the metrics would misread.

    Raises:
        ParityError: Not uint8 ``[frames, height, width, 3]``, unlike shapes, no frames, or frames too small.
    """
    for side, frames in (("reference", reference), ("candidate", candidate)):
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[3] != 3 or frames.shape[0] == 0:
            raise ParityError(
                f"The {side} is not a batch of 8-bit RGB frames.",
                seen=f"dtype {frames.dtype}, shape {tuple(frames.shape)}",
                fix="Give uint8 frames shaped [frames, height, width, 3], at least one.",
            )
    if reference.shape != candidate.shape:
        raise ParityError(
            "The two batches of frames differ in shape.",
            seen=f"reference {tuple(reference.shape)}, candidate {tuple(candidate.shape)}",
            fix="Compare videos of the same size, frame by frame.",
        )
    check_size(int(reference.shape[1]), int(reference.shape[2]), metric)


def check_size(height: int, width: int, metric: Metric) -> None:
    """Refuse frames that are too small for ``metric``.

    Raises:
        ParityError: Names the size and the least one.
    """
    least = {"ssim": WINDOW, "ssim_gaussian": 2 * _GAUSSIAN_RADIUS + 1, "ms_ssim": MS_SSIM_SHORT_SIDE + 1}[metric]
    if min(height, width) < least:
        raise ParityError(
            f"The frames are too small for {metric}.",
            seen=f"{width}x{height}; the shorter side must be at least {least}",
            fix='Use metric="ssim" for small frames.' if metric == "ms_ssim" else "Compare larger frames.",
        )


def ms_ssim(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Multi-scale SSIM per frame, as FastVideo's tests compute it.

    Args:
        reference, candidate: uint8 ``[frames, height, width, 3]`` on one device, shorter side above 160.

    Returns:
        float64 ``[frames]``.

    Raises:
        ParityError: pytorch_msssim cannot be imported.
    """
    try:
        import pytorch_msssim
    except ImportError as error:
        raise ParityError(
            "MS-SSIM needs the package pytorch_msssim, which this interpreter cannot import.",
            seen=str(error),
            fix='Install "pytorch-msssim>=1.0" there, or use metric="ssim".',
        ) from error
    planes = [frames.permute(0, 3, 1, 2) for frames in (reference, candidate)]
    if reference.is_cuda:
        # On the CPU the frames' own layout, channels last, makes the grouped convolutions three times faster.
        planes = [frames.contiguous() for frames in planes]
    planes = [frames.float() / 255 for frames in planes]
    # TF32 would keep 10 bits of the mantissa in the window sums, too few for variances.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        scores = pytorch_msssim.ms_ssim(planes[0], planes[1], data_range=1.0, size_average=False)
    return cast(torch.Tensor, scores).double()


def _in_chunks(
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    reference: torch.Tensor,
    candidate: torch.Tensor,
    budget: dict[str, int],
) -> torch.Tensor:
    """Apply ``metric`` to as many frames at a time as ``budget`` (bytes by device type) allows."""
    frame_bytes = math.prod(reference.shape[1:])
    step = max(1, budget[reference.device.type] // frame_bytes)
    parts = [
        metric(reference[start : start + step], candidate[start : start + step])
        for start in range(0, reference.shape[0], step)
    ]
    return torch.cat(parts)


def _window_sums(values: torch.Tensor, channels: int) -> torch.Tensor:
    """Sums over 7x7 windows wholly inside ``values``, int32 ``[frames, height, width * channels]``."""
    for dim, stride in ((1, 1), (2, channels)):
        length = values.shape[dim]
        valid = length - (WINDOW - 1) * stride
        # 7 = 4 + 2 + 1: four additions an axis in place of six.
        twos = values.narrow(dim, 0, length - stride) + values.narrow(dim, stride, length - stride)
        fours = twos.narrow(dim, 0, valid) + twos.narrow(dim, 2 * stride, valid)
        fours += twos.narrow(dim, 4 * stride, valid)
        fours += values.narrow(dim, 6 * stride, valid)
        values = fours
    return values


def _uniform(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """SSIM with the uniform window, in stripes of rows whose int32 maps fit a processor's cache (or a GPU's memory)."""
    frames, height, width, channels = reference.shape
    margin = WINDOW - 1
    rows = max(WINDOW, _STRIPE_ELEMENTS[reference.device.type] // (frames * width * channels))
    total = torch.zeros(frames, dtype=torch.float64, device=reference.device)
    for top in range(0, height - margin, rows):
        stripe = slice(top, top + rows + margin)
        total += _dissimilarity_sum(reference[:, stripe].flatten(2), candidate[:, stripe].flatten(2), channels)
    return 1 - total / ((height - margin) * (width - margin) * channels)


def _dissimilarity_sum(reference: torch.Tensor, candidate: torch.Tensor, channels: int) -> torch.Tensor:
    """Sum of 1 - SSIM over all windows of uint8 ``[frames, rows, width * channels]``; float64 ``[frames]``.

    Sums of 49 bytes and of 49 squares, and their products with 49, fit in 32 bits, so everything up to the two
    quotients is exact: a flat frame has a variance of 0 and equal frames score exactly 1. In terms of them

        1 - SSIM = r1 + r2 - r1 * r2,  r1 = (Sx - Sy)^2 / (Sx^2 + Sy^2 + c1),  r2 = var(x - y) / (var x + var y + c2)
    """
    x, y = reference.int(), candidate.int()
    sum_x, sum_y = _window_sums(x, channels), _window_sums(y, channels)
    squares = _window_sums((x * x).addcmul_(y, y), channels)
    gaps = _window_sums(x.sub_(y).square_(), channels)
    level_gap = (sum_x - sum_y).square_()
    levels = sum_x.square_().addcmul_(sum_y, sum_y)
    spread = squares.mul_(_AREA).sub_(levels)
    spread_gap = gaps.mul_(_AREA).sub_(level_gap)
    first = level_gap.float().div_(levels.float().add_(SCALED_C1))
    second = spread_gap.float().div_(spread.float().add_(SCALED_C2))
    dissimilarity = torch.addcmul(first, first, second, value=-1).add_(second)
    return dissimilarity.sum((1, 2), dtype=torch.float64)


def _gaussian(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """SSIM with the Gaussian window, in float64; sample correction for 121 values, as scikit-image has it."""
    size = 2 * _GAUSSIAN_RADIUS + 1
    offsets = torch.arange(-_GAUSSIAN_RADIUS, _GAUSSIAN_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / _GAUSSIAN_SIGMA) ** 2)
    taps = (weights / weights.sum()).tolist()

    def blur(values: torch.Tensor) -> torch.Tensor:
        for dim in (1, 2):
            valid = values.shape[dim] - size + 1
            total = values.narrow(dim, 0, valid) * taps[0]
            for index in range(1, size):
                total.add_(values.narrow(dim, index, valid), alpha=taps[index])
            values = total
        return values

    x, y = reference.double(), candidate.double()
    mean_x, mean_y = blur(x), blur(y)
    correction = size * size / (size * size - 1)
    variance = correction * (blur(x * x + y * y) - mean_x * mean_x - mean_y * mean_y)
    covariance = correction * (blur(x * y) - mean_x * mean_y)
    quality = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    quality /= (mean_x * mean_x + mean_y * mean_y + _C1) * (variance + _C2)
    return quality.flatten(1).mean(1)
