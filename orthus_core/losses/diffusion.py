"""L_diff: the squared error of the head's prediction on noised features (2412.00127, eq. 3).

Legend: N patches, R noise draws a patch, C feature channels, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.schedule import Schedule, add_noise, target


class Draws(NamedTuple):
    """Noise and timesteps of R draws for each of N patches, [R N, C] and [R N]; the draw is the
    slowest axis.
    """

    noise: Tensor
    timesteps: Tensor


def draw(
    clean_NC: Tensor, repeats: int, num_timesteps: int, generator: torch.Generator | None = None
) -> Draws:
    """Normal noise in fp32 and timesteps uniform over 0..num_timesteps - 1."""
    rows, device = repeats * len(clean_NC), clean_NC.device
    noise = torch.randn(rows, clean_NC.shape[-1], generator=generator, device=device)
    timesteps = torch.randint(num_timesteps, (rows,), generator=generator, device=device)
    return Draws(noise, timesteps)


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
