"""The joint loss from labels, the shape in which Hugging Face's tools hand over a batch.

    ids     <s> a snowman SEP [BOI] <image> <image> [EOI] </s>
    labels   -    -   -    -  [BOI] <image> <image> [EOI] </s>      - is -100: nothing to predict

A label is what stands at its own position, and is predicted from the position before. At a slot it
says whether the patch is a target.

Legend: B batch, S sequence, X = B S positions, D hidden, M images, P patches an image, N slots, C
    feature channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.losses.joint import JointLoss
from orthus_core.model.config import IGNORE
from orthus_core.model.orthus import OrthusForConditionalGeneration


class LabelledRows(NamedTuple):
    """A batch as the losses read it (see `BatchLike`)."""

    ids_BS: Tensor
    attention_mask_BS: Tensor
    text_targets_BS: Tensor
    features_NC: Tensor | None
    image_index_N: Tensor
    image_targets_N: Tensor
    noise_seeds_M: Tensor | None


def labelled_losses(
    model: OrthusForConditionalGeneration,
    hidden_BSD: Tensor,
    ids_BS: Tensor,
    labels_BS: Tensor,
    features: Tensor | None,
    *,
    attention_mask: Tensor | None = None,
    noise_seeds: Tensor | None = None,
    lambda_image: float = 100.0,
) -> dict[str, Tensor]:
    """What `JointLoss` computes on the same rows, from hidden states that are there already.

    Args:
        model: Model of the hidden states.
        hidden_BSD: Hidden states of all positions.
        ids_BS, labels_BS: Tokens and labels.
        features: Features of the slots.
        attention_mask: Mask [B, S] that is 0 at padding.
        noise_seeds: Seed of each image's noise, int64 [M]; None draws them.
        lambda_image: Weight of the image loss.

    Returns: `loss`, `text_loss` and `image_loss`.
    """
    rows = labelled_rows(model, ids_BS, labels_BS, features, attention_mask, noise_seeds)
    objective = JointLoss(model, lambda_image=lambda_image)
    hidden_XD = hidden_BSD.flatten(0, 1)
    text = objective.text(hidden_XD, rows)
    image = objective.image(hidden_XD, rows, objective.noise_seeds(rows))
    return {"loss": text + lambda_image * image, "text_loss": text, "image_loss": image}


def labelled_rows(
    model: OrthusForConditionalGeneration,
    ids_BS: Tensor,
    labels_BS: Tensor,
    features: Tensor | None,
    attention_mask: Tensor | None = None,
    noise_seeds: Tensor | None = None,
) -> LabelledRows:
    """The batch that the losses read. Arguments as for `labelled_losses`."""
    device = ids_BS.device
    slots_BS = ids_BS == model.config.image_token_id
    labels_BS = labels_BS.to(device)
    text_BS = labels_BS.masked_fill(slots_BS, IGNORE)
    targets_BS = torch.full_like(text_BS, IGNORE)
    targets_BS[:, :-1] = text_BS[:, 1:]
    mask_BS = torch.ones_like(ids_BS) if attention_mask is None else attention_mask.to(device)
    features_NC = None
    if features is not None:
        features_NC = features.reshape(-1, features.shape[-1]).to(device)
    return LabelledRows(
        ids_BS=ids_BS,
        attention_mask_BS=mask_BS,
        text_targets_BS=targets_BS,
        features_NC=features_NC,
        image_index_N=slots_BS.flatten().nonzero().flatten() - 1,
        image_targets_N=(labels_BS != IGNORE)[slots_BS],
        noise_seeds_M=None if noise_seeds is None else noise_seeds.flatten(),
    )
