"""One causal transformer over text tokens and pictures: what an Orthus and a discrete Chameleon
share.

    ids, features --embed--> backbone --> hidden --> text_logits  (LM head, where text is predicted)

A picture is P features of C channels in reading order. How a feature is embedded and how the next
one is found is each kind's own: `orthus.py`, `chameleon.py`. Parameter names are Chameleon's.

Legend: B batch, S sequence, D hidden, V vocabulary, C feature channels, P patches an image, M
    images, N rows.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import Cache, ChameleonModel
from transformers import initialization as init
from transformers.models.chameleon.modeling_chameleon import ChameleonPreTrainedModel

from orthus_core.errors import PromptError
from orthus_core.model.config import InterleavedConfig
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.vision import OrthusVQ


class OrthusOutput(NamedTuple):
    """Hidden states after the last norm, which every head reads, and the cache that made them."""

    hidden_BSD: Tensor
    past_key_values: Cache | None


class InterleavedPreTrainedModel(ChameleonPreTrainedModel):
    """What transformers has to know about the family: its config and how fresh weights begin."""

    config: InterleavedConfig
    config_class = InterleavedConfig
    supports_gradient_checkpointing = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
            return
        super()._init_weights(module)


class InterleavedBackbone(InterleavedPreTrainedModel, ChameleonModel):
    """Chameleon's backbone with the autoencoder that can decode."""

    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__(config)
        self.vqmodel = OrthusVQ._from_config(config.vq_config)


class InterleavedModel(InterleavedPreTrainedModel):
    """Backbone, LM head and autoencoder. A kind of model adds `embed_features` and a way to draw.

    `forward` gives hidden states only; call the head that the position needs.
    """

    model: InterleavedBackbone
    lm_head: nn.Linear

    def __init__(self, config: InterleavedConfig) -> None:
        ids = config.code_token_ids
        super().__init__(config)
        self.code_token_ids = ids
        in_order = ids == list(range(ids[0], ids[0] + len(ids)))
        # Where they lie in order a slice is a view: no copy of 8192 rows for one patch.
        self._code_index = slice(ids[0], ids[-1] + 1) if in_order else ids
        self._never_text_of: dict[torch.device, Tensor] = {}

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def embed_features(self, features_NC: Tensor) -> Tensor:
        """Image features as input embeddings: [N, D]."""
        raise NotImplementedError

    def code_rows(self, table_VX: Tensor) -> Tensor:
        """The codes' rows of a table over the vocabulary, row j for code j: [K, X]."""
        return table_VX[self._code_index]

    @property
    def code_table_KD(self) -> Tensor:
        """Input embeddings of the code tokens, row j for code j: [K, D]."""
        return self.code_rows(self.model.embed_tokens.weight)

    def embed(self, ids_BS: Tensor, features: Tensor | None = None) -> Tensor:
        """Token embeddings with the `<image>` slots filled by features, in reading order: [B, S,
        D].

        Args:
            ids_BS: Token ids; `config.image_token_id` stands in each patch's slot.
            features: [M, P, C] or [N, C], as many rows as there are slots.

        Raises: PromptError when the numbers of slots and of features differ.
        """
        embeds_BSD = self.model.embed_tokens(ids_BS)
        slots_BS = ids_BS == self.config.image_token_id
        slots, rows = int(slots_BS.sum()), 0 if features is None else features[..., 0].numel()
        if slots != rows:
            raise PromptError(
                f"the prompt has {slots} image slots but {rows} image features were given",
                where="embed(ids, features)",
                hint=f"give one feature for each <image> token, {self.config.patches} an image",
            )
        if features is None or not slots:
            return embeds_BSD
        rows_NC = features.reshape(-1, features.shape[-1])
        filled_ND = with_padded_rows(self.embed_features, rows_NC)
        return embeds_BSD.masked_scatter(slots_BS.unsqueeze(-1), filled_ND.to(embeds_BSD.dtype))

    def forward(
        self,
        ids_BS: Tensor | None = None,
        features: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> OrthusOutput:
        """Hidden states of a sequence, or of its next part when a cache is given.

        Args:
            ids_BS, features: As for `embed`; or `inputs_embeds` [B, S, D] instead of both.
            attention_mask: [B, past + S], 0 where a row is padded; or a 4D mask as transformers
                takes it.
            position_ids: [B, S]; by default counted over the mask, so left padding is right.
            past_key_values: A dynamic or static cache, filled in place.
            use_cache: Make a dynamic cache when none is given.

        Returns: hidden [B, S, D] after the last norm, and the cache.
        """
        if inputs_embeds is None:
            assert ids_BS is not None, "give ids_BS or inputs_embeds"
            inputs_embeds = self.embed(ids_BS, features)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        output = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return OrthusOutput(output.last_hidden_state, output.past_key_values)

    def text_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of the next text token, image codes and image slots at -inf: [N, V]."""
        logits_NV = self.lm_head(hidden_ND)
        return logits_NV.index_fill(-1, self._never_text(logits_NV.device), float("-inf"))

    def _never_text(self, device: torch.device) -> Tensor:
        """Ids that stand for pictures and are never written as text, kept once a device."""
        if device not in self._never_text_of:
            ids = [*self.code_token_ids, cast(int, self.config.image_token_id)]
            self._never_text_of[device] = torch.tensor(ids, device=device)
        return self._never_text_of[device]

    def encode_images(self, pixels_M3HW: Tensor) -> Tensor:
        """Pixels (as the processor makes them) to features: [M, P, C]."""
        return self.model.vqmodel.features(pixels_M3HW)

    def decode_images(self, features_MPC: Tensor) -> Tensor:
        """Features to pixels [M, 3, H, W], nominally in [-1, 1] and unclipped."""
        dtype = self.model.vqmodel.post_quant_conv.weight.dtype
        return self.model.vqmodel.pixels(features_MPC.to(dtype), self.config.grid)


def positions(attention_mask_BS: Tensor) -> Tensor:
    """Position of each token counted over the mask; padding stands at 1, where no one looks: int64
    [B, S].
    """
    return (attention_mask_BS.long().cumsum(-1) - 1).masked_fill(attention_mask_BS == 0, 1)
