"""PSNR and SSIM of pictures as anyone holds them: arrays, tensors or PIL images.

The formulas are in `reconstruction`: SSIM is Wang et al.'s (2004), with an 11x11 Gaussian window of
sigma 1.5 and only where it lies inside the picture. torchmetrics reflects the picture at its border
instead, which gives 0.9495 in place of 0.9565 on 24x24 pixels.

The mean of the pictures' PSNR is many decibels above the PSNR of their mean error; this is the mean
of PSNR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orthus_core.errors import DataError
from orthus_core.evaluation.feature_arrays import as_array, as_numbers

if TYPE_CHECKING:
    from torch import Tensor

BYTE_RANGE = 255.0
UNIT_RANGE = 1.0
COLOURS = (1, 3, 4)
SMALLEST_SIDE = 11


def psnr(a: Any, b: Any, range: float | None = None) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(range^2 / MSE); the mean over pictures, and
    infinite if two of them are equal.

    Args:
        a, b: Pictures of the same shape: [H, W], [H, W, c] or [c, H, W], or a batch of them.
        range: Largest possible difference of two pixels: 255 for bytes, 1 for 0..1, 2 for -1..1.
            If it is not given, 1 for fractions in 0..1 and 255 for everything else.

    Raises:
        DataError: When the shapes differ, or the pixels do not fit the range.
    """
    from orthus_core.evaluation import reconstruction

    x, y, width = _pair(a, b, range)
    span = max(x.max().item(), y.max().item()) - min(x.min().item(), y.min().item())
    _check(span <= width, f"pixels span {span:g}, more than the range {width:g}")
    return reconstruction.psnr(x, y, data_range=width).mean().item()


def ssim(a: Any, b: Any, range: float | None = None) -> float:
    """Structural similarity by Wang et al., the mean over positions, colours and pictures.

    Args:
        a, b: As for `psnr`, with sides of at least 11 pixels.
        range: As for `psnr`. Pixels must lie in 0..range: unlike PSNR, SSIM changes if they are
            shifted, so pictures in -1..1 have to be rescaled.

    Raises:
        DataError: When the shapes differ, the pixels do not fit the range, or a side is too small.
    """
    from orthus_core.evaluation import reconstruction

    x, y, width = _pair(a, b, range)
    low, high = min(x.min().item(), y.min().item()), max(x.max().item(), y.max().item())
    _check(low >= 0 and high <= width, f"pixels of {low:g} to {high:g} are not in 0..{width:g}")
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        raise DataError(f"a picture with a side of fewer than {SMALLEST_SIDE} pixels has no SSIM")
    return reconstruction.ssim(x, y, data_range=width).mean().item()


def _pair(a: Any, b: Any, width: float | None) -> tuple[Tensor, Tensor, float]:
    """Both pictures as fp64 [M, c, H, W], and the range."""
    import numpy as np
    import torch

    arrays = [as_array(each) for each in (a, b)]
    numbers = [as_numbers(each) for each in arrays]
    if arrays[0].shape != arrays[1].shape:
        raise DataError(f"pictures of different shapes: {arrays[0].shape} and {arrays[1].shape}")
    if width is None:
        whole = any(np.issubdtype(each.dtype, np.integer) for each in arrays)
        width = BYTE_RANGE if whole or max(each.max() for each in numbers) > 1 else UNIT_RANGE
    x, y = (torch.from_numpy(_channels_first(each)) for each in numbers)
    return x, y, float(width)


def _channels_first(pixels: Any) -> Any:
    """Pictures as [M, c, H, W]; colours are the last axis, or else the first one of a picture."""
    import numpy as np

    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim in (3, 4) and pixels.shape[-1] in COLOURS:
        pixels = np.moveaxis(pixels, -1, -3)
    elif pixels.ndim not in (3, 4) or pixels.shape[-3] not in COLOURS:
        raise DataError(
            f"no pictures: an array of shape {pixels.shape}", hint="[H, W, 3] or [3, H, W]"
        )
    return np.ascontiguousarray(pixels if pixels.ndim == 4 else pixels[None])


def _check(fits: bool, message: str) -> None:
    if not fits:
        raise DataError(
            message, hint="rescale the pixels, or give the range: 255, 1, or 2 for -1..1"
        )
