"""A prompt: the context to continue, the contexts of the other guidance branches, and a seed.

Classifier-free guidance is a weighted sum over branches (2207.12598; two conditions: 2211.09800,
eq. 3). Each branch asks for the same image in another way: with the whole prompt, without its
words, or without any of it. The head predicts once for each branch, from the same noisy feature;
the weights of the predictions sum to 1.

Legend: N images being drawn, R branches of all of them, M images in a context, P patches, C feature
channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.config import InterleavedConfig


class Guidance(NamedTuple):
    """Guidance as weights of the branches.

    Attributes:
        weights: Weight of each branch, the whole prompt first; they sum to 1.
    """

    weights: tuple[float, ...]

    @classmethod
    def none(cls) -> Guidance:
        """No guidance: the prompt alone."""
        return cls((1.0,))

    @classmethod
    def text(cls, scale: float) -> Guidance:
        """v = vu + s (vc - vu), over (whole prompt, unconditional)."""
        return cls((scale, 1.0 - scale))

    @classmethod
    def edit(cls, text: float, image: float) -> Guidance:
        """v = vu + si (vi - vu) + st (vc - vi), over (whole prompt, image only, unconditional)."""
        return cls((text, image - text, 1.0 - image))

    def weakened(self, share: float) -> Guidance:
        """The guidance with this share of its strength: 1 + share (s - 1) in place of each scale s
        of `text` or `edit`; share 0 is none.
        """
        own, *others = self.weights
        return Guidance((1 + share * (own - 1), *(share * weight for weight in others)))


def mixing(guidances: Sequence[Guidance]) -> Tensor:
    """The guidance weights of several images as one block-diagonal matrix: fp32 [N, R]."""
    return torch.block_diag(
        *(torch.tensor([[float(w) for w in guidance.weights]]) for guidance in guidances)
    )


class Context(NamedTuple):
    """The beginning of a sequence.

    Attributes:
        ids: Token ids, with `<image>` in the slot of each patch.
        features_MPC: Features of the context's images, in reading order; None without images.
    """

    ids: tuple[int, ...]
    features_MPC: Tensor | None = None


class Prompt(NamedTuple):
    """One sequence to write and draw.

    Attributes:
        context: Context that the model continues.
        seed: Seed of the patches' noise and of the sampled text.
        guidance: Weight of the context, then of each of `negatives`.
        negatives: Contexts of the other guidance branches. They are reset at the start of each
            image and attend to that image only.
        noise: Noise of one patch after another, fp32 [C] each ([K] for a discrete Chameleon), in
            place of the seed's noise.
        begun: Features [k, C] of the first patches of an image with which the sequence starts.
    """

    context: Context
    seed: int = 0
    guidance: Guidance = Guidance.none()
    negatives: tuple[Context, ...] = ()
    noise: Iterator[Tensor] | None = None
    begun: Tensor | None = None

    @property
    def contexts(self) -> tuple[Context, ...]:
        """The contexts of all branches, the prompt's own first."""
        return (self.context, *self.negatives)


class Branch(NamedTuple):
    """All tokens of one guidance branch so far, to be read before the branch continues.

    At first these are a context of the prompt. A sequence that had to leave its batch comes back
    with what it has written and drawn since.

    Attributes:
        ids: All tokens, with `<image>` in the slot of each patch.
        features: Features of the patches in reading order, [..., C] each.
        anew: Number of tokens that are kept when an image begins; None keeps all.
        longest: Largest number of tokens that the branch can reach.
    """

    ids: tuple[int, ...]
    features: tuple[Tensor, ...] = ()
    anew: int | None = None
    longest: int = 0

    @property
    def features_NC(self) -> Tensor | None:
        """The features of all patches as rows; None without patches."""
        if not self.features:
            return None
        return torch.cat([each.reshape(-1, each.shape[-1]) for each in self.features])


def without_idle_branches(prompt: Prompt) -> Prompt:
    """The prompt without contexts of weight 0 (as at guidance 1), which have no effect."""
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
    """Checks that the model can continue this prompt.

    Args:
        config: Configuration of the model.
        prompt: Prompt to check.
        must_draw: Whether the context must have room for an image.

    Raises: PromptError that names what does not fit.
    """
    if len(prompt.guidance.weights) != len(prompt.contexts):
        raise PromptError(
            f"{len(prompt.guidance.weights)} guidance weights for {len(prompt.contexts)} contexts",
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
    """Number of tokens of one image: [BOI], its patches, [EOI]."""
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
