"""L_diff: the squared error of the head's prediction on noised features (2412.00127, eq. 3).

Legend: N patches, R noise draws a patch, C feature channels, D hidden.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    clean_NC: Tensor,
    repeats: int,
    schedule: Schedule,
    generator: torch.Generator | None = None,
    *,
    timesteps: TimestepKind = "uniform",
) -> Draws:
    """Normal noise in fp32, and timesteps.

    Args:
        timesteps: "uniform" over the schedule's timesteps; "uniform-angle": phi, where
            sqrt(a_t) = cos(phi), uniform over 0..pi/2; "logit-normal": phi = pi/2 sigmoid(n) for a
            normal n, so mostly middle angles (2403.03206, 3.1).
    """
    rows, device = repeats * len(clean_NC), clean_NC.device
    noise = torch.randn(rows, clean_NC.shape[-1], generator=generator, device=device)
    if timesteps == "uniform":
        chosen = torch.randint(schedule.num_timesteps, (rows,), generator=generator, device=device)
        return Draws(noise, chosen)
    if timesteps == "uniform-angle":
        share_R = torch.rand(rows, generator=generator, device=device)
    else:
        share_R = torch.randn(rows, generator=generator, device=device).sigmoid()
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
