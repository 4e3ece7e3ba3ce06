"""A picture's distance in what a vision encoder sees, rather than in pixels.

LPIPS (1801.03924) measures it by a classifier's feature maps. Chameleon's own encoder serves here:
it is at hand at every size, and nobody's classifier has to be downloaded. Without human judgements
to learn them from, all channels weigh alike.

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
    """What each level of the encoder makes of pictures, full resolution first: [M, c, h, w]."""
    levels: Any = autoencoder.encoder.down  # of modules whose parts only transformers knows
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
    """Squared distance of the maps' vectors, each of length 1, averaged over positions and levels
    (1801.03924, eq. 1 with equal weights); a scalar of 0 to 4.
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
def held(module: nn.Module) -> Iterator[None]:
    """Inside, gradients go through the module but none reaches its weights."""
    moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
