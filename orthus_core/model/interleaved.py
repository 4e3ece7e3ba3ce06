"""One causal transformer over text tokens and images: what Orthus and discrete Chameleon share.

    ids, features --embed--> backbone --> hidden --> text_logits  (LM head, where text is predicted)

An image is P features of C channels in reading order. The two kinds of model differ in how they
embed a feature and in how they predict the next one: see `orthus.py` and `chameleon.py`. Parameter
names are Chameleon's.

Legend: B batch, S sequence, D hidden, V vocabulary, C feature channels, P patches an image, M
    images, N rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import Cache, ChameleonModel
from transformers import initialization as init
from transformers.models.chameleon.modeling_chameleon import ChameleonPreTrainedModel

from orthus_core.errors import PromptError
from orthus_core.model.config import InterleavedConfig
from orthus_core.model.vision import OrthusVQ


class OrthusOutput(NamedTuple):
    """The backbone's output.

    Attributes:
        hidden_BSD: Hidden states after the last norm; every head reads them.
        past_key_values: Keys and values of all positions so far; None without a cache.
        hidden_states, attentions: Those of every layer, where they are asked for.
    """

    hidden_BSD: Tensor
    past_key_values: Cache | None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class InterleavedPreTrainedModel(ChameleonPreTrainedModel):
    """Tells transformers the models' config class and the initialisation of new weights."""

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
    """Chameleon's backbone, with an autoencoder that can also decode."""

    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__(config)
        self.vqmodel = OrthusVQ._from_config(config.vq_config)


class InterleavedModel(InterleavedPreTrainedModel):
    """Backbone, LM head and autoencoder. A subclass adds `embed_features` and a way to draw.

    `run_backbone` returns hidden states only; the caller applies the head that a position needs.

    Attributes:
        code_token_ids: Token id of each code.
    """

    model: InterleavedBackbone
    lm_head: nn.Linear
    # Only where the config says `tie_word_embeddings`, as while such a folder is opened.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: InterleavedConfig) -> None:
        ids = config.code_token_ids
        super().__init__(config)
        self.code_token_ids = ids
        in_order = ids == list(range(ids[0], ids[0] + len(ids)))
        # A slice is a view, so no patch copies 8192 rows of the table.
        self._code_index = slice(ids[0], ids[-1] + 1) if in_order else ids
        self._never_text_of: dict[torch.device, Tensor] = {}

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def embed_features(self, features_NC: Tensor) -> Tensor:
        """Input embeddings of image features: [N, D]."""
        raise NotImplementedError

    def code_rows(self, table_VX: Tensor) -> Tensor:
        """The rows of the codes in a table over the vocabulary, row j for code j: [K, X]."""
        return table_VX[self._code_index]

    @property
    def code_table_KD(self) -> Tensor:
        """Input embeddings of the code tokens, row j for code j: [K, D]."""
        return self.code_rows(self.model.embed_tokens.weight)

    def embed(self, ids_BS: Tensor, features: Tensor | None = None) -> Tensor:
        """Input embeddings of tokens and of the features in the `<image>` slots: [B, S, D].

        Args:
            ids_BS: Token ids; `config.image_token_id` marks the slot of each patch.
            features: Features [M, P, C] or [N, C] in reading order, one for each slot.

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
        # Imported here, because drawing from text never comes this far.
        from orthus_core.model.padded_rows import with_padded_rows

        rows_NC = features.reshape(-1, features.shape[-1])
        filled_ND = with_padded_rows(self.embed_features, rows_NC)
        return embeds_BSD.masked_scatter(slots_BS.unsqueeze(-1), filled_ND.to(embeds_BSD))

    def run_backbone(
        self,
        ids_BS: Tensor | None = None,
        features: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        **more: Any,
    ) -> OrthusOutput:
        """Hidden states of a sequence, or of its next part when a cache is given.

        Args:
            ids_BS, features: Tokens and features, as for `embed`.
            inputs_embeds: Input embeddings [B, S, D] in place of both.
            attention_mask: Mask [B, past + S] that is 0 at padding, or a 4D mask of transformers.
            position_ids: Positions [B, S]; by default the mask is counted, which allows left
                padding.
            past_key_values: Dynamic or static cache, filled in place.
            use_cache: Whether to make a dynamic cache when none is given; None is the config's.
            more: Further arguments of the backbone, such as the `documents` of packed rows, which
                `document_inputs` makes with the mask and the positions that go with them.

        Returns: Hidden states [B, S, D] after the last norm, and the cache.
        """
        if inputs_embeds is None:
            assert ids_BS is not None, "give ids_BS or inputs_embeds"
            inputs_embeds = self.embed(ids_BS, features)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        out = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **more,
        )
        # A model that is spread over devices ends on another one than it began on.
        hidden_BSD = out.last_hidden_state.to(inputs_embeds.device)
        return OrthusOutput(hidden_BSD, out.past_key_values, out.hidden_states, out.attentions)

    def text_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of the next text token; those of image codes and image slots are -inf: [N, V]."""
        logits_NV = self.lm_head(hidden_ND)
        return logits_NV.index_fill(-1, self._never_text(logits_NV.device), float("-inf"))

    def _never_text(self, device: torch.device) -> Tensor:
        """Ids of image codes and image slots, which are never text; kept for each device."""
        if device not in self._never_text_of:
            ids = [*self.code_token_ids, cast(int, self.config.image_token_id)]
            self._never_text_of[device] = torch.tensor(ids, device=device)
        return self._never_text_of[device]

    def encode_images(self, pixels_M3HW: Tensor) -> Tensor:
        """Features of images, from pixels as the image processor makes them: [M, P, C]."""
        return self.model.vqmodel.features(pixels_M3HW)

    def decode_images(self, features_MPC: Tensor) -> Tensor:
        """Pixels of features: [M, 3, H, W], nominally in [-1, 1], unclipped."""
        weight = self.model.vqmodel.post_quant_conv.weight
        pixels = self.model.vqmodel.pixels
        return pixels(features_MPC.to(weight.device, weight.dtype), self.config.grid)


def positions(attention_mask_BS: Tensor) -> Tensor:
    """Position of each token, counted over the mask: int64 [B, S].

    Padding gets position 1; no token attends to it.
    """
    return (attention_mask_BS.long().cumsum(-1) - 1).masked_fill(attention_mask_BS == 0, 1)
