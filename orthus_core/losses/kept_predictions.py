"""Learning without forgetting (1606.09282): on some pictures, the head's predictions are those of
the model before the training, from the same noise at the same timestep.

The diffusion loss of a picture that the model knows has the same minimum, but its gradient is noise
there, because one picture and one noise are a sample of what the head predicts the mean of; the
optimiser follows this noise away from the start. The distance of predictions is 0 at the start,
with a gradient of 0, so only the other rows move the model, and every row of this kind holds it
back. These pictures are read without noise, as they are when the model draws: noise on what is read
is for what is new.

Legend: M pictures, P patches of a picture, N patches, X positions of the batch, D hidden, C feature
channels, R noise draws a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.losses.joint import BatchLike, JointLoss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import document_inputs
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.schedule import add_noise


class RowsOfPictures(BatchLike, Protocol):
    """A batch that names its pictures.

    Attributes:
        picture_keys: The keys of the M pictures.
    """

    @property
    def picture_keys(self) -> Sequence[str]: ...


class KeepingLoss(JointLoss):
    """`JointLoss`, but for some pictures L_diff is the distance to the start model's predictions,
    and they are read without noise.

    Args:
        model: Model to train, as it is before the training: its predictions are kept.
        is_kept: Whether a picture is one of these, by its key; asked when batches come.
        weight: Weight of their distance beside the diffusion loss of the others. Both are mean
            squared errors of the head's predictions.
        options: Arguments of `JointLoss`.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        *,
        is_kept: Callable[[str], bool],
        weight: float,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        # In a list, so that it is no part of what is trained, saved or put into training mode.
        self._start = [deepcopy(model).eval().requires_grad_(False)]
        self.is_kept = is_kept
        self.weight = weight

    @property
    def start(self) -> OrthusForConditionalGeneration:
        """The model before the training."""
        return self._start[0]

    def kept(self, rows: BatchLike) -> Tensor:
        """Whether each of the M pictures is kept: bool [M]. None is in held-out rows."""
        keys = cast(RowsOfPictures, rows).picture_keys
        return torch.tensor([self.training and self.is_kept(key) for key in keys])

    def read(self, rows: BatchLike, features_NC: Tensor, seeds_M: Tensor) -> Tensor:
        noisy_NC = super().read(rows, features_NC, seeds_M)
        if noisy_NC is features_NC:
            return features_NC
        is_kept_N = self.kept(rows).repeat_interleave(self.model.config.patches)
        return torch.where(is_kept_N.to(features_NC.device)[:, None], features_NC, noisy_NC)

    def image(self, hidden_XD: Tensor, rows: BatchLike, seeds_M: Tensor) -> Tensor:
        """The mean over all patches that are targets, of the loss that each picture has. Held-out
        rows are measured by the diffusion loss alone.
        """
        if not self.training or rows.features_NC is None:
            return super().image(hidden_XD, rows, seeds_M)
        chosen_N = self.predicted(rows, seeds_M)
        if chosen_N is None:
            chosen_N = torch.arange(len(rows.features_NC), device=hidden_XD.device)
        is_kept_N = self.kept(rows).to(chosen_N.device)[chosen_N // self.model.config.patches]
        kept_N, others_N = chosen_N[is_kept_N], chosen_N[~is_kept_N]
        others = self.image_among(hidden_XD, rows, seeds_M, others_N)
        if not len(kept_N):
            return others
        distance = self.distance(hidden_XD, rows, seeds_M, kept_N)
        return (len(others_N) * others + self.weight * len(kept_N) * distance) / len(chosen_N)

    def distance(
        self, hidden_XD: Tensor, rows: BatchLike, seeds_M: Tensor, chosen_N: Tensor
    ) -> Tensor:
        """Mean squared distance of the head's predictions of these patches to those of the start
        model, which reads the same rows alike.
        """
        assert rows.features_NC is not None, "the patches have features"
        index_N = rows.image_index_N[chosen_N]
        draws = self.drawn(seeds_M, chosen_N)
        clean_NC = rows.features_NC[chosen_N].float() * self.model.config.latent_scale
        clean = clean_NC.repeat(self.repeats, 1)
        noisy = add_noise(self.model.schedule, clean, draws.noise, draws.timesteps)

        def predictions(model: OrthusForConditionalGeneration, hidden_XD: Tensor) -> Tensor:
            cond = hidden_XD[index_N].repeat(self.repeats, 1)
            head = model.diffusion_head
            return with_padded_rows(head, noisy.to(cond.dtype), draws.timesteps, cond).float()

        with torch.no_grad():
            read_NC = self.read(rows, rows.features_NC, seeds_M)
            documents = document_inputs(self.start, rows.attention_mask_BS, self.start.dtype)
            before = self.start.run_backbone(rows.ids_BS, read_NC, **documents)
            wanted = predictions(self.start, before.hidden_BSD.flatten(0, 1))
        return F.mse_loss(predictions(self.model, hidden_XD), wanted)
