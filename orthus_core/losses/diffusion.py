"""L_diff: the squared error of the head's prediction on noised features (2412.00127, eq. 3).

Legend: M pictures, N patches, R noise draws a patch, C feature channels, D hidden.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.losses.picture_noise import Stream, normal, uniform
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.schedule import Schedule, add_noise, target
from orthus_core.recipe.training import TimestepKind


class Draws(NamedTuple):
    """Noise and timesteps of R draws for each of N patches, [R N, C] and [R N]; the draw is the
    slowest axis.
    """

    noise: Tensor
    timesteps: Tensor


def draw(
    seeds_M: Tensor,
    patches: int,
    channels: int,
    repeats: int,
    schedule: Schedule,
    *,
    timesteps: TimestepKind = "uniform",
    chosen_N: Tensor | None = None,
) -> Draws:
    """Normal noise in fp32, and timesteps, for the patches of pictures one after the other.

    Args:
        seeds_M: Seed of each picture; its draws depend on it alone.
        patches: Patches P of a picture.
        channels: Feature channels C.
        repeats: Draws R of each patch.
        timesteps: "uniform" over the schedule's timesteps; "uniform-angle": phi, where
            sqrt(a_t) = cos(phi), uniform over 0..pi/2; "logit-normal": phi = pi/2 sigmoid(n) for a
            normal n, so mostly middle angles (2403.03206, 3.1).
        chosen_N: Places of the patches to draw for, 0 .. M P - 1; None for all.
    """

    def by_draw(numbers_MX: Tensor, *shape: int) -> Tensor:
        numbers_RM = numbers_MX.view(len(seeds_M), repeats, patches, *shape).transpose(0, 1)
        numbers_RN = numbers_RM.reshape(repeats, len(seeds_M) * patches, *shape)
        return (numbers_RN if chosen_N is None else numbers_RN[:, chosen_N]).flatten(0, 1)

    count = repeats * patches
    noise = by_draw(normal(seeds_M, Stream.DIFFUSION, count * channels), channels)
    if timesteps == "logit-normal":
        share_R = by_draw(normal(seeds_M, Stream.TIMESTEPS, count)).sigmoid()
    else:
        share_R = by_draw(uniform(seeds_M, Stream.TIMESTEPS, count))
    if timesteps == "uniform":
        return Draws(noise, (share_R * schedule.num_timesteps).long())
    return Draws(noise, timesteps_at(schedule, share_R * (math.pi / 2)))


def timesteps_at(schedule: Schedule, angles_R: Tensor) -> Tensor:
    """The timesteps whose angles are nearest: int64 [R]."""
    angles_T = schedule.alphas_cumprod_T.to(angles_R.device).clamp(0, 1).sqrt().acos()
    return torch.bucketize(angles_R, (angles_T[1:] + angles_T[:-1]) / 2)


def diffusion_loss(
    head: DiffusionHead, schedule: Schedule, clean_NC: Tensor, cond_ND: Tensor, draws: Draws
) -> Tensor:
    """Mean squared error over all draws; without patches, 0 that depends on every weight of the
    head.

    Args:
        clean_NC: True features, already multiplied by the config's latent_scale.
        cond_ND: Hidden state one position before each patch.
        draws: Noise and timesteps of the patches.
    """
    if not len(clean_NC):
        # Data-parallel training expects a gradient of every parameter, even for a batch without
        # pictures.
        return sum((p.sum() * 0 for p in head.parameters()), start=cond_ND.sum() * 0)
    repeats = len(draws.timesteps) // len(clean_NC)
    clean, cond = clean_NC.float().repeat(repeats, 1), cond_ND.repeat(repeats, 1)
    noisy = add_noise(schedule, clean, draws.noise, draws.timesteps)
    wanted = target(schedule, clean, draws.noise, draws.timesteps)
    predicted = with_padded_rows(head, noisy.to(cond.dtype), draws.timesteps, cond)
    return F.mse_loss(predicted.float(), wanted)
