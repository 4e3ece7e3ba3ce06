"""How well an autoencoder gives pictures back, through its codes and through its features
(2412.00127, table 6).

Legend: M pictures, P patches an image, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.data.pixels import RESCALE
from orthus_core.evaluation.pictures import psnr, ssim
from orthus_core.model.vision import OrthusVQ

# Pixels are measured on the scale of bytes, before they are rounded to bytes.
BYTE_RANGE = 255.0
CHUNK = 32  # pictures decoded at once


class Likeness(NamedTuple):
    """Means over pictures: PSNR in decibels and SSIM."""

    psnr: float
    ssim: float


class Reconstruction(NamedTuple):
    """Both paths of the same pictures.

    codes: Features snapped to the nearest code before they are decoded, as a discrete Chameleon
        draws.
    features: Features decoded as they are, as an Orthus draws.
    """

    codes: Likeness
    features: Likeness


@torch.no_grad()
def reconstruct(vq: OrthusVQ, pixels_M3HW: Tensor) -> Reconstruction:
    """Measures an autoencoder with a decoder on pictures as the processor makes them, of at least
    11 pixels a side.
    """

    def through(path: Callable[[Tensor], Tensor]) -> Likeness:
        decibels, similarities = [], []
        for part_M3HW in pixels_M3HW.split(CHUNK):
            decoded = levels(path(part_M3HW.to(vq.device)))
            decibels.append(psnr(decoded, levels(part_M3HW), data_range=BYTE_RANGE))
            similarities.append(ssim(decoded, levels(part_M3HW), data_range=BYTE_RANGE))
        return Likeness(*(torch.cat(each).mean().item() for each in (decibels, similarities)))

    return Reconstruction(
        codes=through(lambda pixels: vq.pixels_of_codes(vq.codes(pixels))),
        features=through(lambda pixels: vq.pixels(vq.features(pixels))),
    )


def levels(pixels_M3HW: Tensor) -> Tensor:
    """Pixels as levels of 0 to 255 on the CPU, what lies outside clipped."""
    return ((pixels_M3HW.cpu().double() + 1) / RESCALE).clamp(0, BYTE_RANGE)
