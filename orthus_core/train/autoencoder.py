"""Training the vision autoencoder: first as a discrete one (`pretrain`), later only its decoder
(`finetune-vae`).

Legend: M images, P patches an image, C feature channels, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.data.collate import noise_seed
from orthus_core.data.sources import PicturesReport
from orthus_core.errors import RecipeError
from orthus_core.evaluation.reconstruction import HELD_OUT_SEED
from orthus_core.losses.adversarial import PatchDiscriminator
from orthus_core.losses.picture_loss import PictureFigures, PictureLoss
from orthus_core.losses.picture_noise import Stream, drawn_seeds, normal
from orthus_core.losses.quantisation import kmeans, quantise
from orthus_core.model.config import OrthusVQConfig
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe.training import (
    AutoencoderLosses,
    AutoencoderRecipe,
    DiscriminatorRecipe,
    FinetuneVaeRecipe,
)
from orthus_core.train.batches import VALIDATION_SEED, share_of
from orthus_core.train.distributed import all_reduce_sum, current_rank, mean_over_processes
from orthus_core.train.features import linear_code_of
from orthus_core.train.linear_code import LinearCode
from orthus_core.train.linear_encoder import linear_encoder
from orthus_core.train.picture_source import PictureSource
from orthus_core.train.sample_grid import sample_grid

# Pictures whose features initialise the codebook, and rounds of k-means on them.
KMEANS_PICTURES = 1024
KMEANS_ROUNDS = 10
# Pictures whose patches a linear code is fitted to, and those of their patches that make its codes.
LINEAR_PICTURES = 2048
KMEANS_PATCHES = 65_536
# Momentum of the running mean and variance of features.
NORM_MOMENTUM = 0.01
SAMPLES = 16
# Side of the map before a discriminator's last two convolutions, each of which shrinks it by one.
SMALLEST_JUDGED = 3


def vision_config(recipe: AutoencoderRecipe) -> OrthusVQConfig:
    """The configuration of the recipe's autoencoder."""
    return OrthusVQConfig(
        resolution=recipe.resolution,
        base_channels=recipe.base_channels,
        channel_multiplier=list(recipe.channel_multiplier),
        num_res_blocks=recipe.num_res_blocks,
        norm_num_groups=recipe.norm_num_groups,
        embed_dim=recipe.embed_dim,
        latent_channels=recipe.latent_channels,
        num_embeddings=recipe.num_embeddings,
    )


def fresh_autoencoder(recipe: AutoencoderRecipe) -> OrthusVQ:
    """An untrained autoencoder of the recipe's shape, drawn from torch's global generator.

    Convolutions use torch's initialisation (transformers' normal(0.02) is too small here), and the
    last one of every residual block starts at zero, so that the network begins as a short chain of
    plain convolutions (1901.09321): otherwise the first thousand steps only undo the blocks' noise.
    """
    vq = OrthusVQ(vision_config(recipe))
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    for name, parameter in vq.named_parameters():
        if ".conv2." in name or ".proj_out." in name:
            nn.init.zeros_(parameter)
    vq.quantize.embedding.weight.by_row = True  # type: ignore[attr-defined]
    return vq


def noise_seeds(seed: int, numbers: Sequence[int]) -> Tensor:
    """Seed of each picture with one of these numbers in a training: int64 [M]."""
    return torch.tensor([noise_seed(seed, number) for number in numbers], dtype=torch.long)


def picture_loss(
    losses: AutoencoderLosses, discriminator: DiscriminatorRecipe, resolution: int
) -> PictureLoss:
    """The recipe's loss; an adversarial term adds a new discriminator.

    Raises:
        RecipeError: When the pictures are too small for the discriminator's levels.
    """
    if not losses.adversarial:
        return PictureLoss(losses)
    if resolution // 2**discriminator.levels < SMALLEST_JUDGED:
        raise RecipeError(
            f"pictures of {resolution} pixels are too small for {discriminator.levels} levels",
            where="discriminator.levels",
            hint="take fewer levels",
        )
    rival = PatchDiscriminator(discriminator.channels, discriminator.levels)
    loss = PictureLoss(losses, discriminator, rival)
    loss.mean = mean_over_processes
    return loss


