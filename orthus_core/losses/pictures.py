"""All that a decoded picture is judged by, as one sum: pixels, feature maps, and a discriminator.

Legend: M pictures, H W pixels in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from orthus_core.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    fooling,
    telling_apart,
)
from orthus_core.losses.perceptual import encoder_maps, held, perceptual
from orthus_core.losses.reconstruction import reconstruction
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import AutoencoderLosses


class PictureFigures(NamedTuple):
    """What is minimised, and its terms before weighting; scalars, None for a term that is not
    computed.

    discriminator: The discriminator's own loss, which is part of `total` with weight 1.
    """

    total: Tensor
    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor
    multi_scale: Tensor
    perceptual: Tensor | None = None
    adversarial: Tensor | None = None
    discriminator: Tensor | None = None


class PictureLoss(nn.Module):
    """Decoded pictures against true ones.

    Decoder and discriminator learn in the same step and from one sum: the fooling term does not
    reach the discriminator's weights, and the discriminator's own loss sees the pictures detached,
    so neither gets a gradient of the other's aim.

    Args:
        weights: Of the terms.
        discriminator: Needed when `weights.adversarial` is above 0.

    Attributes:
        fighting: Whether the adversarial term and the discriminator's own training are on. In
            evaluation mode they are left out either way.
    """

    def __init__(
        self, weights: AutoencoderLosses, discriminator: PatchDiscriminator | None = None
    ) -> None:
        super().__init__()
        assert discriminator is not None or not weights.adversarial
        self.weights = weights
        self.discriminator = discriminator
        self.fighting = False

    def forward(self, vq: OrthusVQ, decoded_M3HW: Tensor, truth_M3HW: Tensor) -> PictureFigures:
        """Judge pictures that `vq` has decoded, by its own encoder too where that has a weight."""
        decoded_M3HW = decoded_M3HW.float()

        # 1. Pixels.
        pixels = reconstruction(decoded_M3HW, truth_M3HW)
        terms = [getattr(self.weights, name) * term for name, term in pixels._asdict().items()]
        total = torch.stack(terms).sum()

        # 2. What the encoder sees. It may be training itself, and must not be taught to look away.
        seen = None
        if self.weights.perceptual:
            with torch.no_grad():
                truth = encoder_maps(vq, truth_M3HW)
            with held(vq.encoder):
                seen = perceptual(encoder_maps(vq, decoded_M3HW), truth)
            total = total + self.weights.perceptual * seen

        # 3. What the discriminator makes of it.
        if self.discriminator is None or not (self.fighting and self.training):
            return PictureFigures(total, *pixels, perceptual=seen)
        with held(self.discriminator):
            fooled = fooling(self.discriminator(decoded_M3HW))
        factor = adaptive_weight(total, fooled, last_layer(vq))
        apart = telling_apart(
            self.discriminator(truth_M3HW), self.discriminator(decoded_M3HW.detach())
        )
        total = total + self.weights.adversarial * factor * fooled + apart
        return PictureFigures(total, *pixels, seen, fooled, apart)


def last_layer(vq: OrthusVQ) -> Tensor:
    """The weight that every pixel passes last."""
    assert vq.decoder is not None, "a picture was decoded"
    return vq.decoder.conv_out.weight
