"""The regression head: it predicts the next image feature itself from one hidden state, without
noise or time. It is what the diffusion head is compared with: one prediction for each patch, the
mean of all that may follow, so drawing with it has no randomness.

Legend: N rows, C feature channels, D hidden, W head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from orthus_core.model.diffusion_head import HEAD_EPS, zero_linear


class ResidualBlock(nn.Module):
    """A block of the diffusion head without its modulation: LayerNorm, linear, SiLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=HEAD_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x_NW: Tensor) -> Tensor:
        return x_NW + self.mlp(self.in_ln(x_NW))


class RegressionHead(nn.Module):
    """Predicts image features from hidden states; trained by the mean squared error.

    Args:
        channels: C, channels of a feature.
        cond_dim: D, size of the hidden state.
        width: W, width of the residual blocks.
        depth: Number of residual blocks; 0 is one linear layer from hidden state to feature.
    """

    def __init__(self, channels: int, cond_dim: int, width: int, depth: int) -> None:
        super().__init__()
        if depth:
            blocks = [ResidualBlock(width) for _ in range(depth)]
            norm = nn.LayerNorm(width, eps=HEAD_EPS)
            self.layers = nn.Sequential(
                nn.Linear(cond_dim, width), *blocks, norm, zero_linear(width, channels)
            )
        else:
            self.layers = nn.Sequential(zero_linear(cond_dim, channels))

    def forward(self, cond_ND: Tensor) -> Tensor:
        """The predicted features times the config's latent_scale: [N, C].

        Args:
            cond_ND: Hidden states of the position before each patch.
        """
        return self.layers(cond_ND)
