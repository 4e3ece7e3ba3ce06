"""The diffusion head: a small AdaLN network that denoises one image feature given one hidden state.

Each block normalises its input, shifts and scales it by values computed from time and condition,
applies two linear layers, and adds the result through a gate (2406.11838 and 2212.09748, without
attention). `denoising_head.py` computes the same faster for the many steps of a patch.

Legend: N rows, C feature channels, D hidden, W head width, L blocks.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in the sinusoidal code of a timestep; the released weights fix it.
TIME_CODE_LENGTH = 256
# LayerNorm epsilon of the head.
HEAD_EPS = 1e-6


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

    Source: 2412.00127, section 3.2; structure as in MAR's head (2406.11838).
    """

    def __init__(self, channels: int, cond_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.width = width
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)

    @property
    def blocks(self) -> list[Block]:
        """The AdaLN blocks in order."""
        return [cast(Block, block) for block in self.res_blocks]

    def forward(self, x_NC: Tensor, t_N: Tensor, cond_ND: Tensor, *end_N: Tensor) -> Tensor:
        """The prediction; each row has its own time and condition: [N, C].

        Args:
            x_NC: Noisy features; the clean ones were multiplied by the config's latent_scale.
            t_N, end_N: Integer timesteps; where steps end, of a head of flow_map_head.py alone.
            cond_ND: Hidden states of the position before each patch.
        """
        y_NW = self.time_embed(t_N, *end_N) + self.cond_embed(cond_ND)
        x_NW = self.input_proj(x_NC)
        for block in self.blocks:
            x_NW = block(x_NW, *block.adaLN_modulation(y_NW).chunk(3, dim=-1))
        return self.final_layer(x_NW, *self.final_layer.adaLN_modulation(y_NW).chunk(2, dim=-1))
