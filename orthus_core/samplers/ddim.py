"""DDIM as two numbers a step: x becomes keep * x + push * prediction, from noise to a clean
feature.

Deterministic (eta 0), unclipped, timesteps "trailing" (999, 989 ... 9), the last step to a_t = 1,
as the release samples. Legend: T steps of a plan.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.schedule import Schedule


class DDIMPlan(NamedTuple):
    """A denoising run: the timestep the head is told at each step, and how the sample moves on.

    timesteps_T: int64, falling.
    keep, push: x_next = keep * x + push * prediction.
    """

    timesteps_T: Tensor
    keep: tuple[float, ...]
    push: tuple[float, ...]


def trailing_timesteps(num_timesteps: int, steps: int) -> Tensor:
    """`steps` timesteps evenly spaced, ending the schedule's last: int64 (2305.08891, table 2)."""
    spaced = torch.arange(steps, dtype=torch.float64) * (num_timesteps / steps)
    return (num_timesteps - spaced).round().long() - 1


def ddim_plan(schedule: Schedule, steps: int) -> DDIMPlan:
    """`steps` trailing steps of deterministic DDIM.

    Raises:
        PromptError: When `steps` is below 1 or more than the schedule has.
        CheckpointError: For epsilon on a schedule without signal at its end: the noise alone is no
            clue to x0.
    """
    if not 1 <= steps <= schedule.num_timesteps:
        raise PromptError(
            f"{steps} sampling steps",
            where="steps",
            hint=f"give a number from 1 to {schedule.num_timesteps}",
        )
    if schedule.prediction == "epsilon" and schedule.alphas_cumprod_T[-1] == 0:
        raise CheckpointError(
            "a head that predicts noise cannot start from a step without any signal",
            where='config.json: prediction = "epsilon" with zero_terminal_snr = true',
            hint='train with prediction = "v", or with zero_terminal_snr = false',
        )
    return ddim_over(schedule, trailing_timesteps(schedule.num_timesteps, steps))


def ddim_over(schedule: Schedule, timesteps_T: Tensor) -> DDIMPlan:
    """The coefficients of deterministic DDIM (2010.02502, eq. 12 with eta 0) over these timesteps.

    With a the signal left at this step, b at the next, and n(a) = sqrt(1 - a), the clean feature
    and the noise that the prediction implies are put together again at b:
        v:        x0 = sqrt(a) x - n(a) v,          eps = n(a) x + sqrt(a) v
        epsilon:  x0 = (x - n(a) eps) / sqrt(a)
        next      = sqrt(b) x0 + n(b) eps
    """
    # In float64: the coefficients are differences of nearly equal numbers.
    now_T = schedule.alphas_cumprod_T.to("cpu", torch.float64)[timesteps_T]
    next_T = torch.cat([now_T[1:], now_T.new_ones(1)])
    signal_T, noise_T = now_T.sqrt(), (1 - now_T).sqrt()
    next_signal_T, next_noise_T = next_T.sqrt(), (1 - next_T).sqrt()
    if schedule.prediction == "v":
        keep_T = next_signal_T * signal_T + next_noise_T * noise_T
        push_T = next_noise_T * signal_T - next_signal_T * noise_T
    else:
        keep_T = next_signal_T / signal_T
        push_T = next_noise_T - keep_T * noise_T
    return DDIMPlan(timesteps_T, tuple(keep_T.tolist()), tuple(push_T.tolist()))
