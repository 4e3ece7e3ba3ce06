"""What a decoded image is judged by, as one sum: pixels, edges, colour, feature maps, and a
discriminator.

Legend: M images, H W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from orthus_core.losses.perceptual import encoder_maps, held, perceptual
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import AutoencoderLosses

# How many pixels along a side are averaged for each scale of the multi-scale term.
SCALES = (2, 4, 8)


class ReconstructionLosses(NamedTuple):
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


def reconstruction(pixels_M3HW: Tensor, truth_M3HW: Tensor) -> ReconstructionLosses:
    """L1, MSE, L1 of neighbour differences (edges), L1 of chroma (colours that brightness alone
    forgives), and L1 of coarser copies (blots that are small in every single pixel).
    """
    edges = zip(neighbour_differences(pixels_M3HW), neighbour_differences(truth_M3HW), strict=True)
    return ReconstructionLosses(
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


class PictureFigures(NamedTuple):
    """What is minimised, and its terms before weighting; scalars, None for a term that is not
    computed.

    discriminator: The discriminator's own loss, which is part of `total` with weight 1.
    commitment, codebook: Terms of the codes, where the autoencoder itself is trained.
    codes_used: Different codes in the batch.
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
    commitment: Tensor | None = None
    codebook: Tensor | None = None
    codes_used: int | None = None


class PictureLoss(nn.Module):
    """Compares decoded pictures with true ones.

    The decoder and the discriminator train in the same step, from one sum. The generator's term is
    computed with the discriminator's weights frozen, and the discriminator's term with the pictures
    detached, so each of them gets gradients of its own term only.

    Args:
        weights: Weights of the terms.
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
            fooled = generator_loss(self.discriminator(decoded_M3HW))
        factor = adaptive_weight(total, fooled, last_layer(vq))
        apart = discriminator_loss(
            self.discriminator(truth_M3HW), self.discriminator(decoded_M3HW.detach())
        )
        total = total + self.weights.adversarial * factor * fooled + apart
        return PictureFigures(total, *pixels, seen, fooled, apart)


def last_layer(vq: OrthusVQ) -> Tensor:
    """The weight that every pixel passes last."""
    assert vq.decoder is not None, "a picture was decoded"
    return vq.decoder.conv_out.weight
