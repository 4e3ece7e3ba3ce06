"""How far a decoded picture is from the true one: pixels, edges and colour.

Legend: M images, H W pixels; all pictures are in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Reconstruction(NamedTuple):
    """The terms of the loss, each a mean over all values; scalars."""

    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor


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
    """L1, MSE, L1 of neighbour differences (edges) and L1 of chroma (colours that brightness alone
    forgives).
    """
    edges = zip(neighbour_differences(pixels_M3HW), neighbour_differences(truth_M3HW), strict=True)
    return Reconstruction(
        l1=F.l1_loss(pixels_M3HW, truth_M3HW),
        mse=F.mse_loss(pixels_M3HW, truth_M3HW),
        gradient=sum((F.l1_loss(a, b) for a, b in edges), start=pixels_M3HW.new_zeros(())),
        chroma=F.l1_loss(chroma(pixels_M3HW), chroma(truth_M3HW)),
    )
