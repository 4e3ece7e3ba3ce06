"""What is asked of the model: a context to continue, the contexts it is guided against, and a seed.

Classifier-free guidance is one weighted sum over branches (2207.12598; two conditions: 2211.09800,
eq. 3). A branch is one way of asking for the same image: with the whole prompt, without its words,
without anything. The head predicts once a branch, from the same noisy feature, and the predictions
are added with weights of sum 1.

Legend: N images being drawn, R branches of all of them, C feature channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.config import InterleavedConfig


class Guidance(NamedTuple):
    """The weight of each stream; the first is the whole prompt. They sum to 1."""

    weights: tuple[float, ...]

    @classmethod
    def none(cls) -> Guidance:
        """The prompt alone."""
        return cls((1.0,))

    @classmethod
    def text(cls, scale: float) -> Guidance:
        """v = vu + s (vc - vu), over (whole prompt, unconditional)."""
        return cls((scale, 1.0 - scale))

    @classmethod
    def edit(cls, text: float, image: float) -> Guidance:
        """v = vu + si (vi - vu) + st (vc - vi), over (whole prompt, image only, unconditional)."""
        return cls((text, image - text, 1.0 - image))


def mixing(guidances: Sequence[Guidance]) -> Tensor:
    """The weighted sums of several pictures as one matrix, block by block: fp32 [N, R]."""
    return torch.block_diag(*(torch.tensor([guidance.weights]) for guidance in guidances))


class Context(NamedTuple):
    """The beginning of a sequence.

    ids: Token ids, `<image>` in each patch's slot.
    features_MPC: Features of the images in it, in reading order; None without images.
    """

    ids: tuple[int, ...]
    features_MPC: Tensor | None = None


class Prompt(NamedTuple):
    """One row to write and draw.

    context: What the model goes on from.
    seed: Of the noise its patches start from and of its sampled text.
    guidance: Weight of the context, then of each of `against`.
    against: What pictures are guided away from or between. Each begins anew with every picture, and
        sees only that one.
    noise: Noise of patch after patch, fp32 [C] each (a discrete Chameleon's [K]), in place of the
        seed's.
    begun: Features [k, C] of the first patches of a picture that the row goes on with at once.
    """

    context: Context
    seed: int = 0
    guidance: Guidance = Guidance.none()
    negatives: tuple[Context, ...] = ()
    noise: Iterator[Tensor] | None = None
    begun: Tensor | None = None

    @property
    def contexts(self) -> tuple[Context, ...]:
        """All streams of the row, the one that writes first."""
        return (self.context, *self.negatives)


class Branch(NamedTuple):
    """A sequence as far as it has come, to be read before it goes on.

    A stream of a row that has only begun is a context of its prompt; a row that had to leave its
    place comes back with what it has written and drawn since.

    ids: All its tokens, `<image>` in each patch's slot.
    features: Of its patches in reading order, [..., C] each.
    anew: How many of its tokens it keeps when a picture begins; None is all.
    longest: More tokens than this it will not have.
    """

    ids: tuple[int, ...]
    features: tuple[Tensor, ...] = ()
    anew: int | None = None
    longest: int = 0

    @property
    def features_NC(self) -> Tensor | None:
        """All its features as rows; None where it has no patches."""
        if not self.features:
            return None
        return torch.cat([each.reshape(-1, each.shape[-1]) for each in self.features])


def without_idle_branches(prompt: Prompt) -> Prompt:
    """The prompt without contexts of weight 0, which would be read for nothing (guidance 1)."""
    own, *others = prompt.guidance.weights
    kept = [
        (weight, context)
        for weight, context in zip(others, prompt.negatives, strict=True)
        if weight != 0
    ]
    return prompt._replace(
        guidance=Guidance((own, *(weight for weight, _ in kept))),
        negatives=tuple(context for _, context in kept),
    )


def check_prompt(config: InterleavedConfig, prompt: Prompt, *, must_draw: bool) -> None:
    """Whether the model can go on from this prompt, and draw at least its first picture if it must.

    Raises: PromptError naming what does not fit.
    """
    if len(prompt.guidance.weights) != len(prompt.contexts):
        raise PromptError(
            f"{len(prompt.guidance.weights)} guidance weights for {len(prompt.contexts)} streams",
            where="prompt.guidance",
            hint="give one weight for the context and one for each context it is guided against",
        )
    for context in prompt.contexts:
        _check_context(config, context)
        needed = room_for_image(config) if must_draw else 1
        if len(context.ids) + needed > config.max_position_embeddings:
            what = (
                f"a picture takes {needed} more"
                if must_draw
                else "an answer needs at least one more"
            )
            raise PromptError(
                f"the prompt is {len(context.ids)} tokens long, {what}, "
                f"and the model reads {config.max_position_embeddings} in all",
                where="prompt",
                hint="shorten the text or give fewer pictures",
            )


def room_for_image(config: InterleavedConfig) -> int:
    """Tokens that one image takes: [BOI], its patches, [EOI]."""
    return config.patches + 2


def _check_context(config: InterleavedConfig, context: Context) -> None:
    if not context.ids:
        raise PromptError("the prompt is empty", where="prompt", hint="it begins at least with bos")
    worst = max(context.ids, key=lambda token: -1 if 0 <= token < config.vocab_size else 1)
    if not 0 <= worst < config.vocab_size:
        raise PromptError(
            f"token id {worst} is outside the vocabulary of {config.vocab_size}", where="prompt"
        )
    slots = context.ids.count(config.image_token_id)
    features = context.features_MPC
    given = 0 if features is None else features.shape[0] * features.shape[1]
    if slots != given:
        raise PromptError(
            f"the prompt has {slots} image slots but {given} image features were given",
            where="prompt",
            hint=f"each picture takes {config.patches} slots and as many features",
        )
