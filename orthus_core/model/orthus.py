"""Orthus: one causal transformer over text tokens and image features, with one head for each.

    ids, features --embed--> backbone --> hidden --+--> text_logits  (LM head: a token)
                                                   +--> mlp_head     (diffusion head: a patch)

Parameters have the released names, so a released folder loads without conversion. What
transformers' own tools call (`forward`, `generate` ...) is in `hugging_face.py`.

Legend: D hidden, K codes, C feature channels, N rows.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel  # noqa: F401, diffusers looks for it in this module

from orthus_core.model.config import OrthusConfig
from orthus_core.model.hugging_face import OrthusGenerationMixin, register_auto_classes
from orthus_core.model.image_heads import ImageHeadOfKind, image_head
from orthus_core.model.interleaved import InterleavedBackbone, InterleavedModel
from orthus_core.model.schedule import Schedule, make_schedule
from orthus_core.model.soft_embedding import CodeSquares, argmin_embed, soft_embed


class OrthusModel(InterleavedBackbone):
    """The backbone and the codes of the soft embedding."""

    config: OrthusConfig
    config_class = OrthusConfig

    def __init__(self, config: OrthusConfig) -> None:
        super().__init__(config)
        self.codebook_in = nn.Embedding(config.num_codes, config.feature_channels)
        if config.embedding == "linear":
            self.feature_in = nn.Linear(config.feature_channels, config.hidden_size)
        self.post_init()


class OrthusForConditionalGeneration(ImageHeadOfKind, OrthusGenerationMixin, InterleavedModel):
    """The whole model: backbone, LM head, diffusion head (or regression head), noise schedule.

    Source: 2412.00127.
    """

    config: OrthusConfig
    config_class = OrthusConfig
    model: OrthusModel

    def __init__(self, config: OrthusConfig) -> None:
        config.validate_choices()
        super().__init__(config)
        self.model = OrthusModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mlp_head = image_head(config)
        self._squares = CodeSquares()
        self.post_init()
        self.write_text_as_ours()

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the config."""
        config = self.config
        return make_schedule(
            num_train_timesteps=config.num_train_timesteps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule=config.beta_schedule,
            zero_terminal_snr=config.zero_terminal_snr,
            prediction=config.prediction,
        )

    def forget_code_squares(self) -> None:
        """Forget what is known of the codes; see `CodeSquares.forget`."""
        self._squares.forget()

    def embed_features(self, features_NC: Tensor) -> Tensor:
        """Input embeddings of image features, by the config's kind of embedding: [N, D]."""
        config, model = self.config, self.model
        if config.embedding == "linear":
            weight = model.feature_in.weight
            return model.feature_in(features_NC.to(weight.device, weight.dtype))
        codes_KC = model.codebook_in.weight
        if config.embedding == "argmin":
            return argmin_embed(features_NC, codes_KC, self.code_table_KD)
        return soft_embed(
            features_NC,
            codes_KC,
            self.code_table_KD,
            temperature=config.embedding_temperature,
            distance=config.embedding_distance,
            squares_K=self._squares(codes_KC),
        )


register_auto_classes(OrthusConfig, OrthusForConditionalGeneration)