def noisy(features_MPC: Tensor, deviation: float, level_M1: Tensor, noise_MX: Tensor) -> Tensor:
    """Features with noise, as those that a transformer draws have it: its decoder then learns to
    leave it out. Each picture has its own amount, so that those without noise stay exact
    (noise-augmented decoding, 2510.11690).

    Args:
        features_MPC: Features of M pictures.
        deviation: Standard deviation of the noise over all pictures, in feature units.
        level_M1: Normal numbers, whose sizes are the pictures' amounts of noise.
        noise_MX: Normal numbers, P C of each picture.

    Returns:
        The features plus this noise: [M, P, C].
    """
    return features_MPC + deviation * level_M1.abs()[..., None] * noise_MX.view_as(features_MPC)


def snapped_in(recipe: AutoencoderRecipe) -> int:
    """How many pictures of a batch, of all processes together, are decoded from codes."""
    return round(recipe.quantised_share * recipe.optim.batch_size)


def trained_weights(
    module: nn.Module, vq: OrthusVQ, recipe: AutoencoderRecipe
) -> list[nn.Parameter]:
    """The parameters of a module that a training of this autoencoder moves: not those of a linear
    encoder, nor its codes.
    """
    written = (vq.encoder, vq.quant_conv, vq.quantize) if recipe.encoder == "linear" else ()
    kept = {id(p) for part in written for p in part.parameters()}
    return [p for p in module.parameters() if id(p) not in kept]


