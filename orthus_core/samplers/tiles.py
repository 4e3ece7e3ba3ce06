"""Pixels of pictures, the very large ones tile by tile, so that memory does not grow with them.

Tiles overlap, and what two of them say of a pixel is blended, from one to the other along the
overlap, so that no seam shows. A tile sees nothing beyond its edge, which the decoder's
normalisation and attention would have: tiled pixels are close to whole ones, not equal. Pictures
below `LARGEST_WHOLE` are never tiled.

Legend: M pictures, P patches, C feature channels, h w the grid of patches, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orthus_core.model.interleaved import InterleavedModel

# Patches along a side. 64 are 1024 pixels, 2 GB of the decoder's activations in fp32.
LARGEST_WHOLE = 64
# A tile is as large as the released models' pictures.
TILE = 32
OVERLAP = 8


def decode(model: InterleavedModel, features_MPC: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] of pictures on the model's grid, nominally in [-1, 1] and unclipped."""
    if max(model.config.grid) <= LARGEST_WHOLE:
        return model.decode_images(features_MPC)
    vq = model.model.vqmodel
    features_MhwC = features_MPC.to(vq.post_quant_conv.weight.dtype).unflatten(1, model.config.grid)

    def decode_tile(tile_MhwC: Tensor) -> Tensor:
        grid = (tile_MhwC.shape[1], tile_MhwC.shape[2])
        return vq.pixels(tile_MhwC.flatten(1, 2), grid)

    return in_tiles(decode_tile, features_MhwC, TILE, OVERLAP)


def in_tiles(
    decode_tile: Callable[[Tensor], Tensor], features_MhwC: Tensor, tile: int, overlap: int
) -> Tensor:
    """What `decode_tile` gives for a whole grid, from tiles of it: [M, 3, H, W].

    Args:
        decode_tile: [M, t, u, C] to [M, 3, t * f, u * f], f pixels a patch.
        features_MhwC: The grid.
        tile: Patches along a tile's side.
        overlap: Patches that two neighbours share, less than `tile`.
    """
    rows, columns = features_MhwC.shape[1:3]
    sums = weights = None
    for top in _starts(rows, tile, overlap):
        for left in _starts(columns, tile, overlap):
            part_MhwC = features_MhwC[:, top : top + tile, left : left + tile]
            pixels_M3HW = decode_tile(part_MhwC).float()
            f = pixels_M3HW.shape[2] // part_MhwC.shape[1]
            if sums is None or weights is None:
                shape = (len(pixels_M3HW), pixels_M3HW.shape[1], rows * f, columns * f)
                sums = pixels_M3HW.new_zeros(shape)
                weights = sums.new_zeros(shape[2:])
            weight_HW = torch.outer(
                *(_ramp(size, overlap * f, sums.device) for size in pixels_M3HW.shape[2:])
            )
            area = (..., _pixels(top, part_MhwC.shape[1], f), _pixels(left, part_MhwC.shape[2], f))
            sums[area] += weight_HW * pixels_M3HW
            weights[area] += weight_HW
    assert sums is not None and weights is not None, "a grid has patches"
    return sums / weights


def _starts(patches: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: evenly, the last one flush with the end."""
    if patches <= tile:
        return [0]
    return [*range(0, patches - tile, tile - overlap), patches - tile]


def _pixels(first: int, patches: int, f: int) -> slice:
    return slice(first * f, (first + patches) * f)


def _ramp(size: int, overlap: int, device: torch.device) -> Tensor:
    """Weight of a tile's pixels along one side: rising over the overlap, flat, falling again."""
    inside = torch.arange(1, size + 1, device=device)
    edge = torch.minimum(inside, inside.flip(0))
    return (edge / (overlap + 1)).clamp(max=1.0)
