"""Discrete Chameleon: what an Orthus is made from, and the paper's baseline (2405.09818).

    hidden --+--> text_logits   (LM head, where text is predicted)
             +--> image_logits  (its rows of the code tokens, where a patch is predicted)

Its features are those of its codebook: what is read is snapped to the nearest code, and what is
drawn is a code's own feature. So pictures pass through the same doors as an Orthus's, and only the
step from a hidden state to the next feature differs. `pixels_of_codes` of the autoencoder is then
`decode_images` of the codes' features.

Legend: N rows, D hidden, C feature channels, K codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.model.config import DiscreteConfig
from orthus_core.model.interleaved import InterleavedBackbone, InterleavedModel
from orthus_core.model.soft_embedding import argmin_embed


class DiscreteChameleon(InterleavedModel):
    """Chameleon or Anole as a folder in Hugging Face's layout holds it."""

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
        """The input embedding of each feature's nearest code, a row of the table: [N, D]."""
        return argmin_embed(features_NC, self.codebook_KC, self.code_table_KD)

    def image_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of the next patch's code, column j for code j, and of nothing else: [N, K]."""
        return F.linear(hidden_ND, self.code_rows(self.lm_head.weight))
