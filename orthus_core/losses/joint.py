"""L_ar + lambda L_diff over a batch of interleaved rows, as one module that a training prepares and
calls (2412.00127, eq. 4; L_ar is eq. 2, L_diff eq. 3).

Legend: B batch, S sequence, D hidden, M pictures, P patches of a picture, N patches or predicted
positions, C feature channels, V vocabulary.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.entry_points import imported
from orthus_core.errors import RecipeError
from orthus_core.losses.diffusion import Draws, diffusion_loss, draw
from orthus_core.losses.mixture import mixture_figures
from orthus_core.losses.picture_noise import Stream, drawn_seeds, normal, uniform
from orthus_core.model.config import IGNORE
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import document_inputs, use_packed_attention
from orthus_core.model.padded_rows import with_padded_rows
from orthus_core.model.schedule import add_noise
from orthus_core.recipe.training import NoisyInputs, TimestepKind


def text_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Mean over the rows in fp32; 0 (with a gradient of 0) when there is no row."""
    if not len(targets_N):
        return logits_NV.sum() * 0
    return F.cross_entropy(logits_NV.float(), targets_N)


class BatchLike(Protocol):
    """A batch of rows as the losses read it; `orthus_core.data.collate.Batch` is one.

    Attributes:
        ids_BS: Token ids, `<image>` in each patch's slot.
        attention_mask_BS: 0 at padding, else 1; in packed rows, the number of the document.
        text_targets_BS: Next token where it is predicted, -100 elsewhere.
        features_NC: Clean features of every slot in reading order, or None.
        image_index_N: For each slot, the flat position (row * S + column) of the hidden state that
            predicts it.
        image_targets_N: Whether each slot's patch is predicted; None means all of them.
        noise_seeds_M: Seed of the random numbers of each picture; None draws seeds from torch's
            global generator.
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
    @property
    def image_targets_N(self) -> Tensor | None: ...
    @property
    def noise_seeds_M(self) -> Tensor | None: ...


class Counts(NamedTuple):
    """Numbers of predicted tokens and patches that a loss is averaged over; may be fractional.

    In a step of several batches, every batch is divided by the mean count of all batches. The
    average over the batches then equals the loss of one large batch, even when the batches differ
    in size.
    """

    text: float
    image: float


def counts_of(rows: BatchLike) -> Counts:
    """The counts of a batch alone."""
    wanted_N = rows.image_targets_N
    patches = len(rows.image_index_N) if wanted_N is None else int(wanted_N.sum())
    return Counts(int((rows.text_targets_BS != IGNORE).sum()), patches)


class JointLosses(NamedTuple):
    """The sum that is minimised and its two parts before weighting; scalars. A part of weight 0 is
    None in a training's step. Further terms, and figures of the soft embedding that are measured on
    held-out rows, follow as fields of their own names.
    """

    total: Tensor
    text: Tensor | None
    image: Tensor | None


class LossInputs(NamedTuple):
    """What a further loss term is computed from.

    model: What is trained.
    rows: The batch.
    hidden_XD: The backbone's hidden state of every position, rows one after the other: X = B * S.
    share: Factor that a mean over the batch's own patches is multiplied with, so that the batches
        of a step average to one large batch.
    """

    model: OrthusForConditionalGeneration
    rows: BatchLike
    hidden_XD: Tensor
    share: float


LossTerm = Callable[[LossInputs], Tensor]

# Terms beside text and image: a name, and a function that returns a scalar. A recipe gives those it
# wants a weight (`loss_terms`).
LOSS_TERMS: dict[str, LossTerm] = {}


def loss_term(name: str) -> LossTerm:
    """The term that is registered under this name, or named as `package.module.function`.

    Raises: RecipeError when there is none.
    """
    if name in LOSS_TERMS:
        return LOSS_TERMS[name]
    try:
        return imported(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"there is no loss term {name!r}",
            where="loss_terms",
            hint=f"use one of {', '.join(LOSS_TERMS) or 'those you register'}, or name a function: "
            "package.module.function",
        ) from error


class JointLoss(nn.Module):
    """Text by cross-entropy, pictures by diffusion, one pass of the backbone for both (2412.00127,
    eq. 4).

    Args:
        model: Model to train.
        lambda_image: Weight of L_diff, or of the squared error of a regression head; 100 in the
            paper. A term of weight 0 costs a training nothing; it is measured on held-out rows.
        text_weight: Weight of L_ar; 1 in the paper.
        repeats: Noise draws a patch; 8 in the release. A regression head has none.
        patch_share: Share of each picture's patches that L_diff is computed on while training, at
            least one. The mean over them estimates the mean over all.
        prefix_noise: Maximum noise on input features, in feature units. Each picture's level is
            uniform up to it. An addition to the paper: while drawing, a model reads its own
            slightly wrong patches, so it should have seen slightly wrong patches in training.
            Targets stay clean.
        prefix_clean: Share of the pictures whose noise ends at a random patch. CALM (2510.27688)
            keeps the newest positions before each prediction clean; in one causal pass a patch has
            one key and value for all that follow, so here only what is predicted after that patch
            sees noisy older patches and clean newer ones.
        input_noise: Share of the pictures that the backbone reads as the diffusion makes them at a
            timestep of its full range, in place of clean ones (Transfusion, 2408.11039, reads its
            noisy pictures). In a training alone: drawing and answering read clean patches.
        input_noise_of: Which pictures that share is of: all, or those that are drawn, so that a
            question is asked about a clean picture.
        timesteps: How timesteps are drawn (see `draw`).
        terms: Weights of further terms by name (see `loss_term`).

    Raises: RecipeError for a term that does not exist.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        *,
        lambda_image: float = 100.0,
        text_weight: float = 1.0,
        repeats: int = 8,
        patch_share: float = 1.0,
        prefix_noise: float = 0.0,
        prefix_clean: float = 0.0,
        input_noise: float = 0.0,
        input_noise_of: NoisyInputs = "all",
        timesteps: TimestepKind = "uniform",
        terms: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        use_packed_attention(model)
        self.model = model
        self.lambda_image = lambda_image
        self.text_weight = text_weight
        self.repeats = repeats if model.config.denoises else 1
        self.patch_share = patch_share
        self.prefix_noise = prefix_noise
        self.prefix_clean = prefix_clean
        self.input_noise = input_noise
        self.input_noise_of: NoisyInputs = input_noise_of
        self.timesteps: TimestepKind = timesteps
        self.terms = {name: (loss_term(name), weight) for name, weight in (terms or {}).items()}

    def forward(self, rows: BatchLike, counts: Counts | None = None) -> JointLosses:
        """Losses of a batch. What is drawn for a picture depends on its seed alone, so rows have
        the same losses in any batches, and on any number of processes.

        Args:
            counts: Denominators of the two sums; the rows' own counts by default.
        """
        own = counts_of(rows)
        counts = counts or own

        # 1. One pass over all inputs.
        model = self.model
        seeds_M = self.noise_seeds(rows)
        read_NC = None
        if rows.features_NC is not None:
            read_NC = self.read(rows, rows.features_NC, seeds_M)
        documents = document_inputs(model, rows.attention_mask_BS, model.dtype)
        hidden_XD = model.run_backbone(rows.ids_BS, read_NC, **documents).hidden_BSD.flatten(0, 1)

        # 2. Both losses; where gradients are wanted, those alone whose weight is not 0.
        text = image = None
        of_image = share(own.image, counts.image)
        measures = not (self.training and torch.is_grad_enabled())
        if self.text_weight or measures:
            with gradients_if(self.text_weight):
                text = self.text(hidden_XD, rows) * share(own.text, counts.text)
        if self.lambda_image or measures:
            with gradients_if(self.lambda_image):
                image = self.image(hidden_XD, rows, seeds_M) * of_image
        weighted = [(self.text_weight, text), (self.lambda_image, image)]
        parts = [weight * loss for weight, loss in weighted if loss is not None]
        total = sum(parts[1:], start=parts[0]) if parts else hidden_XD.sum() * 0
        further = dict[str, Tensor]()
        if not self.training and rows.features_NC is not None:
            targets_N = slice(None) if rows.image_targets_N is None else rows.image_targets_N
            found = self.mixture(rows.features_NC[targets_N])
            further |= {name: value * of_image for name, value in found.items()}
        if not (self.terms or further):
            return JointLosses(total, text, image)

        # 3. Further terms, each reported by its name.
        inputs = LossInputs(model, rows, hidden_XD, of_image)
        for name, (term, weight) in self.terms.items():
            with gradients_if(weight):
                value = further[name.rpartition(".")[2]] = term(inputs)
            total = total + weight * value
        fields = {"total": total, "text": text, "image": image, **further}
        return namedtuple("JointLosses", fields)(**fields)  # type: ignore[return-value]

    def text(self, hidden_XD: Tensor, rows: BatchLike) -> Tensor:
        """Cross-entropy at every position with a target token."""
        targets_X = rows.text_targets_BS.flatten()
        chosen_X = targets_X != IGNORE
        logits_NV = with_padded_rows(self.model.text_logits, hidden_XD[chosen_X])
        return text_loss(logits_NV, targets_X[chosen_X])

    def noise_seeds(self, rows: BatchLike) -> Tensor:
        """Seed of each picture, on the device of the rows: int64 [M]."""
        if rows.noise_seeds_M is not None:
            return rows.noise_seeds_M
        slots = 0 if rows.features_NC is None else len(rows.features_NC)
        return drawn_seeds(slots // self.model.config.patches).to(rows.ids_BS.device)

    def image(self, hidden_XD: Tensor, rows: BatchLike, seeds_M: Tensor) -> Tensor:
        """The head's loss on every patch that is a target, from the hidden state one position
        before.
        """
        return self.image_among(hidden_XD, rows, seeds_M, self.predicted(rows, seeds_M))

    def predicted(self, rows: BatchLike, seeds_M: Tensor) -> Tensor | None:
        """Places of the patches that the loss is computed on: int64 [X]; None for all."""
        if self.training and self.patch_share < 1:
            scores_MP = uniform(seeds_M, Stream.CHOICE_OF_PATCHES, self.model.config.patches)
            return chosen_patches(scores_MP, rows.image_targets_N, self.patch_share)
        targets_N = rows.image_targets_N
        return None if targets_N is None else targets_N.nonzero().flatten()

    def image_among(
        self, hidden_XD: Tensor, rows: BatchLike, seeds_M: Tensor, chosen_N: Tensor | None
    ) -> Tensor:
        """The head's loss on the patches at these places; None for all."""
        model, config = self.model, self.model.config
        features_NC = rows.features_NC
        if features_NC is None:
            features_NC = hidden_XD.new_zeros(0, config.feature_channels)
        index_N = rows.image_index_N
        if chosen_N is not None:
            features_NC, index_N = features_NC[chosen_N], index_N[chosen_N]
        clean_NC = features_NC.float() * config.latent_scale
        if not config.denoises:
            # Imported here, because a diffusion head needs none of it.
            from orthus_core.losses.regression import regression_loss

            return regression_loss(model.regression_head, clean_NC, hidden_XD[index_N])
        draws = self.drawn(seeds_M, chosen_N)
        head, schedule = model.diffusion_head, model.schedule
        return diffusion_loss(head, schedule, clean_NC, hidden_XD[index_N], draws)

    def drawn(self, seeds_M: Tensor, chosen_N: Tensor | None) -> Draws:
        """Noise and timesteps of the patches at these places; None for all."""
        config = self.model.config
        return draw(
            seeds_M,
            config.patches,
            config.feature_channels,
            self.repeats,
            self.model.schedule,
            timesteps=self.timesteps,
            chosen_N=chosen_N,
        )

    def read(self, rows: BatchLike, features_NC: Tensor, seeds_M: Tensor) -> Tensor:
        """The features of these rows that the backbone receives in this step: [N, C]."""
        return self.as_read(features_NC, seeds_M, rows.image_targets_N)

    def as_read(
        self, features_NC: Tensor, seeds_M: Tensor, targets_N: Tensor | None = None
    ) -> Tensor:
        """The features that the backbone receives in this step: [N, C].

        Args:
            targets_N: Which of the patches are drawn; None for all.
        """
        if not self.training:
            return features_NC
        if self.input_noise:
            noisy_NC = self.diffused(features_NC, seeds_M)
            if self.input_noise_of == "drawn" and targets_N is not None:
                noisy_NC = noisy_NC.where(targets_N[:, None], features_NC)
            features_NC = noisy_NC
        if not self.prefix_noise:
            return features_NC
        patches = self.model.config.patches
        level_M1, end_M1, cut_M1 = uniform(seeds_M, Stream.AMOUNT_READ, 3).split(1, dim=1)
        amount_MP = (self.prefix_noise * level_M1).expand(-1, patches)
        if self.prefix_clean:
            before_MP = torch.arange(patches, device=end_M1.device) < (end_M1 * patches).long()
            amount_MP = amount_MP * (before_MP | (cut_M1 >= self.prefix_clean))
        noise_MX = normal(seeds_M, Stream.READ, patches * features_NC.shape[-1])
        return features_NC + amount_MP.reshape(-1, 1) * noise_MX.view(features_NC.shape)

    def diffused(self, features_NC: Tensor, seeds_M: Tensor) -> Tensor:
        """The features, in a share of the pictures sqrt(a_t) z + sqrt(1 - a_t) eps in the head's
        scale, with one t for all patches of a picture: [N, C].
        """
        config, schedule = self.model.config, self.model.schedule
        chosen_M1, place_M1 = uniform(seeds_M, Stream.INPUT_TIMESTEP, 2).split(1, dim=1)
        t_N = (place_M1 * schedule.num_timesteps).long().repeat(1, config.patches).flatten()
        noise_MX = normal(seeds_M, Stream.INPUT_NOISE, config.patches * features_NC.shape[-1])
        noise_NC = noise_MX.view(features_NC.shape)
        noisy_NC = add_noise(schedule, features_NC * config.latent_scale, noise_NC, t_N)
        is_noisy_N1 = (chosen_M1 < self.input_noise).repeat(1, config.patches).view(-1, 1)
        return torch.where(is_noisy_N1, noisy_NC / config.latent_scale, features_NC)

    @torch.no_grad()
    def mixture(self, features_NC: Tensor) -> dict[str, Tensor]:
        """How far the soft embedding of some features is from a lookup of codes, as
        `MixtureFigures` names it; {} for other embeddings.
        """
        config, model = self.model.config, self.model
        if config.embedding != "softmax" or not len(features_NC):
            return {}
        some_XC = features_NC[:: -(-len(features_NC) // MEASURED_PATCHES)]
        return mixture_figures(
            some_XC.to(model.model.codebook_in.weight.device),
            model.model.codebook_in.weight,
            model.code_table_KD,
            temperature=config.embedding_temperature,
        )._asdict()


def chosen_patches(scores_MP: Tensor, targets_N: Tensor | None, share: float) -> Tensor:
    """Places of a share of each picture's patches, those of the lowest scores, at least one of a
    picture that has any: int64 [N].

    Args:
        scores_MP: Random numbers below 1.
        targets_N: The patches to choose from; None for all.
        share: The share.
    """
    targets_MP = torch.ones_like(scores_MP, dtype=torch.bool)
    if targets_N is not None:
        targets_MP = targets_N.view(scores_MP.shape)
    rank_MP = scores_MP.masked_fill(~targets_MP, 1).argsort(1).argsort(1)
    count_M1 = (share * targets_MP.sum(1, keepdim=True)).round().clamp(min=1)
    return (targets_MP & (rank_MP < count_M1)).flatten().nonzero().flatten()


def share(own: float, count: float) -> float:
    """Factor that converts a mean over `own` to the same sum divided by `count`."""
    return own / count if count else 1.0


# Patches of a batch, at most, that the soft embedding's mixture is measured on.
MEASURED_PATCHES = 1024


def gradients_if(weight: float) -> torch.set_grad_enabled:
    """A context without gradients when the weight is 0."""
    return torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled())


class DiscreteLosses(NamedTuple):
    """The one loss of a discrete Chameleon; a scalar."""

    total: Tensor


class DiscreteLoss(nn.Module):
    """Next-token prediction over text and image codes alike: Chameleon's own training (2405.09818).

    Args:
        backbone: Any module with `embed_tokens` that maps input ids to `last_hidden_state`
            (transformers' ChameleonModel).
        lm_head: Maps hidden states to logits over the whole vocabulary.
    """

    def __init__(self, backbone: nn.Module, lm_head: nn.Linear) -> None:
        super().__init__()
        use_packed_attention(backbone)
        self.backbone = backbone
        self.lm_head = lm_head

    def forward(self, rows: BatchLike, counts: Counts | None = None) -> DiscreteLosses:
        """Loss of a batch, as a mean over `counts.text` tokens; over the rows' own by default."""
        own = counts_of(rows)
        documents = document_inputs(
            self.backbone, rows.attention_mask_BS, self.lm_head.weight.dtype
        )
        output = self.backbone(input_ids=rows.ids_BS, use_cache=False, **documents)
        chosen_BS = rows.text_targets_BS != IGNORE
        logits_NV = with_padded_rows(self.lm_head, output.last_hidden_state[chosen_BS])
        loss = text_loss(logits_NV, rows.text_targets_BS[chosen_BS])
        return DiscreteLosses(loss * share(own.text, (counts or own).text))
