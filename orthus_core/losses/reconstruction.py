"""How far a decoded picture is from the true one: pixels, edges, colour, and seen from afar.

Legend: M images, H W pixels; all pictures are in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# How many pixels along a side are averaged for each scale of the multi-scale term.
SCALES = (2, 4, 8)


class Reconstruction(NamedTuple):
    """The terms of the loss, each a mean over all values; scalars."""

    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor
    multi_scale: Tensor


def neighbour_differences(pixels_M3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the pixel on the right and to the pixel below."""
    return (
        pixels_M3HW[..., :, 1:] - pixels_M3HW[..., :, :-1],
        pixels_M3HW[..., 1:, :] - pixels_M3HW[..., :-1, :],
    )


def chroma(pixels_M3HW: Tensor) -> Tensor:
    """What is left of a colour without its brightness: channels minus their mean."""
    return pixels_M3HW - pixels_M3HW.mean(1, keepdim=True)


def reconstruction(pixels_M3HW: Tensor, truth_M3HW: Tensor) -> Reconstruction:
    """L1, MSE, L1 of neighbour differences (edges), L1 of chroma (colours that brightness alone
    forgives), and L1 of coarser copies (blots that are small in every single pixel).
    """
    edges = zip(neighbour_differences(pixels_M3HW), neighbour_differences(truth_M3HW), strict=True)
    return Reconstruction(
        l1=F.l1_loss(pixels_M3HW, truth_M3HW),
        mse=F.mse_loss(pixels_M3HW, truth_M3HW),
        gradient=sum((F.l1_loss(a, b) for a, b in edges), start=pixels_M3HW.new_zeros(())),
        chroma=F.l1_loss(chroma(pixels_M3HW), chroma(truth_M3HW)),
        multi_scale=multi_scale(pixels_M3HW, truth_M3HW),
    )


def multi_scale(pixels_M3HW: Tensor, truth_M3HW: Tensor) -> Tensor:
    """L1 of the pictures shrunk by each of `SCALES`, averaged over the scales; a scalar."""
    error_M3HW = pixels_M3HW - truth_M3HW
    return torch.stack([F.avg_pool2d(error_M3HW, scale).abs().mean() for scale in SCALES]).mean()
