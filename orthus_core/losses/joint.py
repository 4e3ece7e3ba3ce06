"""L_ar + lambda L_diff over a batch of interleaved rows, as one module that a training prepares and
calls.

Legend: B batch, S sequence, D hidden, N patches, C feature channels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from orthus_core.losses.diffusion import diffusion_loss, draw
from orthus_core.losses.text import IGNORE, text_loss
from orthus_core.model.orthus import OrthusForConditionalGeneration


class Rows(Protocol):
    """A batch of rows as the losses read it; `orthus_core.data.collate.Batch` is one.

    ids_BS: Token ids, `<image>` in each patch's slot.
    attention_mask_BS: 0 where a row is padded.
    text_targets_BS: The next token where one is to be predicted, -100 elsewhere.
    features_NC: Clean features of every slot in reading order, or None.
    image_index_N: For each slot, the flat position (row * S + column) of the hidden state that
        predicts it.
    """

    @property
    def ids_BS(self) -> Tensor: ...
    @property
    def attention_mask_BS(self) -> Tensor: ...
    @property
    def text_targets_BS(self) -> Tensor: ...
    @property
    def features_NC(self) -> Tensor | None: ...
    @property
    def image_index_N(self) -> Tensor: ...


class JointLosses(NamedTuple):
    """The sum that is minimised and its two parts before weighting; scalars."""

    total: Tensor
    text: Tensor
    image: Tensor


class JointLoss(nn.Module):
    """Text by cross-entropy, pictures by diffusion, one pass of the backbone for both (2412.00127,
    eq. 4).

    Args:
        model: What is trained.
        lambda_image: Weight of L_diff; 100 in the paper.
        text_weight: Weight of L_ar; 1 in the paper.
        repeats: Noise draws a patch; 8 in the release.
        prefix_noise: Largest noise on features that are read, in feature units. Each picture's is
            uniform below it.
            An addition to the paper: while drawing, a model reads its own slightly wrong patches,
                so it should have
            seen slightly wrong patches in training. Targets stay clean.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        *,
        lambda_image: float = 100.0,
        text_weight: float = 1.0,
        repeats: int = 8,
        prefix_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.lambda_image = lambda_image
        self.text_weight = text_weight
        self.repeats = repeats
        self.prefix_noise = prefix_noise

    def forward(self, rows: Rows) -> JointLosses:
        """Losses of a batch; noise and timesteps come from torch's global generator."""
        model, config = self.model, self.model.config

        # 1. One pass over everything that is read.
        read_NC = None if rows.features_NC is None else self.as_read(rows.features_NC)
        hidden_BSD = model(rows.ids_BS, read_NC, attention_mask=rows.attention_mask_BS).hidden_BSD
        hidden_XD = hidden_BSD.flatten(0, 1)

        # 2. Text, where a token is to be predicted.
        targets_X = rows.text_targets_BS.flatten()
        chosen_X = targets_X != IGNORE
        text = text_loss(model.text_logits(hidden_XD[chosen_X]), targets_X[chosen_X])

        # 3. Every patch of every picture, from the hidden state one position before it.
        features_NC = rows.features_NC
        if features_NC is None:
            features_NC = hidden_XD.new_zeros(0, config.feature_channels)
        clean_NC = features_NC.float() * config.latent_scale
        draws = draw(clean_NC, self.repeats, config.num_train_timesteps)
        image = diffusion_loss(
            model.mlp_head, model.schedule, clean_NC, hidden_XD[rows.image_index_N], draws
        )
        return JointLosses(self.text_weight * text + self.lambda_image * image, text, image)

    def as_read(self, features_NC: Tensor) -> Tensor:
        """The features as the backbone reads them in this step: [N, C]."""
        if not (self.training and self.prefix_noise):
            return features_NC
        pictures = len(features_NC) // self.model.config.patches
        amount_M1 = self.prefix_noise * torch.rand(pictures, 1, device=features_NC.device)
        amount_N1 = amount_M1.repeat_interleave(self.model.config.patches, 0)
        return features_NC + amount_N1 * torch.randn_like(features_NC)


class DiscreteLosses(NamedTuple):
    """The one loss of a discrete Chameleon; a scalar."""

    total: Tensor


class DiscreteLoss(nn.Module):
    """Next-token prediction over text and image codes alike: Chameleon's own training (2405.09818).

    Args:
        backbone: Any module with `embed_tokens` that maps input ids to `last_hidden_state`
            (transformers' ChameleonModel).
        lm_head: Hidden states to logits over the whole vocabulary.
    """

    def __init__(self, backbone: nn.Module, lm_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.lm_head = lm_head

    def forward(self, rows: Rows) -> DiscreteLosses:
        output = self.backbone(
            input_ids=rows.ids_BS, attention_mask=rows.attention_mask_BS, use_cache=False
        )
        chosen_BS = rows.text_targets_BS != IGNORE
        logits_NV = self.lm_head(output.last_hidden_state[chosen_BS])
        return DiscreteLosses(text_loss(logits_NV, rows.text_targets_BS[chosen_BS]))
