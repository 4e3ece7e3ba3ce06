"""Training the vision autoencoder: first as a discrete one (`pretrain`), later its decoder alone
(`finetune-vae`).

Legend: M images, P patches an image, C feature channels, K codes.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.data.augment import random_pictures
from orthus_core.losses.quantisation import kmeans, quantise
from orthus_core.losses.reconstruction import reconstruction
from orthus_core.model.config import OrthusVQConfig
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import AutoencoderLosses, AutoencoderRecipe
from orthus_core.train.sheet import sheet

# Pictures whose features start the codebook, and rounds of k-means on them.
KMEANS_PICTURES = 1024
KMEANS_ROUNDS = 10
# Momentum of the running mean and variance of features.
NORM_MOMENTUM = 0.01
SAMPLES = 16


class AutoencoderFigures(NamedTuple):
    """The weighted sum and its terms; `codes_used` counts different codes in the batch."""

    total: Tensor
    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor
    commitment: Tensor
    codebook: Tensor
    codes_used: int


def fresh_autoencoder(recipe: AutoencoderRecipe) -> OrthusVQ:
    """An untrained autoencoder of the recipe's shape, drawn from torch's global generator.

    Convolutions start as torch starts them (transformers' normal(0.02) is too faint here), and the
    last one of every residual block at zero, so that the network begins as a short chain of plain
    convolutions (1901.09321): without it the first thousand steps only undo the blocks' noise.
    """
    vq = OrthusVQ(
        OrthusVQConfig(
            resolution=recipe.resolution,
            base_channels=recipe.base_channels,
            channel_multiplier=list(recipe.channel_multiplier),
            num_res_blocks=recipe.num_res_blocks,
            embed_dim=recipe.embed_dim,
            latent_channels=recipe.latent_channels,
            num_embeddings=recipe.num_embeddings,
        )
    )
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    for name, parameter in vq.named_parameters():
        if ".conv2." in name or ".proj_out." in name:
            nn.init.zeros_(parameter)
    return vq


class DiscreteAutoencoder(nn.Module):
    """The objective of a VQ autoencoder whose decoder also learns to draw from unsnapped features.

    Features are kept at zero mean and unit variance a channel by a normalisation without weights;
    `fold_norm` moves it into the autoencoder's own 1x1 convolutions, so nothing outside Chameleon's
    layout is left.
    """

    last_used_K: Tensor  # steps since each code was last chosen

    def __init__(self, vq: OrthusVQ, recipe: AutoencoderRecipe) -> None:
        super().__init__()
        self.vq = vq
        self.recipe = recipe
        channels = vq.config.embed_dim
        self.norm = nn.BatchNorm1d(channels, affine=False, momentum=NORM_MOMENTUM)
        self.register_buffer("last_used_K", torch.zeros(vq.config.num_embeddings, dtype=torch.long))
        self.snapping = False

    def features(self, pixels_M3HW: Tensor) -> Tensor:
        """Normalised features: fp32 [M, P, C]."""
        pixels_M3HW = pixels_M3HW.to(self.vq.device)
        features_MPC = self.vq.features(pixels_M3HW).float()
        return self.norm(features_MPC.flatten(0, 1)).view(features_MPC.shape)

    def forward(self, pixels_M3HW: Tensor) -> AutoencoderFigures:
        """Losses of a batch of pictures; its noise comes from torch's global generator."""
        recipe, losses = self.recipe, self.recipe.losses
        features_MPC = self.features(pixels_M3HW)
        snapped = round(recipe.quantised_share * len(pixels_M3HW)) if self.snapping else 0
        noise_MPC = recipe.feature_noise * torch.randn_like(features_MPC[snapped:])
        decoded_MPC = features_MPC[snapped:] + noise_MPC
        commitment = codebook = features_MPC.new_zeros(())
        codes_used = 0
        if snapped:
            quantised = quantise(
                features_MPC[:snapped].flatten(0, 1), self.vq.quantize.embedding.weight
            )
            snapped_MPC = quantised.features_NC.view(features_MPC[:snapped].shape)
            decoded_MPC = torch.cat([snapped_MPC, decoded_MPC])
            commitment, codebook = quantised.commitment, quantised.codebook
            self.last_used_K += 1
            self.last_used_K[quantised.codes_N] = 0
            codes_used = quantised.codes_N.unique().numel()
        terms = reconstruction(self.vq.pixels(decoded_MPC).float(), pixels_M3HW)
        total = weighted(terms._asdict(), losses)
        total = total + losses.commitment * commitment + losses.codebook * codebook
        return AutoencoderFigures(
            total, *terms, commitment=commitment, codebook=codebook, codes_used=codes_used
        )

    @torch.no_grad()
    def start_codebook(self, pixels_M3HW: Tensor, generator: torch.Generator) -> None:
        """Set the codes by k-means on the features of these pictures, and begin to snap to them."""
        features_NC = torch.cat(
            [self.features(part).flatten(0, 1) for part in pixels_M3HW.split(64)]
        )
        codes_KC = self.vq.quantize.embedding.weight
        codes_KC.copy_(
            kmeans(features_NC, len(codes_KC), rounds=KMEANS_ROUNDS, generator=generator)
        )

    @torch.no_grad()
    def revive(self, pixels_M3HW: Tensor, generator: torch.Generator) -> int:
        """Move codes that no feature has chosen for `revive_every` steps onto random features;
        returns how many.
        """
        dead_K = self.last_used_K >= self.recipe.revive_every
        dead = int(dead_K.sum())
        if dead:
            features_NC = self.features(pixels_M3HW).flatten(0, 1)
            picked = torch.randint(len(features_NC), (dead,), generator=generator)
            self.vq.quantize.embedding.weight[dead_K] = features_NC[picked]
            self.last_used_K[dead_K] = 0
        return dead

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Put the feature normalisation into quant_conv, so that `vq.features` gives what
        `features` gave.
        """
        mean_C, variance_C = self.norm.running_mean, self.norm.running_var
        assert mean_C is not None and variance_C is not None, "the norm counts running statistics"
        scale_C = (variance_C + self.norm.eps).rsqrt()
        conv = self.vq.quant_conv
        assert conv.bias is not None
        conv.bias.copy_((conv.bias - mean_C) * scale_C)
        conv.weight.mul_(scale_C[:, None, None, None])
        self.norm.reset_running_stats()


def weighted(terms: dict[str, Tensor], losses: AutoencoderLosses) -> Tensor:
    """Sum of reconstruction terms by the recipe's weights."""
    products = [getattr(losses, name) * value for name, value in terms.items()]
    return torch.stack(products).sum()


class DiscreteAutoencoderStage:
    """The first part of `pretrain`: pictures in, a VQ autoencoder out."""

    sixteen_bit = True

    def __init__(
        self, vq: OrthusVQ, recipe: AutoencoderRecipe, sprites_M4HW: Tensor, *, seed: int
    ) -> None:
        self.objective = DiscreteAutoencoder(vq, recipe)
        self.objective.train()
        self.recipe = recipe
        self.sprites_M4HW = sprites_M4HW
        self.seed = seed

    def trainable(self) -> list[nn.Parameter]:
        return list(self.objective.parameters())

    def generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def batch(self, step: int) -> Tensor:
        count = self.recipe.optim.batch_size
        return random_pictures(self.sprites_M4HW, count, self.generator(step))

    def begin_step(self, step: int) -> list[nn.Parameter]:
        first = self.recipe.continuous_steps
        self.objective.snapping = step >= first
        codes = [cast(nn.Parameter, self.objective.vq.quantize.embedding.weight)]
        generator = self.generator(-1 - step)
        if step == first:
            pictures = random_pictures(self.sprites_M4HW, KMEANS_PICTURES, generator)
            self.objective.start_codebook(pictures, generator)
            return codes
        if step > first and (step - first) % self.recipe.revive_every == 0:
            self.objective.revive(self.batch(step), generator)
        return []

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """Rows of true pictures, decoded features and decoded codes."""
        objective = self.objective
        pixels = random_pictures(self.sprites_M4HW, SAMPLES, torch.Generator().manual_seed(7))
        features_MPC = objective.features(pixels)
        snapped = quantise(features_MPC.flatten(0, 1), objective.vq.quantize.embedding.weight)
        by_code = objective.vq.pixels(snapped.features_NC.view(features_MPC.shape))
        return sheet([pixels, objective.vq.pixels(features_MPC), by_code])


class DecoderFigures(NamedTuple):
    """The weighted sum, and its terms; scalars."""

    total: Tensor
    l1: Tensor
    mse: Tensor
    gradient: Tensor
    chroma: Tensor


class DecoderObjective(nn.Module):
    """The decoder learns to draw from unsnapped features; the encoder stays as it is (2412.00127,
    section 3.1).
    """

    def __init__(self, vq: OrthusVQ, losses: AutoencoderLosses, feature_noise: float) -> None:
        super().__init__()
        self.vq = vq
        self.losses = losses
        self.feature_noise = feature_noise

    def forward(self, pixels_M3HW: Tensor) -> DecoderFigures:
        with torch.no_grad():
            features_MPC = self.vq.features(pixels_M3HW).float()
        noisy_MPC = features_MPC + self.feature_noise * torch.randn_like(features_MPC)
        terms = reconstruction(self.vq.pixels(noisy_MPC).float(), pixels_M3HW)
        return DecoderFigures(weighted(terms._asdict(), self.losses), *terms)


class DecoderStage:
    """`finetune-vae`: only post_quant_conv and the decoder move."""

    sixteen_bit = True

    def __init__(
        self,
        vq: OrthusVQ,
        sprites_M4HW: Tensor,
        *,
        losses: AutoencoderLosses,
        feature_noise: float,
        batch_size: int,
        seed: int,
    ) -> None:
        vq.requires_grad_(False)
        assert vq.decoder is not None, "the command checks that there is a decoder"
        vq.decoder.requires_grad_(True)
        vq.post_quant_conv.requires_grad_(True)
        self.objective = DecoderObjective(vq, losses, feature_noise)
        self.objective.train()
        self.sprites_M4HW = sprites_M4HW
        self.batch_size = batch_size
        self.seed = seed

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.objective.parameters() if p.requires_grad]

    def batch(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return random_pictures(self.sprites_M4HW, self.batch_size, generator)

    def begin_step(self, step: int) -> list[nn.Parameter]:
        return []

    @torch.no_grad()
    def samples(self) -> Image.Image:
        vq = self.objective.vq
        pixels = random_pictures(self.sprites_M4HW, SAMPLES, torch.Generator().manual_seed(7))
        return sheet([pixels, vq.pixels(vq.features(pixels.to(vq.device)))])
