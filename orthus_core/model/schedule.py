"""The noise schedule: how much of a clean feature is left at each of T timesteps.

A noisy feature is x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, where a_t is the cumulative product of
1 - beta. The release uses "scaled_linear" betas, rescaled so that the last step has no x_0 left
(2305.08891, alg. 1).

Legend: N rows, C feature channels, T timesteps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Schedule(NamedTuple):
    """A noise schedule, and what the head predicts on it.

    Attributes:
        alphas_cumprod_T: a_t for t = 0..T-1, fp32.
        prediction: "v" or "epsilon".
    """

    alphas_cumprod_T: Tensor
    prediction: str

    @property
    def num_timesteps(self) -> int:
        return self.alphas_cumprod_T.shape[0]


def betas(beta_start: float, beta_end: float, steps: int, kind: str) -> Tensor:
    """Noise added at each step: fp32 [T].

    It is linear in beta, or for "scaled_linear" in sqrt(beta) (2112.10752).
    """
    if kind == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)


def rescale_to_zero_terminal_snr(betas_T: Tensor) -> Tensor:
    """Betas [T] of a schedule that ends without any signal (2305.08891, alg. 1).

    sqrt(a_t) is shifted and scaled: its last value becomes 0, its first stays the same.
    """
    signal_T = (1 - betas_T).cumprod(0).sqrt()
    first, last = signal_T[0].clone(), signal_T[-1].clone()
    signal_T = (signal_T - last) * (first / (first - last))
    alphas_cumprod_T = signal_T**2
    alphas_T = torch.cat([alphas_cumprod_T[:1], alphas_cumprod_T[1:] / alphas_cumprod_T[:-1]])
    return 1 - alphas_T


def make_schedule(
    *,
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: str = "scaled_linear",
    zero_terminal_snr: bool = True,
    prediction: str = "v",
) -> Schedule:
    """A noise schedule; by default the released one (see `OrthusConfig` for the arguments)."""
    betas_T = betas(beta_start, beta_end, num_train_timesteps, beta_schedule)
    if zero_terminal_snr:
        betas_T = rescale_to_zero_terminal_snr(betas_T)
    return Schedule((1 - betas_T).cumprod(0), prediction)


def signal_and_noise(schedule: Schedule, t_N: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a_t) and sqrt(1 - a_t) for each row, fp32 [N, 1]."""
    alphas_N1 = schedule.alphas_cumprod_T.to(t_N.device)[t_N].unsqueeze(-1)
    return alphas_N1.sqrt(), (1 - alphas_N1).sqrt()


def add_noise(schedule: Schedule, clean_NC: Tensor, noise_NC: Tensor, t_N: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps: [N, C]."""
    signal_N1, noise_N1 = signal_and_noise(schedule, t_N)
    return signal_N1 * clean_NC + noise_N1 * noise_NC


def velocity(schedule: Schedule, clean_NC: Tensor, noise_NC: Tensor, t_N: Tensor) -> Tensor:
    """v = sqrt(a_t) eps - sqrt(1 - a_t) x_0: [N, C] (2202.00512)."""
    signal_N1, noise_N1 = signal_and_noise(schedule, t_N)
    return signal_N1 * noise_NC - noise_N1 * clean_NC


def target(schedule: Schedule, clean_NC: Tensor, noise_NC: Tensor, t_N: Tensor) -> Tensor:
    """What the head is trained to predict, v or the noise: [N, C]."""
    if schedule.prediction == "v":
        return velocity(schedule, clean_NC, noise_NC, t_N)
    return noise_NC
