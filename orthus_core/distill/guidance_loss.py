"""What a model learns that draws guided by itself: in its one stream, the head is to predict what
guidance mixes from the streams of the model before (the first stage of 2210.03142, whose student
has the scale as an input; here there is one scale, as in CALM, 2510.27688).

    loss = |head(x, t | h) - sum_k w_k head(x, t | h_k)|^2, at the same x and t

The hidden states h_k are those of the teacher, which is the model as it was; h is the student's, at
the position before a patch. No hidden state of the teacher is a target, because guidance mixes
predictions, and the head is not linear. At words, the student keeps the teacher's probabilities.

Legend: B batch, S sequence, D hidden, X = B S, N slots, M learnt pictures, P patches, L learnt
    slots, R noise draws a patch, C feature channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.data.encode import TokenIds
from orthus_core.distill.guidance_streams import (
    GuidanceStreams,
    TaughtGuidance,
    guidance_streams,
)
from orthus_core.losses.joint import BatchLike, Counts, JointLoss, counts_of, share
from orthus_core.model.config import IGNORE
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import document_inputs, use_packed_attention
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.schedule import add_noise


class Teacher:
    """The model as it was before the training: its hidden states and its head.

    Args:
        model: The model before anything of it moves.
        shares_backbone: Whether adapters are about to be put into `model`: without them its
            backbone stays what it was, so that no second one is held.
    """

    def __init__(
        self, model: OrthusForConditionalGeneration, *, shares_backbone: bool = False
    ) -> None:
        self._adapted = model if shares_backbone else None
        # The autoencoder is the same for both, and never trained.
        kept = {id(model.model.vqmodel): model.model.vqmodel}
        self.model = model if shares_backbone else deepcopy(model, kept)
        head = model.diffusion_head
        self.head: DiffusionHead = deepcopy(head) if shares_backbone else self.model.diffusion_head
        frozen = self.head if shares_backbone else self.model
        frozen.requires_grad_(False).eval()
        use_packed_attention(self.model)

    @contextmanager
    def at_work(self) -> Iterator[OrthusForConditionalGeneration]:
        """The teacher, without gradients, for as long as this lasts."""
        with torch.no_grad():
            if self._adapted is None:
                yield self.model
                return
            layers = [m for m in self.model.modules() if hasattr(m, "lora_A")]
            for layer in layers:
                layer.enable_adapters(False)  # type: ignore[operator]
            try:
                yield self.model
            finally:
                for layer in layers:
                    layer.enable_adapters(True)  # type: ignore[operator]

    def to(self, device: torch.device) -> None:
        """Move what is the teacher's own to a device."""
        self.head.to(device)
        if self._adapted is None:
            self.model.to(device)  # type: ignore[arg-type]


class GuidanceLosses(NamedTuple):
    """The sum that is minimised, and its parts before weighting; scalars.

    Attributes:
        text: Divergence of the student's words from the teacher's.
        image: Squared error of the head's prediction against that of guidance.
        unguided: The same error of the teacher's own stream alone: what there was to learn.
    """

    total: Tensor
    text: Tensor | None
    image: Tensor | None
    unguided: Tensor | None


