"""Learning without forgetting (1606.09282): for some pictures, the model's predictions are those of
the model before the training: the head's, from the same noise at the same timestep, and the LM
head's in their documents.

The two losses have their minimum there, too, where a model has learnt these pictures already. But
their gradient is noise there, because one picture, one noise and one word are a sample of what is
predicted the mean or the distribution of; the optimiser follows this noise away from the start. The
distance to the start is 0 at first, with a gradient of 0, so only the other rows move the model,
and every row of this kind holds it back. These pictures are read without noise, as they are when
the model draws and answers: noise on what is read is for what is new.

Legend: B lines of the batch, S positions of a line, M pictures, P patches of a picture, N patches
or words, X positions of the batch, D hidden, C feature channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.losses.joint import BatchLike, JointLoss, text_loss
from orthus_core.model.config import IGNORE
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
    they are read without noise, and in their documents L_ar may be the divergence from the start
    model's probabilities.

    Args:
        model: Model to train, as it is before the training: its predictions are kept.
        is_kept: Whether a picture is one of these, by its key; asked when batches come.
        weight: Weight of their distance beside the diffusion loss of the others. Both are mean
            squared errors of the head's predictions.
        words_weight: Weight of the divergence beside the cross-entropy of other documents; 0 is
            cross-entropy for all.
        options: Arguments of `JointLoss`.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        *,
        is_kept: Callable[[str], bool],
        weight: float,
        words_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        # In a list, so that it is no part of what is trained, saved or put into training mode.
        self._start = [deepcopy(model).eval().requires_grad_(False)]
        self._read: tuple[BatchLike, Tensor] | None = None
        self.is_kept = is_kept
        self.weight = weight
        self.words_weight = words_weight

    @property
    def start(self) -> OrthusForConditionalGeneration:
        """The model before the training."""
        return self._start[0]

    def kept(self, rows: BatchLike) -> Tensor:
        """Whether each patch is of a picture that is kept: bool [N]. None is in held-out rows."""
        keys = cast(RowsOfPictures, rows).picture_keys
        kept_M = torch.tensor([self.training and self.is_kept(key) for key in keys])
        return kept_M.repeat_interleave(self.model.config.patches).to(rows.ids_BS.device)

    def read(self, rows: BatchLike, features_NC: Tensor, seeds_M: Tensor) -> Tensor:
        noisy_NC = super().read(rows, features_NC, seeds_M)
        if noisy_NC is features_NC:
            return features_NC
        return torch.where(self.kept(rows)[:, None], features_NC, noisy_NC)

    def text(self, hidden_XD: Tensor, rows: BatchLike) -> Tensor:
        """The mean over all target tokens, of the loss that each document has."""
        if not (self.training and self.words_weight) or rows.features_NC is None:
            return super().text(hidden_XD, rows)
        # 1. Target tokens in the documents of these pictures, and the others.
        lines_B1 = torch.arange(len(rows.ids_BS), device=hidden_XD.device)[:, None]
        most = rows.attention_mask_BS.shape[1] + 1
        documents_X = (lines_B1 * most + rows.attention_mask_BS).flatten()
        targets_X = rows.text_targets_BS.flatten()
        in_kept_X = torch.isin(documents_X, documents_X[rows.image_index_N[self.kept(rows)]])
        kept_X, others_X = (
            ((targets_X != IGNORE) & chosen_X).nonzero().flatten()
            for chosen_X in (in_kept_X, ~in_kept_X)
        )

        # 2. Both losses, as a mean over all target tokens.
        of_others = with_padded_rows(self.model.text_logits, hidden_XD[others_X])
        own = text_loss(of_others, targets_X[others_X])
        if not len(kept_X):
            return own
        now_NV = with_padded_rows(self.model.text_logits, hidden_XD[kept_X])
        with torch.no_grad():
            before_NV = with_padded_rows(self.start.text_logits, self.before(rows)[kept_X])
        apart = divergence(now_NV, before_NV)
        total = len(kept_X) + len(others_X)
        return (len(others_X) * own + self.words_weight * len(kept_X) * apart) / total

    def image(self, hidden_XD: Tensor, rows: BatchLike, seeds_M: Tensor) -> Tensor:
        """The mean over all patches that are targets, of the loss that each picture has. Held-out
        rows are measured by the diffusion loss alone.
        """
        if not self.training or rows.features_NC is None:
            return super().image(hidden_XD, rows, seeds_M)
        chosen_N = self.predicted(rows, seeds_M)
        if chosen_N is None:
            chosen_N = torch.arange(len(rows.features_NC), device=hidden_XD.device)
        is_kept_N = self.kept(rows)[chosen_N]
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
            wanted = predictions(self.start, self.before(rows))
        return F.mse_loss(predictions(self.model, hidden_XD), wanted)

    def before(self, rows: BatchLike) -> Tensor:
        """The start model's hidden states: [X, D]. All pictures are read without noise, which those
        of documents that are kept are in the model that is trained, too.
        """
        if self._read is None or self._read[0] is not rows:
            documents = document_inputs(self.start, rows.attention_mask_BS, self.start.dtype)
            found = self.start.run_backbone(rows.ids_BS, rows.features_NC, **documents)
            self._read = rows, found.hidden_BSD.flatten(0, 1)
        return self._read[1]


def divergence(now_NV: Tensor, before_NV: Tensor) -> Tensor:
    """Kullback-Leibler divergence of logits from those of before, as a mean over the N rows. A
    token whose logit is minus infinity in both, such as one of pictures, counts nothing.
    """
    wanted_NV = before_NV.float().log_softmax(1)
    never_NV = wanted_NV.isneginf()
    logs_NV = now_NV.float().log_softmax(1).masked_fill(never_NV, 0)
    wanted_NV = wanted_NV.masked_fill(never_NV, 0)
    terms_NV = (wanted_NV.exp() * (wanted_NV - logs_NV)).masked_fill(never_NV, 0)
    return terms_NV.sum(1).mean()
