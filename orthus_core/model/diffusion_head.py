"""The diffusion head: a small AdaLN network that denoises one image feature given one hidden state.

Each block normalises its input, shifts and scales it by values computed from time and condition,
applies two linear layers, and adds the result through a gate (2406.11838 and 2212.09748, without
attention). `denoising_head.py` computes the same faster for the many steps of a patch.

A flow map head is also given the angle at which a step ends, so that one step may go far (see
`DiffusionHead`).

Legend: N rows, C feature channels, D hidden, W head width, L blocks, K harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in the sinusoidal code of a timestep; the released weights fix it.
TIME_CODE_LENGTH = 256
# LayerNorm epsilon of the head.
HEAD_EPS = 1e-6
# Harmonics of an angle that a flow map head reads. Few and low: the loss differentiates by the end
# of a step, and the derivative of a harmonic grows with its number.
HARMONICS = 8


def time_code(t_N: Tensor) -> Tensor:
    """Sinusoidal code of timesteps, cosines first: fp32 [N, 256].

    Wavelengths are 2 pi to 20000 pi. Source: 1706.03762, section 3.5.
    """
    half = TIME_CODE_LENGTH // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t_N.device) / half
    angles = t_N.float().unsqueeze(-1) * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """Two linear layers on the sinusoids of a timestep: [N] -> [N, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_CODE_LENGTH, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t_N: Tensor) -> Tensor:
        return self.mlp(time_code(t_N).to(next(self.parameters()).dtype))


def angle_code(angles_N: Tensor) -> Tensor:
    """Cosines and sines of the first harmonics of angles: fp32 [N, 2 K]."""
    numbers_K = torch.arange(1, HARMONICS + 1, dtype=torch.float32, device=angles_N.device)
    angles_NK = angles_N.float().unsqueeze(-1) * numbers_K
    return torch.cat([angles_NK.cos(), angles_NK.sin()], dim=-1)


class EndEmbedding(nn.Module):
    """Two linear layers on the harmonics of the angle where a step ends, and of the way there:
    [N], [N] -> [N, W]. The last layer starts at zero, so that nothing depends on the end at first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(4 * HARMONICS, width), nn.SiLU(), zero_linear(width, width)
        )

    def forward(self, start_N: Tensor, end_N: Tensor) -> Tensor:
        code = torch.cat([angle_code(end_N), angle_code(start_N - end_N)], dim=-1)
        return self.mlp(code.to(next(self.parameters()).dtype))


class Block(nn.Module):
    """One AdaLN block: LayerNorm, modulation, linear, SiLU, linear, gated residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=HEAD_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 3 * width))

    def forward(self, x_NW: Tensor, shift_NW: Tensor, scale_NW: Tensor, gate_NW: Tensor) -> Tensor:
        return x_NW + gate_NW * self.mlp(modulate(self.in_ln(x_NW), shift_NW, scale_NW))


class FinalLayer(nn.Module):
    """The last layer: LayerNorm without weights, modulation, linear to the feature's channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = zero_linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 2 * width))

    def forward(self, x_NW: Tensor, shift_NW: Tensor, scale_NW: Tensor) -> Tensor:
        x_NW = F.layer_norm(x_NW, x_NW.shape[-1:], eps=HEAD_EPS)
        return self.linear(modulate(x_NW, shift_NW, scale_NW))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer of zeros, with a flag that keeps the model's own initialisation away."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.starts_at_zero = True  # type: ignore[assignment]
    return layer


class DiffusionHead(nn.Module):
    """Predicts the velocity (or the noise) of noisy features from timesteps and hidden states.

    Args:
        channels: C, channels of a feature.
        cond_dim: D, size of the hidden state that is the condition.
        width: W, width of the head's layers.
        depth: L, number of AdaLN blocks.
        angles: Angle of each timestep (`schedule.angles`), for a flow map head; empty for a plain
            one, which knows one time.

    A flow map head predicts F, the mean direction of the way from angle s to angle e:

        x_e = cos(e - s) x_s + sin(e - s) F(x_s, s, e)

    Where e = s this is the velocity, which a plain head predicts. Source: 2506.14603 and
    2406.07507 for flow maps; the angles are those of 2410.11081.

    Source: 2412.00127, section 3.2; structure as in MAR's head (2406.11838).
    """

    def __init__(
        self,
        channels: int,
        cond_dim: int,
        width: int,
        depth: int,
        *,
        angles: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.width = width
        self._angles = tuple(angles)
        if angles:
            self.end_embed = EndEmbedding(width)
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)

    @property
    def blocks(self) -> list[Block]:
        """The AdaLN blocks in order."""
        return [cast(Block, block) for block in self.res_blocks]

    @property
    def is_flow_map(self) -> bool:
        """Whether it knows where a step ends."""
        return bool(self._angles)

    def times(self, t_N: Tensor, end_N: Tensor | None = None) -> Tensor:
        """Embeddings of the times of a step: [N, W]. Arguments as for `forward`."""
        if not self._angles:
            assert end_N is None, "a plain head knows one time"
            return self.time_embed(t_N)
        start_N = self.angles_at(t_N)
        end_N = start_N if end_N is None else end_N
        return self.time_embed(t_N) + self.end_embed(start_N, end_N)

    def angles_at(self, t_N: Tensor) -> Tensor:
        """Angles of timesteps, between those of a flow map head's schedule where a solver asks for
        times between: fp32 [N].
        """
        angles_T = torch.tensor(self._angles, dtype=torch.float32, device=t_N.device)
        t_N = t_N.float().clamp(0, len(self._angles) - 1)
        below_N = t_N.floor().long()
        above_N = (below_N + 1).clamp(max=len(self._angles) - 1)
        return torch.lerp(angles_T[below_N], angles_T[above_N], t_N - below_N)

    def forward(
        self, x_NC: Tensor, t_N: Tensor, cond_ND: Tensor, end_N: Tensor | None = None
    ) -> Tensor:
        """The prediction; each row has its own time and condition: [N, C].

        Args:
            x_NC: Noisy features; the clean ones were multiplied by the config's latent_scale.
            t_N: Integer timesteps.
            cond_ND: Hidden states of the position before each patch.
            end_N: Angles where the steps end, of a flow map head alone, in radians; by default
                they end where they start, and the prediction is the velocity.
        """
        y_NW = self.times(t_N, end_N) + self.cond_embed(cond_ND)
        x_NW = self.input_proj(x_NC)
        for block in self.blocks:
            x_NW = block(x_NW, *block.adaLN_modulation(y_NW).chunk(3, dim=-1))
        return self.final_layer(x_NW, *self.final_layer.adaLN_modulation(y_NW).chunk(2, dim=-1))