class GuidanceLoss(JointLoss):
    """The loss of a model that learns to draw guided by itself.

    Args:
        model: The student.
        teacher: The model as it was.
        taught: Guidance to learn.
        ids: Token ids of the model.
        settings: As for `JointLoss`.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        teacher: Teacher,
        taught: TaughtGuidance,
        ids: TokenIds,
        **settings: object,
    ) -> None:
        super().__init__(model, **settings)  # type: ignore[arg-type]
        self._teacher = [teacher]  # not as a module: it is neither trained, sharded nor saved
        self.taught, self.ids = taught, ids

    @property
    def teacher(self) -> Teacher:
        """The model as it was."""
        return self._teacher[0]

    def forward(self, rows: BatchLike, counts: Counts | None = None) -> GuidanceLosses:  # type: ignore[override]
        """Losses of a batch; arguments as for `JointLoss`."""
        own, model = counts_of(rows), self.model
        counts = counts or own
        seeds_M = self.noise_seeds(rows)
        read_NC = None if rows.features_NC is None else self.as_read(rows.features_NC, seeds_M)
        documents = document_inputs(model, rows.attention_mask_BS, model.dtype)
        streams = None
        if read_NC is not None:
            streams = guidance_streams(rows, model.config.patches, self.ids, self.taught)

        # 1. The streams of the teacher, then that of the student.
        self.teacher.to(rows.ids_BS.device)
        with self.teacher.at_work() as teacher:
            taught_XD = teacher.run_backbone(rows.ids_BS, read_NC, **documents).hidden_BSD
            taught_XD = taught_XD.flatten(0, 1)
            others_XD = None
            if streams is not None and len(streams.ids_BS) and read_NC is not None:
                more = document_inputs(model, streams.mask_BS, model.dtype)
                features_FC = read_NC[streams.features_F]
                others_XD = teacher.run_backbone(streams.ids_BS, features_FC, **more).hidden_BSD
                others_XD = others_XD.flatten(0, 1)
            chosen_X = rows.text_targets_BS.flatten() != IGNORE
            words_NV = with_padded_rows(teacher.text_logits, taught_XD[chosen_X])
        hidden_XD = model.run_backbone(rows.ids_BS, read_NC, **documents).hidden_BSD.flatten(0, 1)

        # 2. Words and pictures.
        parts = [hidden_XD.sum() * 0]
        text = image = unguided = None
        if self.text_weight or not self.training:
            logits_NV = with_padded_rows(model.text_logits, hidden_XD[chosen_X])
            text = divergence(logits_NV, words_NV) * share(own.text, counts.text)
            parts.append(self.text_weight * text)
        if streams is not None and (self.lambda_image or not self.training):
            hidden = (hidden_XD, taught_XD, others_XD)
            of_image = share(own.image, counts.image)
            image, unguided = (e * of_image for e in self.guided(hidden, rows, seeds_M, streams))
            parts.append(self.lambda_image * image)
        return GuidanceLosses(sum(parts[1:], start=parts[0]), text, image, unguided)

    def guided(
        self,
        hidden: tuple[Tensor, Tensor, Tensor | None],
        rows: BatchLike,
        seeds_M: Tensor,
        streams: GuidanceStreams,
    ) -> tuple[Tensor, Tensor]:
        """Errors of the student's stream, and of the teacher's own, against guidance.

        Args:
            hidden: Hidden states of the student, of the teacher, and of its other streams.
        """
        config, schedule = self.model.config, self.model.schedule
        hidden_XD, taught_XD, others_XD = hidden
        patches, features_NC = config.patches, rows.features_NC
        assert features_NC is not None, "there are streams, so there are pictures"

        # 1. The patches: which, the streams of which picture, and their noise.
        learnt_L = self.predicted(rows, seeds_M)
        if learnt_L is None:
            learnt_L = torch.arange(len(features_NC), device=seeds_M.device)
        of_L = torch.searchsorted(streams.pictures_M, learnt_L // patches)
        draws = self.drawn(seeds_M, learnt_L)
        clean_LC = features_NC[learnt_L].float() * config.latent_scale
        noisy = add_noise(schedule, clean_LC.repeat(self.repeats, 1), draws.noise, draws.timesteps)

        def predicted(head: nn.Module, cond_LD: Tensor, used: Tensor | slice) -> Tensor:
            """The head's prediction for the draws of these learnt slots: [R, L, C]."""
            cond_LD = cond_LD[used]
            noisy_RL = noisy.unflatten(0, (self.repeats, -1))[:, used].flatten(0, 1)
            times_RL = draws.timesteps.unflatten(0, (self.repeats, -1))[:, used].flatten(0, 1)
            cond = cond_LD.repeat(self.repeats, 1)
            found = with_padded_rows(head, noisy_RL.to(cond.dtype), times_RL, cond)
            return found.float().unflatten(0, (self.repeats, -1))

        # 2. The teacher's streams, mixed.
        index_L = rows.image_index_N[learnt_L]
        weights_L3, rows_L3 = streams.weights_M3[of_L], streams.rows_M3[of_L]
        with torch.no_grad():
            own_RLC = predicted(self.teacher.head, taught_XD[index_L], slice(None))
            mixed_RLC = weights_L3[:, :1] * own_RLC
            for stream in (1, 2):
                used_L = (rows_L3[:, stream] >= 0).nonzero().flatten()
                if others_XD is None or not len(used_L):
                    continue
                row_L = rows_L3[:, stream].clamp(min=0)
                place_L = row_L * streams.ids_BS.shape[1] + streams.first_B[row_L]
                cond_LD = others_XD[place_L + learnt_L % patches]
                there = predicted(self.teacher.head, cond_LD, used_L)
                mixed_RLC[:, used_L] += weights_L3[used_L, stream, None] * there

        # 3. The student's one.
        student_RLC = predicted(self.model.diffusion_head, hidden_XD[index_L], slice(None))
        return F.mse_loss(student_RLC, mixed_RLC), F.mse_loss(own_RLC, mixed_RLC)


def divergence(logits_NV: Tensor, taught_NV: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of probabilities from the teacher's; 0 without rows."""
    if not len(logits_NV):
        return logits_NV.nan_to_num(neginf=0.0).sum() * 0
    words_V = taught_NV[0].isfinite()  # the others are never text
    own_NV, taught_NV = (each[:, words_V].float() for each in (logits_NV, taught_NV))
    own_NV, taught_NV = own_NV.log_softmax(-1), taught_NV.log_softmax(-1)
    return F.kl_div(own_NV, taught_NV, reduction="batchmean", log_target=True)
