"""Vector quantisation as a loss: features are quantised to codes, which follow them (1711.00937,
eq. 3).

Legend: N rows, C feature channels, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.model.soft_embedding import nearest_code


class Quantised(NamedTuple):
    """Quantised features with straight-through gradients, their codes, and the two losses."""

    features_NC: Tensor
    codes_N: Tensor
    commitment: Tensor
    codebook: Tensor


def quantise(z_NC: Tensor, codes_KC: Tensor) -> Quantised:
    """Replace each feature by its nearest code, passing gradients straight through."""
    index_N = nearest_code(z_NC.detach(), codes_KC.detach())
    snapped_NC = F.embedding(index_N, codes_KC)
    return Quantised(
        features_NC=z_NC + (snapped_NC - z_NC).detach(),
        codes_N=index_N,
        commitment=F.mse_loss(z_NC, snapped_NC.detach()),
        codebook=F.mse_loss(snapped_NC, z_NC.detach()),
    )


def kmeans(z_NC: Tensor, clusters: int, *, rounds: int, generator: torch.Generator) -> Tensor:
    """Initial codes [K, C] of a codebook: Lloyd's algorithm from random rows; empty clusters
    restart at random rows.

    Args:
        z_NC: Features to cluster; repeated when there are fewer than `clusters`.
    """
    order_N = torch.randperm(z_NC.shape[0], generator=generator)
    if len(order_N) < clusters:
        order_N = order_N.repeat(-(-clusters // len(order_N)))
    codes_KC = z_NC[order_N[:clusters]].clone()
    for _ in range(rounds):
        index_N = nearest_code(z_NC, codes_KC)
        count_K = torch.bincount(index_N, minlength=clusters)
        sums_KC = torch.zeros_like(codes_KC).index_add_(0, index_N, z_NC)
        used_K = count_K > 0
        codes_KC[used_K] = sums_KC[used_K] / count_K[used_K, None]
        empty = int((~used_K).sum())
        if empty:
            codes_KC[~used_K] = z_NC[torch.randint(z_NC.shape[0], (empty,), generator=generator)]
    return codes_KC
