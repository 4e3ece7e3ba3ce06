"""A perceptual distance between pictures, in a vision encoder's feature maps.

LPIPS (1801.03924) uses a classifier's feature maps. Here, Chameleon's own encoder is used: it is
available at every size, and no classifier has to be downloaded. Without human judgements to learn
weights from, all channels have equal weight.

Legend: M pictures, H W pixels, c channels of a map, h w its grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ChameleonVQVAE

EPS = 1e-10


def encoder_maps(autoencoder: ChameleonVQVAE, pixels_M3HW: Tensor) -> list[Tensor]:
    """The encoder's map at each level, full resolution first: [M, c, h, w]."""
    levels: Any = autoencoder.encoder.down  # modules whose attributes transformers does not declare
    x_Mchw = autoencoder.encoder.conv_in(pixels_M3HW)
    maps = []
    for number, level in enumerate(levels, start=1):
        for index, block in enumerate(level.block):
            x_Mchw = block(x_Mchw)
            if len(level.attn):
                x_Mchw = level.attn[index](x_Mchw)
        maps.append(x_Mchw)
        if number < len(levels):
            x_Mchw = level.downsample(x_Mchw)
    return maps


def perceptual(maps: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Squared distance of the maps' unit vectors, averaged over positions and levels
    (1801.03924, eq. 1 with equal weights); a scalar from 0 to 4.
    """
    distances = [
        (unit(mine.float()) - unit(theirs.float())).square().sum(1).mean()
        for mine, theirs in zip(maps, truth, strict=True)
    ]
    return torch.stack(distances).mean()


def unit(map_Mchw: Tensor) -> Tensor:
    """The map with every position's channels scaled to length 1."""
    return map_Mchw / (map_Mchw.square().sum(1, keepdim=True) + EPS).sqrt()


@contextmanager
def frozen_weights(module: nn.Module) -> Iterator[None]:
    """Freeze the module's weights inside the block; gradients still pass through it."""
    moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
