"""A diffusion head that also knows where a step ends, so that one step may go far.

With angles phi, cos(phi) = sqrt(a), the sample turns from angle s to angle e by F, which is the
mean direction on the way:

    x_e = cos(e - s) x_s + sin(e - s) F(x_s, s, e)

Where e = s this is the velocity, which a plain head predicts. `orthus distill head` makes such a
head. Source: 2406.07507 for flow maps; the angles are those of 2410.11081.

Legend: N rows, C feature channels, D hidden, W head width, K harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orthus_core.model.diffusion_head import DiffusionHead, TimeEmbedding, zero_linear
from orthus_core.model.schedule import Schedule

# Harmonics of an angle that the head reads. Few and low: the loss differentiates by the end of a
# step, and the derivative of a harmonic grows with its number.
HARMONICS = 8


def angles(schedule: Schedule) -> list[float]:
    """phi_t of each timestep, where cos(phi_t) = sqrt(a_t): radians, rising to pi / 2 where no
    signal is left. A clean feature has the angle 0.
    """
    alphas_T = schedule.alphas_cumprod_T.to("cpu", torch.float64).clamp(0, 1)
    return [math.acos(signal) for signal in alphas_T.sqrt().tolist()]


def angle_code(angles_N: Tensor) -> Tensor:
    """Cosines and sines of the first harmonics of angles: fp32 [N, 2 K]."""
    numbers_K = torch.arange(1, HARMONICS + 1, dtype=torch.float32, device=angles_N.device)
    angles_NK = angles_N.float().unsqueeze(-1) * numbers_K
    return torch.cat([angles_NK.cos(), angles_NK.sin()], dim=-1)


class StepEmbedding(TimeEmbedding):
    """The embedding of a step: of the timestep where it starts and of the angle where it ends.

    To the embedding of the timestep are added two linear layers on the harmonics of the end and of
    the way there. The last one starts at zero, so that nothing depends on the end at first.

    Args:
        width: W.
        of_timesteps: Angle of each timestep (`angles`).
    """

    def __init__(self, width: int, of_timesteps: Sequence[float]) -> None:
        super().__init__(width)
        self._angles = tuple(of_timesteps)
        self.end_mlp = nn.Sequential(
            nn.Linear(4 * HARMONICS, width), nn.SiLU(), zero_linear(width, width)
        )

    def forward(self, t_N: Tensor, end_N: Tensor | None = None) -> Tensor:
        """The embedding: [N, W].

        Args:
            t_N: Timesteps where steps start.
            end_N: Angles where they end, in radians; by default where they start, so that the
                head predicts the velocity.
        """
        start_N = self.angles_at(t_N)
        end_N = start_N if end_N is None else end_N
        code = torch.cat([angle_code(end_N), angle_code(start_N - end_N)], dim=-1)
        return super().forward(t_N) + self.end_mlp(code.to(self.end_mlp[0].weight.dtype))

    def angles_at(self, t_N: Tensor) -> Tensor:
        """Angles of timesteps, between those of the schedule where a solver asks for times between:
        fp32 [N].
        """
        last = len(self._angles) - 1
        angles_T = torch.tensor(self._angles, dtype=torch.float32, device=t_N.device)
        t_N = t_N.float().clamp(0, last)
        below_N = t_N.floor().long()
        return torch.lerp(angles_T[below_N], angles_T[(below_N + 1).clamp(max=last)], t_N - below_N)


class FlowMapHead(DiffusionHead):
    """Predicts the mean direction of a step from a timestep to an angle.

    Args:
        channels, cond_dim, width, depth: As for `DiffusionHead`.
        of_timesteps: Angle of each timestep (`angles`).
    """

    def __init__(
        self, channels: int, cond_dim: int, width: int, depth: int, of_timesteps: Sequence[float]
    ) -> None:
        super().__init__(channels, cond_dim, width, depth)
        self.time_embed = StepEmbedding(width, of_timesteps)

    def angles_at(self, t_N: Tensor) -> Tensor:
        """Angles of timesteps: fp32 [N]."""
        return self.time_embed.angles_at(t_N)
