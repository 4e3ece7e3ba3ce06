"""The discrete Chameleon: an Orthus is made from it, and the paper compares with it (2405.09818).

    hidden --+--> text_logits   (LM head, where text is predicted)
             +--> image_logits  (its rows of the code tokens, where a patch is predicted)

Its features are the rows of its codebook: a feature that is read is replaced by the nearest code,
and a feature that is drawn is the row of the chosen code. So images take the same path as in an
Orthus, and only the step from a hidden state to the next feature differs. `decode_images` of the
codes' features then equals the autoencoder's `pixels_of_codes`.

Legend: N rows, D hidden, C feature channels, K codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.model.config import DiscreteConfig
from orthus_core.model.interleaved import InterleavedBackbone, InterleavedModel
from orthus_core.model.soft_embedding import argmin_embed


class DiscreteChameleon(InterleavedModel):
    """Chameleon or Anole, with the parameter names of Hugging Face's folders."""

    config: DiscreteConfig
    config_class = DiscreteConfig

    def __init__(self, config: DiscreteConfig) -> None:
        super().__init__(config)
        self.model = InterleavedBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def codebook_KC(self) -> Tensor:
        """The feature of each code: [K, C]."""
        return self.model.vqmodel.quantize.embedding.weight

    def embed_features(self, features_NC: Tensor) -> Tensor:
        """The table's row for the code nearest to each feature: [N, D]."""
        return argmin_embed(features_NC, self.codebook_KC, self.code_table_KD)

    def image_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of the next patch's code, column j for code j; text has no columns: [N, K]."""
        return F.linear(hidden_ND, self.code_rows(self.lm_head.weight))
