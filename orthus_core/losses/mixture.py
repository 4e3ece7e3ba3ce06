"""How far soft embeddings are from lookups: figures that a training writes of its held-out rows.

Legend: N features, C feature channels, K codes, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.model.soft_embedding import code_logits


class MixtureFigures(NamedTuple):
    """How far soft embeddings are from lookups, as means over features; scalars.

    Attributes:
        mixture_entropy: Entropy of the softmax over codes, in nats: 0 where one code has all the
            weight, ln K where all codes have the same.
        argmin_distance: Distance of the embedding to the nearest code's row of the table, as a
            share of that row's length.
    """

    mixture_entropy: Tensor
    argmin_distance: Tensor


def mixture_figures(
    z_NC: Tensor, codes_KC: Tensor, table_KD: Tensor, *, temperature: float
) -> MixtureFigures:
    """The figures for features; arguments as for `soft_embed`, without rows of no features."""
    logits_NK = code_logits(z_NC, codes_KC)
    nearest_ND = table_KD[logits_NK.argmax(-1).to(table_KD.device)].float()
    if temperature == 0:
        zero = logits_NK.new_zeros(())
        return MixtureFigures(zero, zero)
    logs_NK = torch.log_softmax(logits_NK / temperature, dim=-1)
    weights_NK = logs_NK.exp()
    entropy_N = -(weights_NK * logs_NK).sum(-1)
    soft_ND = weights_NK.to(table_KD.device) @ table_KD.float()
    apart_N = (soft_ND - nearest_ND).norm(dim=-1)
    return MixtureFigures(entropy_N.mean(), (apart_N / nearest_ND.norm(dim=-1)).mean())
