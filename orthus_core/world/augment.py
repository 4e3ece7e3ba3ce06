"""Sprites in bulk for the autoencoder: one tensor of all pictures, over random backgrounds.

Legend: M pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.data.pixels import RESCALE
from orthus_core.world.sprites import Sprite, SpritePack, scale_premultiplied

# Most backgrounds are white, the others a random colour. Some sprites are shrunk and moved.
WHITE_CHANCE = 0.7
GREY_CHANCE = 0.05
ZOOM_CHANCE = 0.15
SMALLEST_ZOOM = 0.5


def premultiply_sprites(pack: SpritePack, sprites: Sequence[Sprite], size: int) -> Tensor:
    """All sprites at one size, with colours multiplied by alpha: uint8 [M, 4, size, size]."""
    pictures = [np.asarray(scale_premultiplied(pack.rgba(sprite), size)) for sprite in sprites]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def random_pictures(sprites_M4HW: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random sprites, mirrored and zoomed at random, over random backgrounds.

    Returns float [count, 3, H, W], scaled as Chameleon's processor does.
    """

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    picked = torch.randint(len(sprites_M4HW), (count,), generator=generator)
    over_M4HW = sprites_M4HW[picked].float() / 255
    over_M4HW = torch.where(chance(0.5)[:, None, None, None], over_M4HW.flip(-1), over_M4HW)
    zoomed = chance(ZOOM_CHANCE)
    if zoomed.any():
        over_M4HW[zoomed] = random_zoom(over_M4HW[zoomed], generator)
    background_M3 = torch.rand(count, 3, generator=generator)
    background_M3[chance(WHITE_CHANCE)] = 1.0
    pixels_M3HW = composite_over(over_M4HW, background_M3[:, :, None, None])
    grey = chance(GREY_CHANCE)
    pixels_M3HW[grey] = pixels_M3HW[grey].mean(1, keepdim=True)
    return normalise(pixels_M3HW)


def composite_over(over_M4HW: Tensor, under_M3HW: Tensor) -> Tensor:
    """Composites pictures with premultiplied alpha over others: [M, 3, H, W] in 0..1."""
    return over_M4HW[:, :3] + (1 - over_M4HW[:, 3:]) * under_M3HW


def normalise(pixels_M3HW: Tensor) -> Tensor:
    """Scales colours in 0..1 as Chameleon's processor does."""
    return pixels_M3HW.clamp(0, 1) * (255 * RESCALE) - 1


def random_zoom(over_M4HW: Tensor, generator: torch.Generator) -> Tensor:
    """Shrinks each picture by its own factor and moves it to where it still fits: [M, 4, H, W]."""
    count = len(over_M4HW)
    scale_M = SMALLEST_ZOOM + (1 - SMALLEST_ZOOM) * torch.rand(count, generator=generator)
    shift_M2 = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale_M)[:, None]
    # affine_grid maps output to input: x_in = (x_out - shift) / scale.
    matrix_M23 = torch.zeros(count, 2, 3)
    matrix_M23[:, 0, 0] = matrix_M23[:, 1, 1] = 1 / scale_M
    matrix_M23[:, :, 2] = -shift_M2 / scale_M[:, None]
    grid = F.affine_grid(matrix_M23, list(over_M4HW.shape), align_corners=False)
    return F.grid_sample(over_M4HW, grid, mode="bilinear", align_corners=False)