class DiscreteAutoencoder(nn.Module):
    """The objective of a VQ autoencoder whose decoder also learns to decode unquantised features.

    Features are normalised to zero mean and unit variance per channel, without learned weights;
    `fold_norm` moves this into the autoencoder's own 1x1 convolutions, so that only parameters of
    Chameleon's layout remain.
    """

    last_used_K: Tensor  # steps since each code was last chosen

    def __init__(self, vq: OrthusVQ, recipe: AutoencoderRecipe) -> None:
        super().__init__()
        self.vq = vq
        self.recipe = recipe
        self.picture_loss = picture_loss(recipe.losses, recipe.discriminator, recipe.resolution)
        channels = vq.config.embed_dim
        self.norm = None  # a linear encoder's features have the variances that they should have
        if recipe.encoder != "linear":
            self.norm = nn.BatchNorm1d(channels, affine=False, momentum=NORM_MOMENTUM)
        self.register_buffer("last_used_K", torch.zeros(vq.config.num_embeddings, dtype=torch.long))
        self.linear: LinearCode | None = None  # what the encoder computes, in one product
        self.snapping = False

    def features(self, pixels_M3HW: Tensor) -> Tensor:
        """Features, normalised where the encoder is trained: fp32 [M, P, C]."""
        pixels_M3HW = pixels_M3HW.to(self.vq.device)
        if self.linear is not None:
            return self.linear.features(pixels_M3HW)
        assert self.norm is not None, "only a linear code needs no normalisation"
        features_MPC = self.vq.features(pixels_M3HW).float()
        return self.norm(features_MPC.flatten(0, 1)).view(features_MPC.shape)

    def forward(self, pixels_M3HW: Tensor, snapped: int | None = None) -> PictureFigures:
        """Losses of a batch of pictures; its noise comes from torch's global generator.

        Args:
            snapped: How many of the pictures, the first ones, are decoded from codes; the recipe's
                share of them by default.
        """
        recipe, losses = self.recipe, self.recipe.losses
        codes_KC = self.vq.quantize.embedding.weight
        features_MPC = self.features(pixels_M3HW)
        expected = snapped_in(recipe) * len(pixels_M3HW) / recipe.optim.batch_size
        if snapped is None:
            snapped = round(expected)
        if not self.snapping:
            snapped = 0
        noise_MX = torch.randn_like(features_MPC[snapped:]).flatten(1)
        level_M1 = torch.randn_like(noise_MX[:, :1])
        decoded_MPC = noisy(features_MPC[snapped:], recipe.feature_noise, level_M1, noise_MX)
        commitment = codebook = features_MPC.new_zeros(())
        used_K = torch.zeros_like(self.last_used_K)
        if snapped:
            quantised = quantise(features_MPC[:snapped].flatten(0, 1), codes_KC)
            snapped_MPC = quantised.features_NC.view(features_MPC[:snapped].shape)
            decoded_MPC = torch.cat([snapped_MPC, decoded_MPC])
            used_K[quantised.codes_N] = 1
            if self.norm is not None:  # a linear encoder and its codes do not learn
                # A process may have more of a batch's codes than another.
                weight = snapped / expected
                commitment, codebook = quantised.commitment * weight, quantised.codebook * weight
        if self.training and self.snapping and self.norm is not None:
            used_K = all_reduce_sum(used_K).to(used_K.device)
            self.last_used_K.add_(1).masked_fill_(used_K > 0, 0)
        figures = self.picture_loss(self.vq, self.vq.pixels(decoded_MPC), pixels_M3HW)
        total = figures.total + losses.commitment * commitment + losses.codebook * codebook
        return figures._replace(
            total=total,
            commitment=commitment,
            codebook=codebook,
            codes_used=int((used_K > 0).sum()),
        )

    @torch.no_grad()
    def start_codebook(self, pixels_M3HW: Tensor, generator: torch.Generator) -> None:
        """Set the codes by k-means on the features of these pictures, and start quantising."""
        features_NC = torch.cat(
            [self.features(part).flatten(0, 1) for part in pixels_M3HW.split(64)]
        )
        self.set_codes(features_NC, generator)

    @torch.no_grad()
    def set_codes(self, features_NC: Tensor, generator: torch.Generator) -> None:
        """Set the codes by k-means on these features."""
        codes_KC = self.vq.quantize.embedding.weight
        codes_KC.copy_(
            kmeans(features_NC, len(codes_KC), rounds=KMEANS_ROUNDS, generator=generator)
        )

    @torch.no_grad()
    def revive(self, pixels_M3HW: Tensor, generator: torch.Generator) -> int:
        """Replace codes that no feature has chosen for `revive_every` steps by random features;
        returns their number.
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
        """Fold the feature normalisation into quant_conv, so that `vq.features` gives the results
        of `features`.
        """
        if self.norm is None:
            return
        mean_C, variance_C = self.norm.running_mean, self.norm.running_var
        assert mean_C is not None and variance_C is not None, "the norm counts running statistics"
        scale_C = (variance_C + self.norm.eps).rsqrt()
        conv = self.vq.quant_conv
        assert conv.bias is not None
        conv.bias.copy_((conv.bias - mean_C) * scale_C)
        conv.weight.mul_(scale_C[:, None, None, None])
        self.norm.reset_running_stats()


class PicturesStage:
    """The shared part of both autoencoder trainings: each process's share of batches of pictures.

    Args:
        pictures: Pictures for training and validation.
        batch_size: Pictures per batch, of all processes together.
        seed: Seed of the choice of pictures.
        validate_rows: Number of held-out pictures for validation.
    """

    sixteen_bit = True

    def __init__(
        self, pictures: PictureSource, batch_size: int, seed: int, validate_rows: int
    ) -> None:
        self.pictures = pictures
        self.batch_size = batch_size
        self.seed = seed
        self.validate_rows = validate_rows
        self.place = current_rank()
        self.share = share_of(batch_size, self.place)
        self.report = PicturesReport(pictures.faults) if pictures.faults is not None else None

    @property
    def own(self) -> range:
        """Places in a batch of the pictures that are this process's."""
        return range(self.place.shard, self.batch_size, self.place.shards)

    def generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def parts(self, step: int, count: int) -> Sequence[tuple[Tensor, ...]]:
        numbers = range(step * count, (step + 1) * count)
        batches = [
            self.pictures.draw(self.batch_size, self.generator(n), self.own) for n in numbers
        ]
        return [(batch.contiguous(memory_format=torch.channels_last),) for batch in batches]

    def held_out(self) -> Sequence[tuple[Tensor, ...]]:
        pixels_M3HW = self.pictures.held_out_M3HW[: self.validate_rows]
        parts = [(part,) for part in pixels_M3HW.split(self.share) if len(part)]
        return parts[self.place.shard :: self.place.shards]

    def sample_pixels(self) -> Tensor:
        """Pictures for the sample sheet, held-out ones if there are any."""
        pixels_M3HW = self.pictures.held_out_M3HW[:SAMPLES]
        if len(pixels_M3HW):
            return pixels_M3HW
        return self.pictures.draw(SAMPLES, torch.Generator().manual_seed(HELD_OUT_SEED))


