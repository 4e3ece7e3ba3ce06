"""The loss of a decoded picture, as one sum: pixels, edges, colour, feature maps of the encoder and
of EfficientNet, and a discriminator.

Legend: M images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.evaluation.efficientnet import efficientnet
from orthus_core.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    augmented_alike,
    discriminator_loss,
    generator_loss,
    relativistic_loss,
    slope_penalty,
    unchanged,
)
from orthus_core.losses.perceptual import encoder_maps, frozen_weights, perceptual
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import AutoencoderLosses, DiscriminatorRecipe

# Sides of the pixel blocks that are averaged, for each scale of the multi-scale term.
SCALES = (2, 4, 8)
# Steps between two penalties of the discriminator's slope, each of them weighted as many times.
PENALTY_EVERY = 8
# Stages of EfficientNet that are compared, those with strides of 2 to 16 pixels.
FEATURE_LEVELS = 4


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
    """The colour without its brightness: channels minus their mean."""
    return pixels_M3HW - pixels_M3HW.mean(1, keepdim=True)


def reconstruction(pixels_M3HW: Tensor, truth_M3HW: Tensor) -> ReconstructionLosses:
    """L1, MSE, L1 of neighbour differences (edges), L1 of chroma (colour errors of equal
    brightness), and L1 of downscaled copies (large blotches that are small errors at every pixel).
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
    """The total that is minimised, and its terms before weighting; scalars, None for a term that is
    not computed.

    Attributes:
        discriminator: The discriminator's own loss, which is part of `total` with weight 1.
        commitment, codebook: Terms of the codes, when the autoencoder itself is trained.
        codes_used: Number of different codes in the batch.
    """

    total: Tensor
    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor
    multi_scale: Tensor
    perceptual: Tensor | None = None
    features: Tensor | None = None
    adversarial: Tensor | None = None
    discriminator: Tensor | None = None
    commitment: Tensor | None = None
    codebook: Tensor | None = None
    codes_used: int | None = None


class PictureLoss(nn.Module):
    """The loss between decoded pictures and real ones.

    The decoder and the discriminator train in the same step, from one sum. The generator's term is
    computed with the discriminator's weights frozen, and the discriminator's term with the pictures
    detached, so each of them receives gradients of its own term only.

    Args:
        weights: Weights of the terms.
        recipe: Kind of the adversarial term.
        discriminator: Discriminator, required when `weights.adversarial` is above 0.

    Attributes:
        fighting: Whether the adversarial term and the discriminator's own training are on. In
            evaluation mode both are left out.
        penalising: Whether this step's discriminator loss includes the penalty of its slope, which
            costs a second backward pass.
        mean: The mean of a tensor over the processes that share a batch; see `adaptive_weight`.
    """

    def __init__(
        self,
        weights: AutoencoderLosses,
        recipe: DiscriminatorRecipe | None = None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        super().__init__()
        assert discriminator is not None or not weights.adversarial
        if weights.features:
            efficientnet()  # a missing package is reported before the training starts
        self.weights = weights
        self.recipe = recipe or DiscriminatorRecipe()
        self.discriminator = discriminator
        self.fighting = False
        self.penalising = False
        self.mean: Callable[[Tensor], Tensor] = unchanged

    def begin_step(self, step: int) -> None:
        """Switch on what the recipe's discriminator does from this step on, and at this step."""
        self.fighting = step >= self.recipe.start
        self.penalising = step % PENALTY_EVERY == 0

    def forward(
        self,
        vq: OrthusVQ,
        decoded_M3HW: Tensor,
        truth_M3HW: Tensor,
        seeds_M: Tensor | None = None,
    ) -> PictureFigures:
        """Compare pictures that `vq` has decoded with the originals, also by its encoder.

        Args:
            seeds_M: Seed of each picture, for what the discriminator is shown of it; None draws
                seeds from torch's global generator.
        """
        decoded_M3HW = decoded_M3HW.float()

        # 1. Pixels.
        pixels = reconstruction(decoded_M3HW, truth_M3HW)
        terms = [getattr(self.weights, name) * term for name, term in pixels._asdict().items()]
        total = torch.stack(terms).sum()

        # 2. Feature maps. The encoder may be in training, and must not learn to ignore differences.
        seen = None
        if self.weights.perceptual:
            with torch.no_grad():
                truth = encoder_maps(vq, truth_M3HW)
            with frozen_weights(vq.encoder):
                seen = perceptual(encoder_maps(vq, decoded_M3HW), truth)
            total = total + self.weights.perceptual * seen
        features = None
        if self.weights.features:
            features = efficientnet_distance(decoded_M3HW, truth_M3HW)
            total = total + self.weights.features * features

        # 3. The discriminator.
        if self.discriminator is None or not (self.fighting and self.training):
            return PictureFigures(total, *pixels, perceptual=seen, features=features)
        fooled, apart = self._adversarial(self.discriminator, decoded_M3HW, truth_M3HW, seeds_M)
        factor = adaptive_weight(total, fooled, last_layer(vq), self.mean)
        total = total + self.weights.adversarial * factor * fooled + apart
        return PictureFigures(total, *pixels, seen, features, fooled, apart)

    def _adversarial(
        self,
        discriminator: PatchDiscriminator,
        decoded_M3HW: Tensor,
        truth_M3HW: Tensor,
        seeds_M: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The decoder's term and the discriminator's own loss."""
        recipe = self.recipe
        if recipe.augment:
            decoded_M3HW, truth_M3HW = augmented_alike(decoded_M3HW, truth_M3HW, seeds_M)
        with frozen_weights(discriminator):
            for_decoder = discriminator(decoded_M3HW)
        decoded_M3HW = decoded_M3HW.detach()
        of_true, of_decoded = discriminator(truth_M3HW), discriminator(decoded_M3HW)
        if recipe.kind == "hinge":
            fooled = generator_loss(for_decoder)
            apart = discriminator_loss(of_true, of_decoded)
        else:
            fooled = relativistic_loss(for_decoder, of_true.detach())
            apart = relativistic_loss(of_true, of_decoded)
        if recipe.penalty and self.penalising:
            slopes = slope_penalty(discriminator, truth_M3HW) + slope_penalty(
                discriminator, decoded_M3HW
            )
            apart = apart + recipe.penalty * PENALTY_EVERY * slopes
        return fooled, apart


def efficientnet_distance(decoded_M3HW: Tensor, truth_M3HW: Tensor) -> Tensor:
    """`perceptual` distance in the first feature maps of EfficientNet-Lite0; a scalar.

    Args:
        decoded_M3HW, truth_M3HW: Pictures in -1..1; gradients reach the decoded ones only.
    """
    network = efficientnet(str(decoded_M3HW.device))
    with torch.no_grad():
        truth = network.maps(truth_M3HW.to(decoded_M3HW), FEATURE_LEVELS)
    return perceptual(network.maps(decoded_M3HW, FEATURE_LEVELS), truth)


def last_layer(vq: OrthusVQ) -> Tensor:
    """The last weight that every pixel depends on."""
    assert vq.decoder is not None, "a picture was decoded"
    return vq.decoder.conv_out.weight
