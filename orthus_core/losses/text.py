"""L_ar: cross-entropy of the next token, where a token is to be predicted (2412.00127, eq. 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Stands in targets where nothing is to be predicted.
IGNORE = -100


def text_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Mean over the rows in fp32; 0 (with a gradient of 0) when there is no row."""
    if not len(targets_N):
        return logits_NV.sum() * 0
    return F.cross_entropy(logits_NV.float(), targets_N)