class DiscreteAutoencoderStage(PicturesStage):
    """The first part of `pretrain`: train a VQ autoencoder on pictures."""

    def __init__(
        self,
        vq: OrthusVQ,
        recipe: AutoencoderRecipe,
        pictures: PictureSource,
        *,
        seed: int,
        validate_rows: int = 64,
    ) -> None:
        super().__init__(pictures, recipe.optim.batch_size, seed, validate_rows)
        # Faster convolutions and group norms.
        vq.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        self.objective = DiscreteAutoencoder(vq, recipe)
        self.objective.train()
        self.recipe = recipe
        if recipe.encoder == "linear":
            self.start_linear(seed)

    @torch.no_grad()
    def start_linear(self, seed: int) -> None:
        """Write encoder and codes, neither of which is trained. States hold them and the linear
        code all the same, since another processor's rounding may turn some components.
        """
        vq, recipe, generator = self.objective.vq, self.recipe, torch.Generator().manual_seed(seed)
        fitted_M3HW = self.pictures.draw(LINEAR_PICTURES, generator)
        self.objective.linear = linear_encoder(vq, fitted_M3HW, recipe.whitening)
        features_NC = self.objective.features(fitted_M3HW).flatten(0, 1)
        some_N = torch.randperm(len(features_NC), generator=generator)[:KMEANS_PATCHES]
        self.objective.set_codes(features_NC[some_N], generator)

    def trainable(self) -> list[nn.Parameter]:
        return trained_weights(self.objective, self.objective.vq, self.recipe)

    def parts(self, step: int, count: int) -> Sequence[tuple[Any, ...]]:
        snapped = sum(place < snapped_in(self.recipe) for place in self.own)
        return [(pixels_M3HW, snapped) for (pixels_M3HW,) in super().parts(step, count)]

    def held_out(self) -> Sequence[tuple[Any, ...]]:
        firsts = range(0, self.validate_rows, self.share)[self.place.shard :: self.place.shards]
        return [
            (pixels, min(len(pixels), max(0, snapped_in(self.recipe) - first % self.batch_size)))
            for first, (pixels,) in zip(firsts, super().held_out(), strict=False)
        ]

    def begin_step(self, step: int) -> list[nn.Parameter]:
        objective, first = self.objective, self.recipe.continuous_steps
        objective.snapping = step >= first
        objective.picture_loss.begin_step(step)
        # Codes are the same on every device, so they are computed from the same pictures.
        generator = self.generator(-1 - step)
        if objective.linear is not None:
            return []
        if step == first:
            objective.start_codebook(self.pictures.draw(KMEANS_PICTURES, generator), generator)
            return [cast(nn.Parameter, objective.vq.quantize.embedding.weight)]
        if step > first and (step - first) % self.recipe.revive_every == 0:
            objective.revive(self.pictures.draw(self.batch_size, generator), generator)
        return []

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """Rows of original pictures, decoded features and decoded codes."""
        objective, pixels = self.objective, self.sample_pixels()
        features_MPC = objective.features(pixels)
        snapped = quantise(features_MPC.flatten(0, 1), objective.vq.quantize.embedding.weight)
        by_code = objective.vq.pixels(snapped.features_NC.view(features_MPC.shape))
        return sample_grid([pixels, objective.vq.pixels(features_MPC), by_code])


