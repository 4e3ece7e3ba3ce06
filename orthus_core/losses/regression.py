"""The loss of a regression head: the squared error of the predicted feature.

Legend: N patches, C feature channels, D hidden.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.regression_head import RegressionHead


def regression_loss(head: RegressionHead, clean_NC: Tensor, cond_ND: Tensor) -> Tensor:
    """Mean squared error over all channels; without patches, 0 that depends on every weight of the
    head.

    Args:
        clean_NC: True features, already multiplied by the config's latent_scale.
        cond_ND: Hidden state one position before each patch.
    """
    if not len(clean_NC):
        return sum((p.sum() * 0 for p in head.parameters()), start=cond_ND.sum() * 0)
    return F.mse_loss(with_padded_rows(head, cond_ND).float(), clean_NC.float())