class DecoderObjective(nn.Module):
    """The decoder learns to decode unquantised features; the encoder is unchanged (2412.00127,
    section 3.1).
    """

    def __init__(self, vq: OrthusVQ, picture_loss: PictureLoss, feature_noise: float) -> None:
        super().__init__()
        self.vq = vq
        self.picture_loss = picture_loss
        self.feature_noise = feature_noise
        self.linear = linear_code_of(vq)  # what the encoder computes, in one product

    def forward(self, pixels_M3HW: Tensor, seeds_M: Tensor | None = None) -> PictureFigures:
        """Losses of a batch of pictures.

        Args:
            seeds_M: Seed of each picture, which its noise alone depends on; None draws seeds from
                torch's global generator.
        """
        if seeds_M is None:
            seeds_M = drawn_seeds(len(pixels_M3HW))
        with torch.no_grad():
            features_MPC = (self.linear or self.vq).features(pixels_M3HW).float()
        if self.feature_noise:
            numbers = features_MPC.shape[1:].numel()
            drawn_MX = normal(seeds_M.to(features_MPC.device), Stream.DECODED, 1 + numbers)
            level_M1, noise_MX = drawn_MX[:, :1], drawn_MX[:, 1:]
            features_MPC = noisy(features_MPC, self.feature_noise, level_M1, noise_MX)
        return self.picture_loss(self.vq, self.vq.pixels(features_MPC), pixels_M3HW, seeds_M)


class DecoderStage(PicturesStage):
    """`finetune-vae`: trains only post_quant_conv, the decoder and the discriminator."""

    def __init__(self, vq: OrthusVQ, recipe: FinetuneVaeRecipe, pictures: PictureSource) -> None:
        super().__init__(pictures, recipe.optim.batch_size, recipe.seed, recipe.log.validate_rows)
        vq.requires_grad_(False)
        # Faster convolutions and group norms.
        vq.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        assert vq.decoder is not None, "the command checks that there is a decoder"
        vq.decoder.requires_grad_(True)
        vq.post_quant_conv.requires_grad_(True)
        loss = picture_loss(recipe.losses, recipe.discriminator, vq.config.resolution)
        self.objective = DecoderObjective(vq, loss, recipe.feature_noise)
        self.objective.train()

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.objective.parameters() if p.requires_grad]

    def parts(self, step: int, count: int) -> Sequence[tuple[Tensor, ...]]:
        firsts = range(step * count * self.batch_size, (step + 1) * count * self.batch_size)
        batches = super().parts(step, count)
        return [
            (*batch, noise_seeds(self.seed, [first + place for place in self.own]))
            for first, batch in zip(firsts[:: self.batch_size], batches, strict=True)
        ]

    def held_out(self) -> Sequence[tuple[Tensor, ...]]:
        firsts = range(0, self.validate_rows, self.share)[self.place.shard :: self.place.shards]
        return [
            (pixels, noise_seeds(VALIDATION_SEED, range(first, first + len(pixels))))
            for first, (pixels,) in zip(firsts, super().held_out(), strict=False)
        ]

    def begin_step(self, step: int) -> list[nn.Parameter]:
        self.objective.picture_loss.begin_step(step)
        return []

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """Rows of original pictures and decoded features."""
        vq, pixels = self.objective.vq, self.sample_pixels()
        return sample_grid([pixels, vq.pixels(vq.features(pixels.to(vq.device)))])
